"""The Bitshuffle filter of hdf5plugin, registered with HDF5 whatever ``HDF5_PLUGIN_PATH`` holds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from h5py import h5pl

from archive_builder.errors import ArchiveError

FILTER_BLOCK = 4096
"""Values in one block of Bitshuffle: 16 KiB. It is the fastest of 1024 to 32768, and compresses among the best."""

NAME = "bshuf"
"""Name of the filter in hdf5plugin."""


def bitshuffle() -> dict[str, Any]:
    """Return the options of h5py for a dataset that is written with Bitshuffle and LZ4.

    Raises
    ------
    ArchiveError
        The filter cannot be registered for writing.
    """
    import hdf5plugin

    if not register():
        raise ArchiveError(
            "filter Bitshuffle: a plugin from HDF5_PLUGIN_PATH is in use by an open dataset and cannot be replaced: "
            "close the dataset, or import archive_builder before it is opened"
        )
    return dict(hdf5plugin.Bitshuffle(nelems=FILTER_BLOCK, cname="lz4"))


def register() -> bool:
    """Register the filter of hdf5plugin for reading and writing, and return True if it is registered.

    HDF5 loads every library in the folders of ``HDF5_PLUGIN_PATH`` when it meets an unknown filter. There it may find
    the same filter, which then can only read: hdf5plugin prepares a library for writing when it registers the library
    itself (github.com/silx-kit/hdf5plugin, issue 204). Or HDF5 finds a damaged library and crashes. So hdf5plugin is
    imported while HDF5 knows no folder of plugins, and a filter that HDF5 has loaded already is replaced. The
    environment stays unchanged.
    """
    with _no_plugin_folders():
        import hdf5plugin

        if hdf5plugin.get_config().registered_filters.get(NAME, "unknown") != "unknown":
            return True
        with suppress(RuntimeError):  # an open dataset uses the filter that HDF5 has loaded
            return bool(hdf5plugin.register(NAME, force=True))
    return False


@contextmanager
def _no_plugin_folders() -> Iterator[None]:
    """Hide all folders of plugins from HDF5 if hdf5plugin is not imported yet."""
    folders = [] if "hdf5plugin" in sys.modules else [h5pl.get(number) for number in range(h5pl.size())]
    for _ in folders:
        h5pl.remove(0)
    try:
        yield
    finally:
        for folder in folders:
            h5pl.append(folder)


register()
