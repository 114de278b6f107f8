"""FITS files and tables as surveys write them: projections, compression, columns."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed import NO_DITHER, SUBTRACTIVE_DITHER_2
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder.survey.demo.camera import FloatArray
from archive_builder.survey.fits_warnings import quiet_astropy

Matrix = Literal["CD", "CDELT", "PC001001"]
"""Cards of the pixel scale: a CD matrix, CDELT with CROTA2, or CDELT with the PC matrix of an early FITS draft."""


def sky_cards(
    ra: float,
    dec: float,
    scale: float,
    crpix: tuple[float, float],
    matrix: Matrix = "CD",
    projection: str = "TAN",
    **further: Any,
) -> fits.Header:
    """Return the cards of a WCS with north up and east left.

    Parameters
    ----------
    ra, dec : float
        Position of the reference pixel, deg.
    scale : float
        Pixel scale, arcsec.
    crpix : (x, y)
        Reference pixel, from 1.
    matrix : Matrix
        Form of the pixel scale.
    projection : str
        Code of the projection.
    **further
        Further cards: RADESYS, EQUINOX.
    """
    step = scale / 3600.0
    forms: dict[str, dict[str, float]] = {
        "CD": {"CD1_1": -step, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": step},
        "CDELT": {"CDELT1": -step, "CDELT2": step, "CROTA2": 0.0},
        "PC001001": {
            "CDELT1": step,
            "CDELT2": step,
            "PC001001": -1.0,
            "PC001002": 0.0,
            "PC002001": 0.0,
            "PC002002": 1.0,
        },
    }
    cards = {"CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}", "CRVAL1": ra, "CRVAL2": dec}
    cards |= {"CRPIX1": float(crpix[0]), "CRPIX2": float(crpix[1]), **forms[matrix]}
    return fits.Header([*cards.items(), *further.items()])


def with_cards(header: fits.Header, **cards: Any) -> fits.Header:
    """Return a copy of a header with further cards."""
    return fits.Header([*header.cards, *cards.items()])


def positions(header: fits.Header, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return RA and Dec of pixel positions from 0, deg."""
    with quiet_astropy():
        ra, dec = WCS(header).celestial.all_pix2world(x, y, 0)
    return ra, dec


def image(data: NDArray[Any], header: fits.Header | None = None, name: str | None = None) -> fits.ImageHDU:
    """Return an image without compression."""
    return fits.ImageHDU(data, header, name=name)


def fpacked(
    data: NDArray[Any],
    header: fits.Header | None = None,
    name: str | None = None,
    method: str = "RICE_1",
    quantize_level: float = 16.0,
) -> fits.CompImageHDU:
    """Return an image as fpack compresses it; SUBTRACTIVE_DITHER_2 keeps an exact 0. Level 0 is without loss."""
    return fits.CompImageHDU(
        data,
        header,
        name=name,
        compression_type=method,
        quantize_level=quantize_level,
        quantize_method=SUBTRACTIVE_DITHER_2 if quantize_level else NO_DITHER,
        dither_seed=1,
    )


def write(path: Path, *hdus: Any, primary: fits.PrimaryHDU | None = None) -> None:
    """Write a FITS file: a primary HDU, empty by default, and extensions. A name that ends in ``.gz`` is gzipped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    fits.HDUList([primary or fits.PrimaryHDU(), *hdus]).writeto(buffer)
    content = buffer.getvalue()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_table(path: Path, columns: Mapping[str, Any], name: str | None = None) -> None:
    """Write a table in the format of the name's ending: FITS, CSV or Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Table({key: np.asarray(values) for key, values in columns.items()})
    if path.suffix == ".fits":
        hdu = fits.table_to_hdu(table)
        hdu.name = name or ""
        write(path, hdu)
    elif path.suffix == ".parquet":
        from pyarrow import Table as ArrowTable
        from pyarrow import parquet

        parquet.write_table(ArrowTable.from_pydict({key: table[key].tolist() for key in table.colnames}), path)
    else:
        table.write(path, format="ascii.csv", overwrite=False)


def stacked(tables: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Return the rows of several tables with the same columns as one table."""
    return {key: np.concatenate([np.asarray(table[key]) for table in tables]) for key in tables[0]}
