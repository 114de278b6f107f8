"""Mending an archive: its shards from the survey, its index from the shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from archive_builder.builder.driver import BuildReport, build
from archive_builder.errors import ArchiveError
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.verify import Finding


def repair(archive: Path, findings: Iterable[Finding], recipe: Path | None, workers: int = 1) -> BuildReport | None:
    """Mend what :func:`archive_builder.maintain.verify.verify` found.

    The index is made anew from the shards; shards are built again from the survey.

    Parameters
    ----------
    archive : Path
    findings : iterable of Finding
    recipe : Path or None
        Of the survey; without it no shard can be mended.
    workers : int
        Processes, at most.

    Returns
    -------
    BuildReport or None
        Of the tiles that were built again, if any had to be.

    Raises
    ------
    ArchiveBuilderError
        Something cannot be mended.
    """
    findings = list(findings)
    broken = {finding.tile for finding in findings if finding.kind == "shard" and finding.tile}
    if broken and recipe is None:
        raise ArchiveError(f"archive {archive}: {len(broken)} shards are damaged: give the survey's recipe as --survey")
    if any(finding.kind == "index" for finding in findings):
        reindex(archive, workers)
    if recipe is None:
        return None
    return build(recipe, archive, tiles=sorted(broken), force=bool(broken), workers=workers)
