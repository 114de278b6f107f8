"""Cutouts as batches for training; `CutoutDataset` and `CutoutStream` need PyTorch: ``pip install '.[torch]'``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archive_builder.training.torch import CutoutDataset, CutoutStream

__all__ = ["CutoutDataset", "CutoutStream"]

if not TYPE_CHECKING:  # with this function in view, a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from archive_builder.training import torch

        return getattr(torch, name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
