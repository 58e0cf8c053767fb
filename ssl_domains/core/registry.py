"""Names for recipes: a decorator per kind, no central list.

A class becomes usable in a recipe by being decorated in a module that is found by one of
three ways: it lies under ``ssl_domains.core``, ``ssl_domains.trainer`` or in the folder of
the recipe's domain; it is announced by an installed package under the entry-point group
``ssl_domains``; or the user passes ``--plugin FILE``.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

KINDS = (
    "domain", "method", "objective", "encoder", "views", "mask", "sampler", "optimizer", "schedule", "probe",
    "task",
)  # fmt: skip

C = TypeVar("C", bound=type)

_registry: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}
_scanned: set[str] = set()


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: makes the class known as ``name`` among the ``kind`` s.

    Args:
        kind: one of :data:`KINDS`.
        name: snake_case name used in recipes.

    Raises:
        ValueError: the kind does not exist, or the name is taken by another class.
    """
    if kind not in _registry:
        raise ValueError(f"unknown kind {kind!r}; one of {', '.join(KINDS)}")

    def add(cls: C) -> C:
        present = _registry[kind].get(name)
        if present is not None and present.__qualname__ != cls.__qualname__:
            raise ValueError(f"{kind} {name!r} is already {present.__module__}.{present.__qualname__}")
        _registry[kind][name] = cls
        cls.registered_name = name  # type: ignore[attr-defined]
        return cls

    return add


def domain(name: str) -> Callable[[C], C]:
    """Registers a domain class."""
    return register("domain", name)


def method(name: str) -> Callable[[C], C]:
    """Registers a method."""
    return register("method", name)


def objective(name: str) -> Callable[[C], C]:
    """Registers an objective."""
    return register("objective", name)


def encoder(name: str) -> Callable[[C], C]:
    """Registers an encoder."""
    return register("encoder", name)


def views(name: str) -> Callable[[C], C]:
    """Registers a views class."""
    return register("views", name)


def mask(name: str) -> Callable[[C], C]:
    """Registers a masker."""
    return register("mask", name)


def sampler(name: str) -> Callable[[C], C]:
    """Registers a sampler."""
    return register("sampler", name)


def optimizer(name: str) -> Callable[[C], C]:
    """Registers an optimizer."""
    return register("optimizer", name)


def schedule(name: str) -> Callable[[C], C]:
    """Registers a learning-rate schedule."""
    return register("schedule", name)


def names(kind: str) -> list[str]:
    """Sorted names of a kind among the modules imported so far."""
    return sorted(_registry[kind])


def get(kind: str, name: str) -> type:
    """The class registered under ``name``.

    Raises:
        KeyError: with the nearest name and the allowed ones.
    """
    try:
        return _registry[kind][name]
    except KeyError:
        near = difflib.get_close_matches(name, names(kind), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no {kind} is called {name!r}{hint} (there are: {', '.join(names(kind))})") from None


def scan(package: str) -> None:
    """Imports every module below ``package`` once, so that its decorators run."""
    if package in _scanned:
        return
    root = importlib.import_module(package)
    for info in pkgutil.walk_packages(getattr(root, "__path__", []), prefix=package + "."):
        importlib.import_module(info.name)
    _scanned.add(package)


def scan_core() -> None:
    """Imports the core, the trainer, and the plugins that installed packages announce."""
    from importlib.metadata import entry_points

    for package in ("ssl_domains.core", "ssl_domains.trainer"):
        scan(package)
    if "entry-points" not in _scanned:
        for point in entry_points(group="ssl_domains"):
            point.load()
        _scanned.add("entry-points")


def domain_folders() -> list[str]:
    """Names of the domains that ship with the package: the folders that hold a ``domain.py``."""
    import ssl_domains

    found = []
    for root in ssl_domains.__path__:
        from pathlib import Path

        found += [p.parent.name for p in Path(root).glob("*/domain.py")]
    return sorted(found)


def load_domain(name: str) -> Any:
    """Imports a domain's folder and returns its class.

    Raises:
        KeyError: no such domain, with the nearest name.
        ImportError: a package of the domain's extra is missing, with the command that installs it.
    """
    if f"ssl_domains.{name}" not in _scanned and name in domain_folders():
        try:
            importlib.import_module(f"ssl_domains.{name}.domain")
            scan(f"ssl_domains.{name}")
        except ImportError as error:
            if (error.name or "").startswith("ssl_domains"):
                raise
            raise ImportError(
                f"domain {name!r} needs the package {error.name!r}: pip install 'ssl-domains[{name}]'",
                name=error.name,
            ) from error
    if name not in _registry["domain"]:
        known = sorted({*_registry["domain"], *domain_folders()})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no domain is called {name!r}{hint} (there are: {', '.join(known)})")
    return _registry["domain"][name]
