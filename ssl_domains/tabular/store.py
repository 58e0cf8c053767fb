"""Encoded rows: in memory when small, else memory-mapped files (:mod:`ssl_domains.core.cache`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from ssl_domains.core import cache
from ssl_domains.core.cache import Folder, Matrix, cache_folder, key_of, load_array, refuse

__all__ = [
    "IN_MEMORY_BYTES", "Folder", "Matrix", "cache_folder", "find", "key_of", "load_array", "locked", "refuse",
    "writing",
]  # fmt: skip

IN_MEMORY_BYTES = 256 << 20


def writing(key: str | None) -> AbstractContextManager[Folder]:
    """See :func:`ssl_domains.core.cache.writing`."""
    return cache.writing("tabular", key)


def locked(key: str | None) -> AbstractContextManager[None]:
    """See :func:`ssl_domains.core.cache.locked`."""
    return cache.locked("tabular", key)


def find(key: str) -> Path | None:
    """The complete entry of this name, or None."""
    return cache.find("tabular", key)
