"""The look of a cutout's picture: colours, stretch, compression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from archive_builder.errors import RequestError

Color = Literal["auto", "survey", "lupton"]
"""Source of a picture's colours: the survey's own picture, Lupton's composite, or the first available of the two."""

Compression = Literal["jpeg", "lzw", "none"]
"""Compression of a TIFF."""


@dataclass(frozen=True)
class Style:
    """The look of a picture."""

    color: Color = "auto"
    """``survey``: the tile's own picture, as STIFF made it; ``lupton``: a composite of three bands; ``auto``:
    the survey's own if the archive has it and ``rgb`` is not given."""

    rgb: Sequence[str] | None = None
    """The composite's three bands, red first: ``"irg"``, ``"F160W,F814W,F606W"`` or a sequence of names. The default is
    i, r, g, or three of the cutout's bands."""

    stretch: float = 60.0
    """Lupton's linear stretch, in units of flux at zero point 30. The sky noise of DES is 2 to 5 of these units."""

    softening: float = 8.0
    """Lupton's Q: a larger value turns the stretch from linear to logarithmic earlier."""

    minimum: float = -5.0
    """Flux mapped to black, in the same units as ``stretch``."""

    compression: Compression = "jpeg"
    """Compression of a TIFF."""

    def __post_init__(self) -> None:
        """Check the values, and keep a sequence of names as a tuple.

        Raises
        ------
        RequestError
            A name is unknown, or a number is out of its range.
        """
        if self.rgb is not None and not isinstance(self.rgb, str):
            object.__setattr__(self, "rgb", tuple(str(band) for band in self.rgb))
        for name, choices in (("color", get_args(Color)), ("compression", get_args(Compression))):
            if getattr(self, name) not in choices:
                raise RequestError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(choices)}")
        numbers = self.stretch, self.softening, self.minimum
        if not (all(map(math.isfinite, numbers)) and self.stretch > 0 and self.softening >= 0):
            raise RequestError(
                f"a composite of stretch {self.stretch}, softening {self.softening} and minimum {self.minimum} "
                "cannot be made: give a stretch above 0, a softening of at least 0 and a finite minimum"
            )

    def uses_survey_colors(self, has_color: bool) -> bool:
        """Return True if a picture is cropped from the survey's own picture, where the archive has it or not."""
        return self.color == "survey" or (self.color == "auto" and self.rgb is None and has_color)


USUAL_STYLE = Style()
"""The default style."""
