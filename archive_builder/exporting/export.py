"""Bulk requests: cutouts for every row of a list, as files or packed, and a manifest with an answer for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from archive_builder.exporting.folder import Options, export_folder, remove_temporary_files
from archive_builder.exporting.job import ExportJob, JobResult, run_job
from archive_builder.exporting.manifest import write_manifest
from archive_builder.exporting.names import check_prefix
from archive_builder.exporting.output import Output, check_bands, check_formats, plain_size
from archive_builder.exporting.plan import Plan, make_plan
from archive_builder.exporting.request_list import ANY_COLUMNS, ColumnNames, Outcome, read_requests
from archive_builder.geometry import Size
from archive_builder.run.pool import end_if_starting, run_jobs
from archive_builder.serve.archive import Archive
from archive_builder.serve.snapshot import Bands
from archive_builder.serve.style import USUAL_STYLE, Style
from archive_builder.units import whole_number


@dataclass(frozen=True)
class ExportReport:
    """Result of an export."""

    directory: str
    """Folder of the export."""

    rows: int = 0
    """Rows of the list."""

    done: int = 0
    """Rows with a cutout."""

    failures: dict[str, int] = field(default_factory=dict)
    """Rows without a cutout, by reason. The manifest names the rows."""

    first_error: str | None = None
    """Error message of the first row that failed because of one."""

    made: int = 0
    """Files, or pieces, written."""

    kept: int = 0
    """Files, or pieces, of an earlier run."""


def export(
    archive: str | Path,
    requests: str | Path,
    directory: str | Path,
    *,
    formats: str | Sequence[str] = (),
    size: Size | None = None,
    bands: Bands | None = None,
    prefix: str = "",
    pack: str | None = None,
    style: Style = USUAL_STYLE,
    columns: ColumnNames = ANY_COLUMNS,
    workers: int = 1,
    on_start: Callable[[int], None] = lambda rows: None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> ExportReport:
    """Write the cutouts for every row of a list, and a manifest. A repeat writes only what is missing.

    The function starts processes: a script must call it under ``if __name__ == "__main__"``.

    Parameters
    ----------
    archive : str or Path
        Folder of the archive.
    requests : str or Path
        List of objects or positions, ``-`` for standard input: see
        :func:`archive_builder.exporting.request_list.read_requests`.
    directory : str or Path
        Folder for the files: a new folder, or the folder of the same export to resume.
    formats : str or sequence of str
        Any of ``fits``, ``fits-bands``, ``png``, ``jpg``, ``tiff``, ``npy``, ``npz``; default ``fits``, or ``npy``
        for a WebDataset. An HDF5 pack ignores them: it holds arrays, no files.
    size : int, str, Quantity, or a pair ``(ny, nx)`` of them, optional
        Size of the cutouts for rows without a size of their own: px or an angle; default the archive's size.
    bands : str or sequence of str, optional
        Bands in the order wanted; default all.
    prefix : str
        Start of every file name.
    pack : ``"hdf5"`` or ``"webdataset"``, optional
        Pack about 1000 cutouts into a file, instead of one or more files for each cutout.
    style : Style
        Look of pictures.
    columns : ColumnNames
        Columns of the list, if their names are unusual.
    workers : int
        Maximum worker processes.
    on_start : callable
        Called once with the number of rows to serve.
    on_rows : callable
        Called after each job with its number of rows.

    Returns
    -------
    ExportReport
        Counts of rows and files. A row that cannot be served raises no error; its reason is in the manifest.

    Raises
    ------
    RequestError
        The list cannot be read, an option is impossible, the folder holds another export or other files, or the call
        is not under ``if __name__ == "__main__"``.
    ArchiveError
        The folder is no archive.
    ArchiveBuilderError
        The files cannot be written. Run the export again to resume it.

    Examples
    --------
    >>> report = export("archive", "list.csv", "cutouts", formats=["fits", "png"], size="0.5 arcmin")
    >>> report.done, report.failures
    (9185, {'not in the archive': 1, 'skipped for noise': 639, 'skipped for blank': 176})
    """
    end_if_starting()
    check_prefix(prefix)
    workers = whole_number(workers, "workers", 1)
    listed = read_requests(Path(requests), columns)
    with Archive(archive) as opened:
        output = Output(
            archive=Path(archive),
            directory=Path(directory),
            formats=check_formats(formats, pack, style),
            bands=check_bands(bands, opened),
            size=plain_size(size),
            prefix=prefix,
            pack=pack,
            style=style,
        )
        plan = make_plan(opened, listed, output)
    with export_folder(output.directory, Options.of(plan)):
        return _run(plan, workers, on_start, on_rows)


def _run(plan: Plan, workers: int, on_start: Callable[[int], None], on_rows: Callable[[int], None]) -> ExportReport:
    """Run the jobs, and write the manifest."""
    on_start(len(plan.order))
    made = kept = 0
    is_any_lost = False
    for result in run_jobs(run_job, plan.jobs(), min(workers, plan.job_count), _lost):
        if result.error is not None:
            raise result.error
        plan.answers.take(result)
        made, kept = made + result.made, kept + result.kept
        is_any_lost |= result.is_lost
        on_rows(len(result.rows))
    if is_any_lost:
        remove_temporary_files(plan.output.directory)
    write_manifest(plan)
    return ExportReport(
        directory=str(plan.output.directory),
        rows=len(plan.requests),
        done=plan.answers.done(),
        failures=plan.answers.failures(),
        first_error=plan.answers.first_error(),
        made=made,
        kept=kept,
    )


def _lost(job: ExportJob, cause: str) -> JobResult:
    """Return the result of a job that its worker did not finish."""
    result = JobResult.of(job)
    result.is_lost = True
    result.fail(list(range(len(job.rows))), Outcome.FAILED, f"{cause}: run the export again")
    return result
