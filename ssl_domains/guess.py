"""Which domain a source belongs to, from its name alone.

Each domain says in its ``recognise.py``, which imports nothing heavy, by what it is known:

    RANK       int; of several domains that know a folder, the one of the lowest rank takes it
    SUFFIXES   endings of its files (``.gz`` is taken off first)
    PREFIXES   beginnings of its names (``scheme://``)
    MODULES    packages whose objects it opens
    KEYS       keys of the ``data`` section that no other domain has
    folder     function of (names in the folder, some files below it at any depth) -> bool

All but ``RANK`` and ``SUFFIXES`` may be absent; without ``folder`` any file that ends so will do.
"""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

from ssl_domains.core.errors import DataError
from ssl_domains.core.registry import domain_folders

_ENOUGH = 200


def guess_domain(source: Any = None, **data: Any) -> str:
    """Name of the domain that a source belongs to.

    Args:
        source: a path, a ``scheme://`` name, or an object in memory.
        data: other keys of the ``data`` section (``nodes``, ``edges`` or ``smiles`` mean a graph).

    Raises:
        DataError: it cannot be told; names what would settle it.
    """
    domains = _domains()
    for name, known in domains.items():
        if not data.keys().isdisjoint(getattr(known, "KEYS", ())):
            return name
    module = type(source).__module__.split(".")[0]
    for name, known in domains.items():
        if module in getattr(known, "MODULES", ()):
            return name
    if isinstance(source, str | Path):
        found = _by_name(str(source), domains)
        if found:
            return found
    endings = ", ".join(itertools.chain(*(known.SUFFIXES for known in domains.values())))
    names = ", ".join(sorted(domains))
    raise DataError(
        f"{source}: cannot tell the domain of this source; say domain=NAME, one of {names} "
        f"(known endings: {endings})"
    )


def _domains() -> dict[str, ModuleType]:
    """The domains' ``recognise`` modules, lowest rank first."""
    found = {}
    for name in domain_folders():
        try:
            found[name] = importlib.import_module(f"ssl_domains.{name}.recognise")
        except ModuleNotFoundError:
            continue
    return dict(sorted(found.items(), key=lambda item: item[1].RANK))


def _by_name(name: str, domains: dict[str, ModuleType]) -> str | None:
    low = name.lower().removesuffix(".gz")
    for domain, known in domains.items():
        if low.startswith(tuple(getattr(known, "PREFIXES", ()))) or low.endswith(known.SUFFIXES):
            return domain
    path = Path(name)
    if not path.is_dir():
        return None
    names = [p.name for p in path.iterdir()]
    files = list(itertools.islice((p for p in path.rglob("*") if p.is_file()), _ENOUGH))
    for domain, known in domains.items():
        ends_so = any(p.name.lower().removesuffix(".gz").endswith(known.SUFFIXES) for p in files)
        if known.folder(names, files) if hasattr(known, "folder") else ends_so:
            return domain
    return None
