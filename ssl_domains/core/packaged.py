"""Data files inside installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ssl_domains.core.errors import DataError


def locate(source: str) -> Path:
    """The path of ``package://PACKAGE/PATH``; of any other source the path itself, with ``~`` resolved.

    Raises:
        DataError: the package or the file in it is not there.
    """
    if not source.startswith("package://"):
        return Path(source).expanduser()
    package, _, inside = source.removeprefix("package://").partition("/")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise DataError(
            f"data.source: {source} needs the package {package!r}, which is not installed: "
            f"pip install {package}"
        )
    path = Path(next(iter(found.submodule_search_locations))) / inside
    if ".." in Path(inside).parts or not path.is_file():
        raise DataError(
            f"data.source: the package {package!r} has no file {inside!r}; check the path or its version"
        )
    return path
