"""Lists of bands in every accepted form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from archive_builder.errors import RequestError


def band_names(bands: str | Iterable[str], known: Sequence[str], owner: str = "the archive") -> tuple[str, ...]:
    """Return the bands that a request names, in its order.

    A text that is the name of a known band is that band. A text with commas is split at them. In any other text every
    letter is a band.

    Parameters
    ----------
    bands : str or iterable of str
        ``"gri"``, ``"g,r"``, ``"F160W,F814W"``, or a list, tuple or numpy array of names. A name may be repeated.
    known : sequence of str
        The bands to choose from.
    owner : str
        Where these bands come from, for the error.

    Returns
    -------
    tuple of str

    Raises
    ------
    RequestError
        The request names no band, or an unknown one.

    Examples
    --------
    >>> band_names("gri", ["g", "r", "i", "z"])
    ('g', 'r', 'i')
    >>> band_names("F160W,F814W", ["F160W", "F606W", "F814W"])
    ('F160W', 'F814W')
    """
    if isinstance(bands, str) or not isinstance(bands, Iterable):
        names = _split(str(bands), known)
    else:
        names = tuple(map(str, np.ravel(bands) if isinstance(bands, np.ndarray) else bands))
    if not names:
        raise RequestError(f"no band is given: {owner} has {', '.join(known)}")
    for name in names:
        if name not in known:
            raise RequestError(f"{owner} has no band {name!r}: it has {', '.join(known)}")
    return names


def _split(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the names in a text."""
    text = text.strip()
    if "," in text and text not in known:
        return tuple(name.strip() for name in text.split(","))
    # A text without a single known letter is one misspelt name: the error shows all of it.
    if text not in known and any(letter in known for letter in text):
        return tuple(text)
    return (text,) if text else ()
