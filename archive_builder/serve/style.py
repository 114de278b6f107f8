"""The look of a cutout's picture: colours, stretch, compression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from archive_builder.choices import PICTURE_FORMATS
from archive_builder.errors import RequestError

Color = Literal["auto", "survey", "lupton"]
"""Source of a picture's colours: the survey's own picture, Lupton's composite, or the first available of the two."""

Compression = Literal["jpeg", "lzw", "none"]
"""Compression of a TIFF."""

Rotate = Literal["quarter", "north"]
"""North up by the nearest quarter turn and flip, or exactly by resampling."""

MINIMUM = -5.0
"""Flux mapped to black under a stretch that is a number."""

SOFTENING = 8.0
"""Lupton's Q under a stretch that is a number."""


@dataclass(frozen=True)
class Style:
    """The look of a picture."""

    color: Color = "auto"
    """``survey``: the tile's own picture, as STIFF made it; ``lupton``: a composite of three bands; ``auto``:
    the survey's own if the archive has it and ``rgb`` is not given."""

    rgb: Sequence[str] | None = None
    """Bands of the composite, red first: ``"irg"``, ``"F160W,F814W,F606W"`` or a sequence of names. One band gives a
    grey picture, two give red and blue. The default is i, r, g, or up to three of the cutout's bands."""

    stretch: float | Literal["auto"] = "auto"
    """``auto``: by the sky and noise of each band. A number: Lupton's linear stretch, in units of flux at zero point
    30; the sky noise of DES is 2 to 5 of these units."""

    softening: float | None = None
    """Lupton's Q: a larger value turns the stretch from linear to logarithmic earlier. The default is 8, or with the
    stretch ``auto`` a value by the brightness of the picture."""

    minimum: float | None = None
    """Flux mapped to black, in units of flux at zero point 30. The default is -5, or with the stretch ``auto`` a level
    below the sky."""

    rotate: Rotate = "quarter"
    """``quarter``: north up by the nearest quarter turn and flip, each pixel as it is; ``north``: north exactly up,
    resampled. Corners outside the cutout are then black."""

    compass: bool = False
    """Draw arrows to the north and the east."""

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
        for name, kind in (("color", Color), ("compression", Compression), ("rotate", Rotate)):
            choices = get_args(kind)
            if getattr(self, name) not in choices:
                raise RequestError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(choices)}")
        stretch = 1.0 if self.stretch == "auto" else self.stretch
        values = stretch, self.softening or 0.0, self.minimum or 0.0
        if not (all(isinstance(n, Real) and math.isfinite(n) for n in values) and stretch > 0 and values[1] >= 0):
            raise RequestError(
                f"a composite of stretch {self.stretch}, softening {self.softening} and minimum {self.minimum} "
                "cannot be made: give a stretch above 0 or auto, a softening of at least 0 and a finite minimum"
            )

    def check_format(self, kind: str) -> None:
        """Refuse a file format that cannot hold the resampled pixels of a picture.

        Raises
        ------
        RequestError
            The picture is resampled, and the format holds the archive's pixels.
        """
        if self.rotate == "north" and kind not in PICTURE_FORMATS:
            raise RequestError(
                f"{kind} holds the archive's pixels, never resampled: give rotate north with "
                f"{', '.join(PICTURE_FORMATS)} only"
            )

    def uses_survey_colors(self, has_color: bool) -> bool:
        """Return True if a picture is cropped from the survey's own picture, where the archive has it or not."""
        return self.color == "survey" or (self.color == "auto" and self.rgb is None and has_color)


USUAL_STYLE = Style()
"""The default style."""
