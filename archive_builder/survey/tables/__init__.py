"""The one reader of tables: columns of FITS, VOTable, ECSV, CSV, ASCII, IPAC and Parquet files in one common form."""

from archive_builder.survey.tables.columns import (
    Column,
    Columns,
    as_text,
    holds_integers,
    holds_numbers,
    holds_text,
    is_missing,
    kind,
)
from archive_builder.survey.tables.formats import open_table
from archive_builder.survey.tables.table import Rest, TableFile, Where

__all__ = [
    "Column",
    "Columns",
    "Rest",
    "TableFile",
    "Where",
    "as_text",
    "holds_integers",
    "holds_numbers",
    "holds_text",
    "is_missing",
    "kind",
    "open_table",
]
