"""File locks: whether a file system grants them, and the remedy if not."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, 524})
"""Error numbers of a file system that has no locks. 524 is the kernel's own ENOTSUPP, which Cray's DVS gives."""

MOUNT = "mount it with locks (Lustre: -o flock or -o localflock; NFS: a running lockd, or -o local_lock=all)"
"""Remedy for a file system without locks."""


def has_locks(paths: Iterable[Path]) -> bool:
    """Return False if the file system refuses a POSIX lock as SQLite needs it.

    Parameters
    ----------
    paths : iterable of Path
        Files; the first that can be opened is tried. Do not give a file that this process may hold POSIX locks on:
        closing any descriptor of a file drops them (fcntl(2)).
    """
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in NO_LOCKS
        finally:
            os.close(descriptor)
        return True
    return True
