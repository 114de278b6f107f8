"""How pictures of cutouts look."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from archive_builder.errors import RequestError

Color = Literal["auto", "survey", "lupton"]
"""Where a picture's colours come from: the survey's own picture, Lupton's composite, or the first of them there is."""

Compression = Literal["jpeg", "lzw", "none"]
"""How a TIFF is packed."""


@dataclass(frozen=True)
class Style:
    """How a picture looks."""

    color: Color = "auto"
    """``survey``: the tile's own picture, as STIFF made it; ``lupton``: a composite of three bands; ``auto``:
    the survey's own if the archive has it."""

    rgb: str | tuple[str, ...] | None = None
    """The composite's three bands, red first; by default i, r, g, or else three of the cutout's."""

    stretch: float = 60.0
    """Lupton's linear stretch, in units of flux at zero point 30: the sky's noise in DES is 2 to 5 of them."""

    softening: float = 8.0
    """Lupton's Q: how early the stretch turns from linear to logarithmic."""

    minimum: float = -5.0
    """What is black, in the same units."""

    compression: Compression = "jpeg"
    """Of a TIFF."""

    def __post_init__(self) -> None:
        """Refuse what no picture can look like.

        Raises
        ------
        RequestError
            A name is none of those above, or a number is out of its range.
        """
        for name, choices in (("color", get_args(Color)), ("compression", get_args(Compression))):
            if getattr(self, name) not in choices:
                raise RequestError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(choices)}")
        numbers = self.stretch, self.softening, self.minimum
        if not (all(map(math.isfinite, numbers)) and self.stretch > 0 and self.softening >= 0):
            raise RequestError(
                f"a composite of stretch {self.stretch}, softening {self.softening} and minimum {self.minimum} "
                "cannot be made: give a stretch above 0, a softening of at least 0 and a finite minimum"
            )


USUAL_STYLE = Style()
"""The style of a picture for which nothing else is asked."""
