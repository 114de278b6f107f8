"""Celestial frames: positions between ICRS and the frame of an image's WCS.

Positions of catalogues and requests are ICRS. FK5 of equinox J2000 is taken as ICRS: many headers say FK5 and mean
ICRS, and the two differ by about 20 mas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import TileError

if TYPE_CHECKING:
    from astropy.coordinates import BaseCoordinateFrame
    from astropy.wcs import WCS

Degrees = NDArray[np.float64]
"""Angles, deg."""

OTHER_NAMES = {"J2000": "FK5", "B1950": "FK4", "ICRF": "ICRS", "ICRF2": "ICRS", "ICRF3": "ICRS"}
"""Reference system meant by values of RADESYS that FITS does not define."""

EQUINOXES = (1800.0, 2100.0)
"""Range of an equinox, years. A value outside is no equinox."""


def frame_of(wcs: WCS) -> BaseCoordinateFrame | None:
    """Return the celestial frame of a WCS, by its CTYPE, RADESYS and EQUINOX; None for ICRS and for FK5 J2000.

    The defaults are those of FITS (Calabretta & Greisen 2002, A&A 395, 1077, sections 3.1 and 3.2): without RADESYS an
    equinox before 1984 means FK4, a later one FK5, none ICRS. astropy's ``wcs_to_celestial_frame`` is not used: for
    galactic coordinates with a card RADESYS it returns the equatorial frame of that card, and it has no ecliptic frame.

    Raises
    ------
    TileError
        The frame is not supported.
    """
    kind, radesys = wcs.wcs.lngtyp.strip(), wcs.wcs.radesys.strip().upper()
    equinox = None if np.isnan(wcs.wcs.equinox) else float(wcs.wcs.equinox)
    system = OTHER_NAMES.get(radesys, radesys) or ("ICRS" if equinox is None else "FK4" if equinox < 1984 else "FK5")
    if system != "ICRS" and equinox is not None and not EQUINOXES[0] <= equinox <= EQUINOXES[1]:
        raise TileError(f"the equinox of its WCS is {equinox:g}: correct EQUINOX")
    if kind == "RA" and (system == "ICRS" or (system == "FK5" and equinox in (None, 2000.0))):
        return None
    frame = _frame(kind, system, equinox)
    if frame is None:
        raise TileError(
            f"its WCS is in the frame {kind or 'without a name'} {system}, which cannot be converted to ICRS: "
            "correct CTYPE, RADESYS and EQUINOX, or resample the image to ICRS"
        )
    return frame


def _frame(kind: str, system: str, equinox: float | None) -> BaseCoordinateFrame | None:
    """Return astropy's frame of a longitude type and a reference system; None if neither fits."""
    from astropy.coordinates import FK4, FK5, BarycentricMeanEcliptic, FK4NoETerms, Galactic, Supergalactic
    from astropy.time import Time

    if kind == "GLON":
        return Galactic()
    if kind == "SLON":
        return Supergalactic()
    if kind == "ELON" and system in ("ICRS", "FK5"):
        return BarycentricMeanEcliptic(equinox=Time(equinox or 2000.0, format="jyear"))
    if kind == "RA" and system == "FK5":
        return FK5(equinox=Time(equinox or 2000.0, format="jyear"))
    if kind == "RA" and system in ("FK4", "FK4-NO-E"):
        return (FK4 if system == "FK4" else FK4NoETerms)(equinox=Time(equinox or 1950.0, format="byear"))
    return None


def from_icrs(wcs: WCS, ra: Degrees, dec: Degrees) -> tuple[Degrees, Degrees]:
    """Return ICRS positions in the frame of a WCS, longitude and latitude, deg.

    Parameters
    ----------
    wcs : WCS
    ra, dec : ndarray of float64
        Deg, ICRS; of one shape. NaN stays NaN.

    Raises
    ------
    TileError
        The frame of the WCS is not supported.
    """
    frame = frame_of(wcs)
    return (ra, dec) if frame is None else transformed("icrs", frame, ra, dec)


def to_icrs(wcs: WCS, longitude: Degrees, latitude: Degrees) -> tuple[Degrees, Degrees]:
    """Return positions in the frame of a WCS as RA and Dec, deg, ICRS; the inverse of :func:`from_icrs`.

    Raises
    ------
    TileError
        The frame of the WCS is not supported.
    """
    frame = frame_of(wcs)
    return (longitude, latitude) if frame is None else transformed(frame, "icrs", longitude, latitude)


def transformed(
    source: BaseCoordinateFrame | str, target: BaseCoordinateFrame | str, longitude: Degrees, latitude: Degrees
) -> tuple[Degrees, Degrees]:
    """Return positions of one frame in another.

    Parameters
    ----------
    source, target : frame or str
        Frames of astropy, or their names.
    longitude, latitude : ndarray of float64
        Deg; of one shape.

    Returns
    -------
    longitude, latitude : ndarray of float64
        Deg; NaN for a position that is not on the sky.
    """
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    known = np.isfinite(longitude) & np.isfinite(latitude) & (np.abs(latitude) <= 90)
    there = SkyCoord(
        np.where(known, longitude, 0.0) * u.deg, np.where(known, latitude, 0.0) * u.deg, frame=source
    ).transform_to(target)
    lon, lat = there.spherical.lon.deg, there.spherical.lat.deg
    return np.where(known, lon, np.nan), np.where(known, lat, np.nan)
