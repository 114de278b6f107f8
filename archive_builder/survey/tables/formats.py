"""Formats of tables: by the content of the file, else by the ending of its name."""

from __future__ import annotations

import stat
from collections.abc import Collection
from pathlib import Path

from archive_builder.errors import TableError
from archive_builder.survey.tables.astropy_tables import Ecsv, Fits, Ipac, VoTable
from archive_builder.survey.tables.content import HEAD, format_of, unpacked
from archive_builder.survey.tables.parquet_table import Parquet
from archive_builder.survey.tables.table import TableFile, table_errors
from archive_builder.survey.tables.text_table import TextTable

FORMATS: dict[str, type[TableFile]] = {
    "fits": Fits,
    "parquet": Parquet,
    "votable": VoTable,
    "ipac": Ipac,
    "ecsv": Ecsv,
    "text": TextTable,
}
"""Formats by name."""

ENDINGS = {
    **dict.fromkeys([".csv", ".txt", ".tsv", ".dat", ".ascii", ".tbl"], "text"),
    **dict.fromkeys([".fits", ".fit", ".fts", ".cat", ".ldac"], "fits"),
    **dict.fromkeys([".parquet", ".parq"], "parquet"),
    **dict.fromkeys([".xml", ".vot", ".votable"], "votable"),
    ".ipac": "ipac",
    ".ecsv": "ecsv",
}
"""Formats by the ending of the file name, in lower case, for files whose content shows none."""

PACKED = (".gz", ".bz2", ".xz", ".fz")
"""Endings of compressed files: the ending before counts."""


def open_table(path: Path, holding: Collection[str] = ()) -> TableFile:
    """Open a table.

    Parameters
    ----------
    path : Path
        The content gives the format and the compression (gzip, bzip2, xz). The ending of the name, see `ENDINGS`,
        gives the format of a damaged or empty file.
    holding : collection of str
        Columns that tell the table in a FITS file or a VOTable with several tables: the first table that has them
        all, else the largest. SExtractor's LDAC has another table before the catalogue.

    Raises
    ------
    TableError
        The format is unknown, the file cannot be read, or it holds no table.

    Examples
    --------
    >>> table = open_table(Path("cat.fits"))
    >>> table.names, table.rows
    (('ID', 'RA', 'DEC'), 40000)
    >>> table.read(["ID"])["ID"].dtype
    dtype('int64')
    """
    with table_errors():
        if not stat.S_ISREG(path.stat().st_mode):
            raise TableError("is not a regular file: give the file of a table")
        with unpacked(path) as file:
            found = format_of(file.read(HEAD))
        return FORMATS[_confirmed(found, path)](path, holding)


def _confirmed(found: str | None, path: Path) -> str:
    """Return the format of a file: of its content, unless the content is any text or unknown and the name says more."""
    endings = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED]
    named = ENDINGS.get(endings[-1]) if endings else None
    if found not in (None, "text"):
        return str(found)
    if found == "text" and (named in (None, "text") or endings[-1] == ".cat"):
        return "text"
    if named is None:
        raise TableError(
            "the content shows no known format: give FITS, Parquet, VOTable, ECSV, IPAC, or CSV and other text in UTF-8"
        )
    return named
