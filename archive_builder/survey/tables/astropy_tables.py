"""Tables that astropy reads: FITS, VOTable, ECSV and IPAC."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from astropy.io import fits, votable
from astropy.table import Table

from archive_builder.errors import TableError
from archive_builder.survey.tables.content import BOM, is_packed, read_text, unpacked
from archive_builder.survey.tables.table import TableFile, Where


class Fits(TableFile):
    """One table of a FITS file."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        with fits.open(self.path, memmap=False) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            if not tables:
                raise TableError("holds no table: give the file of the table")
            named = [hdu for hdu in tables if holding and set(holding) <= set(hdu.columns.names)]
            chosen = named[0] if named else max(tables, key=lambda hdu: hdu.header["NAXIS2"])
            self._hdu = hdus.index(chosen)
            if not is_packed(self.path) and self.path.suffix.lower() != ".fz":
                self.rows = int(chosen.header["NAXIS2"])
            self.units = {str(column.name): str(column.unit) for column in chosen.columns if column.unit}
            return tuple(str(name or "") for name in chosen.columns.names)  # a damaged header may lack names

    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        with fits.open(self.path, memmap=False) as hdus:
            hdu = hdus[self._hdu]
            # astropy's comments would join columns to objects of other names: ra and dec to a SkyCoord.
            hdu.header.remove("COMMENT", ignore_missing=True, remove_all=True)
            table = Table.read(hdu)
        return [table[self.names[number]] for number in numbers]


class VoTable(TableFile):
    """One table of a VOTable file. Opening the file reads the file."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        with unpacked(self.path) as file:
            tables = list(votable.parse(file, verify="ignore").iter_tables())
        if not tables:
            raise TableError("holds no table: give the file of the table")
        named = [table for table in tables if holding and set(holding) <= {field.name for field in table.fields}]
        chosen = named[0] if named else max(tables, key=lambda table: len(table.array))
        self.rows = len(chosen.array)
        self._ids = [field.ID for field in chosen.fields]
        self._array = chosen.array
        self.units = {field.name: str(field.unit) for field in chosen.fields if field.unit is not None}
        return tuple(field.name for field in chosen.fields)

    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        return [self._array[self._ids[number]] for number in numbers]


class _Ascii(TableFile):
    """A text table that describes its columns."""

    format: ClassVar[str]
    """Name of the format in astropy."""

    comments: ClassVar[tuple[bytes, ...]]
    """First characters of the header's lines."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        lines = []
        with unpacked(self.path) as file:
            for line in file:
                lines.append(line.removeprefix(BOM).decode().rstrip("\r\n"))
                if not line.removeprefix(BOM).startswith(self.comments):
                    break
        head = Table.read([*lines, ""], format=self.format, guess=False)
        self.units = {name: str(head[name].unit) for name in head.colnames if getattr(head[name], "unit", None)}
        return tuple(head.colnames)

    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        table = Table.read(read_text(self.path), format=self.format, guess=False)
        return [table[self.names[number]] for number in numbers]


class Ecsv(_Ascii):
    """A table in astropy's enhanced CSV."""

    format = "ascii.ecsv"
    comments = (b"#",)


class Ipac(_Ascii):
    """A table of IPAC's archives."""

    format = "ascii.ipac"
    comments = (b"\\", b"|")
