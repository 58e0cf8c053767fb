"""Arrays that are made once and kept: memory-mapped files in a cache folder, a folder a domain."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError

VERSION = 1
BYTES_BEFORE_RELEASE = 512 << 20
"""A fault on a mapped file brings in up to 16 pages of 4 KiB, however small the row; after so many bytes
of pages they go back, so that at most half a GiB of the file counts as resident."""


def cache_folder() -> Path:
    """``SSL_DOMAINS_CACHE``, or ``ssl_domains`` in the platform's cache folder."""
    told = os.environ.get("SSL_DOMAINS_CACHE")
    if told:
        return Path(told).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ssl_domains"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "ssl_domains"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl_domains"


def key_of(values: Any) -> str:
    """A file name that changes with any of these JSON values."""
    text = json.dumps([VERSION, values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Matrix:
    """``[n, ...]`` rows, gathered a batch at a time.

    Args:
        array: in memory, or a ``numpy.memmap``: then rows are read in their order on disk and
            pages are handed back now and then, so that resident memory stays bounded.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._map = getattr(array, "_mmap", None)
        self._read = 0

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """``[B, ...]``, a copy, in the order of ``indices``."""
        if self._map is None:
            return self.array[indices]
        order = np.argsort(indices, kind="stable")
        out = np.empty((len(indices), *self.array.shape[1:]), dtype=self.array.dtype)
        out[order] = self.array[indices[order]]
        self._read += len(indices) * max(self.array[:1].nbytes, 64 << 10)
        if self._read >= BYTES_BEFORE_RELEASE:
            self.release()
        return out

    def release(self) -> None:
        """Hands the pages back; the next access reads them again."""
        self._read = 0
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Folder:
    """A cache entry while it is written: arrays by name, and a ``meta.json`` at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new memory-mapped array."""
        return np.lib.format.open_memmap(self.path / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)

    def save(self, name: str, array: np.ndarray) -> None:
        """Writes a whole array."""
        np.save(self.path / f"{name}.npy", array, allow_pickle=False)

    def meta(self, values: dict[str, Any]) -> None:
        """Writes the JSON values."""
        (self.path / "meta.json").write_text(json.dumps(values))


@contextmanager
def writing(domain: str, key: str | None) -> Iterator[Folder]:
    """A folder that gets its name only when all is written; nothing stays behind on an error.

    Args:
        domain: whose entry it is.
        key: name of the entry; None: a folder of this process that goes when it ends.

    Raises:
        DataError: the cache folder cannot be written, or its disk is full.
    """
    root = cache_folder() / domain
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=root))
    except OSError as error:
        raise refuse(root, error) from None
    folder = Folder(temporary)
    try:
        yield folder
        if key is not None:
            folder.path = root / key
            _move(temporary, folder.path)
        else:
            weakref.finalize(folder, shutil.rmtree, temporary, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise refuse(root, error) from None
        raise


def _move(temporary: Path, final: Path) -> None:
    """Atomic; when another process was faster, its equal entry stays."""
    try:
        os.rename(temporary, final)
    except OSError:
        if not (final / "meta.json").exists():
            raise
        shutil.rmtree(temporary, ignore_errors=True)


def refuse(root: Path, error: OSError) -> DataError:
    """The sentence for a cache folder that cannot be written."""
    reason = error.strerror or type(error).__name__
    return DataError(
        f"the cache folder {root} cannot be written ({reason}); free space there or set SSL_DOMAINS_CACHE"
    )


@contextmanager
def locked(domain: str, key: str | None) -> Iterator[None]:
    """Held by one process at a time, so that one makes an entry and the others wait and map it.

    Does nothing without a key, or where the system has no file locks (Windows): then each process
    makes the entry, and the first one stays.
    """
    try:
        import fcntl
    except ImportError:
        key = None
    if key is None:
        yield
        return
    root = cache_folder() / ".locks"  # beside the entries, which are complete or not there
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / f"{domain}-{key}").open("w")
    except OSError as error:
        raise refuse(root, error) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # goes with the file, also when the process is killed
        yield


def find(domain: str, key: str) -> Path | None:
    """The complete entry of this name, or None."""
    path = cache_folder() / domain / key
    return path if (path / "meta.json").exists() else None


def load_array(folder: Path, name: str) -> np.ndarray | None:
    """A memory-mapped array of an entry, or None."""
    path = folder / f"{name}.npy"
    if not path.exists():
        return None
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    # A map of nothing cannot be made twice; empty arrays are read.
    return array if array.size else np.array(array)
