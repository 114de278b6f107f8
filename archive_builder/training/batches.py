"""The stream of batches, under the name of its use: see `archive_builder.serve.stream`."""

from archive_builder.serve.stream import Batch, BatchStream

__all__ = ["Batch", "BatchStream"]
