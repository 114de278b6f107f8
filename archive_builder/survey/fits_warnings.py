"""What astropy remarks on while it reads a file: silence, or an error, but no line on the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from astropy import log
from astropy.utils.exceptions import AstropyWarning


@contextmanager
def no_remarks() -> Iterator[None]:
    """Keep astropy's warnings off stderr, and its log's remarks (on SIP without -SIP, say) off stdout.

    Only a header that cannot be understood at all becomes an error: astropy would go on with a corrupted HDU,
    and in a gzipped file come upon it again without end.
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
