"""The cards of a cutout's header, compared with astropy's."""

import warnings

from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from hypothesis import example, given
from hypothesis import strategies as st

from archive_builder.store.headers import Card

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(st.from_regex(r"\A[A-Z][A-Z0-9_]{0,7}\Z"), NUMBERS | TEXT, TEXT)
@example("A", 0, " ")
def test_a_card_is_written_as_astropy_writes_it(keyword: str, value: int | float | bool | str, comment: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)  # a comment too long for its card
        assert Card(keyword, value, comment).text == fits.Card(keyword, value, comment).image
