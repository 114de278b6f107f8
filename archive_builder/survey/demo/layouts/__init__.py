"""Small synthetic surveys in the exact file layouts of well-known surveys, for the recipes that ship.

Each module describes the files of one family of surveys: names and folders, HDUs, header cards, encoding of the
pixels, weights and masks, catalogue. The sky is the demo's, in pixels; only its form differs.
"""

from __future__ import annotations

from archive_builder.survey.demo.layouts.survey import LAYOUTS, make_layout

__all__ = ["LAYOUTS", "make_layout"]
