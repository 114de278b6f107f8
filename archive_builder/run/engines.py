"""Engines by name."""

from __future__ import annotations

from pathlib import Path

from archive_builder.errors import RequestError
from archive_builder.run.engine import Engine

PARSL_FOLDER = "parsl"
"""Folder in an archive for Parsl's logs of the last build."""


def choose_engine(name: str, *, parsl_config: str | Path | None = None, archive: str | Path) -> Engine | None:
    """Return an engine by its name; None for processes of this machine: the build chooses their number.

    Parameters
    ----------
    name : str
        One of `archive_builder.choices.ENGINES`.
    parsl_config : str, Path or None
        Python file that defines Parsl's ``config``; required for ``parsl``.
    archive : str or Path
        Folder of the archive: all hosts share it, so Parsl's logs go there.

    Raises
    ------
    RequestError
        Name and configuration do not go together, or a package is not installed.
    """
    if (name == "parsl") != (parsl_config is not None):
        raise RequestError("--engine parsl and --parsl-config FILE go together: give both or neither")
    try:
        if parsl_config is not None:
            from archive_builder.run.parsl_engine import ParslEngine

            return ParslEngine(Path(parsl_config), Path(archive).absolute() / PARSL_FOLDER)
        if name == "mpi":
            from archive_builder.run.mpi_engine import MpiEngine

            return MpiEngine()
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in ("parsl", "mpi4py"):
            raise
        raise RequestError(f"--engine {name} needs {missing}: pip install '.[{name}]'") from None
    return None
