"""Suppression of astropy's warnings: reading a file prints nothing on the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from astropy import log
from astropy.utils.exceptions import AstropyWarning


@contextmanager
def quiet_astropy() -> Iterator[None]:
    """Keep astropy's warnings off stderr, and the remarks of its log (SIP without -SIP, for example) off stdout.

    One warning becomes an error: a header that astropy cannot parse at all. Otherwise astropy continues with a
    corrupted HDU, and in a gzipped file finds the same HDU again and again.
    """
    level = log.level
    log.setLevel("WARNING")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.filterwarnings("error", "The HDU will be treated as corrupted", AstropyWarning)
            yield
    finally:
        log.setLevel(level)
