"""Repair of an archive: shards from the survey, the index from the shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from archive_builder.builder.driver import BuildReport, build
from archive_builder.errors import ArchiveError
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.verify import Finding


def repair(
    archive: str | Path,
    findings: Iterable[Finding],
    recipe: str | Path | None = None,
    workers: int | None = None,
) -> BuildReport | None:
    """Repair the damage that :func:`archive_builder.maintain.verify.verify` found.

    A damaged index is rebuilt from the shards; damaged shards are built again from the survey.
    A damaged index can hide a missing shard. So without a known damaged shard an ordinary build follows: it builds
    the tiles that lack their shard, and those that are new or changed.

    Parameters
    ----------
    archive : str or Path
        Folder of the archive.
    findings : iterable of Finding
    recipe : str or Path, optional
        Recipe of the survey; needed to repair shards.
    workers : int, optional
        Maximum worker processes (default: one per CPU); a build starts fewer if memory is short.

    Returns
    -------
    BuildReport or None
        Report of the build; None without a recipe.

    Raises
    ------
    ArchiveBuilderError
        A shard is damaged and there is no recipe, or the index or a build fails.
    """
    findings = list(findings)
    broken = {finding.tile for finding in findings if finding.kind == "shard" and finding.tile}
    if broken and recipe is None:
        raise ArchiveError(f"archive {archive}: {len(broken)} shards are damaged: give the survey's recipe as --survey")
    if any(finding.kind == "index" for finding in findings):
        reindex(archive, workers=workers)
    if recipe is None:
        return None
    return build(recipe, archive, tiles=sorted(broken), force=bool(broken), workers=workers)
