"""Tables that astropy reads: FITS, VOTable, ECSV and IPAC."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from astropy.io import fits, votable
from astropy.table import Table
from astropy.table.meta import YamlParseError, get_header_from_yaml

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
    """One table of a VOTable file. Opening the file already reads all rows."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        with unpacked(self.path) as file:
            tables = list(votable.parse(file, verify="ignore").iter_tables())
        if not tables:
            raise TableError("holds no table: give the file of the table")
        named = [table for table in tables if holding and set(holding) <= {field.name for field in table.fields}]
        chosen = named[0] if named else max(tables, key=lambda table: len(table.array))
        self._ids = [field.ID for field in chosen.fields]
        self._array = chosen.array
        self.units = {field.name: str(field.unit) for field in chosen.fields if field.unit is not None}
        return tuple(field.name for field in chosen.fields)

    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        return [self._array[self._ids[number]] for number in numbers]


def _header(path: Path, comments: tuple[bytes, ...]) -> tuple[list[str], str]:
    """Return the first lines of a text, which have such starts, and the line after them."""
    lines: list[str] = []
    with unpacked(path) as file:
        for line in file:
            content = line.removeprefix(BOM)
            if not content.startswith(comments):
                return lines, content.decode().rstrip("\r\n")
            lines.append(content.decode().rstrip("\r\n"))
    return lines, ""


class Ecsv(TableFile):
    """A table in astropy's enhanced CSV."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        lines, _ = _header(self.path, (b"#",))
        try:
            columns = get_header_from_yaml([line[2:] for line in lines if not line.startswith("# %ECSV")])["datatype"]
        except YamlParseError:
            raise ValueError("its header is not YAML") from None
        self.units = {column["name"]: str(column["unit"]) for column in columns if column.get("unit")}
        return tuple(column["name"] for column in columns)

    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        # astropy's remarks would join columns to objects of other names: ra and dec to a SkyCoord.
        content = re.sub(r"(?m)^# meta:.*\n(?:# [ -].*\n)*", "", read_text(self.path), count=1)
        table = Table.read(content, format="ascii.ecsv", guess=False)
        return [table[self.names[number]] for number in numbers]


class Ipac(TableFile):
    """A table of IPAC's archives."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        lines, first = _header(self.path, (b"\\", b"|"))
        head = Table.read([*lines, first, ""], format="ascii.ipac", guess=False)
        self.units = {name: str(head[name].unit) for name in head.colnames if head[name].unit is not None}
        return tuple(head.colnames)

    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        table = Table.read(read_text(self.path), format="ascii.ipac", guess=False)
        return [table[self.names[number]] for number in numbers]
