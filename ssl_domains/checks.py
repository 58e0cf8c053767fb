"""Is this machine ready: Python, torch, each domain's packages, disk, threads."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One line of :func:`doctor`.

    Attributes:
        name: what was looked at.
        ok: whether it is as it should be.
        found: what was found.
        fix: the command or change that mends it; empty when ``ok``.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""


def doctor() -> list[Check]:
    """Checks Python, torch, the packages of each domain, memory, disk and threads.

    Returns:
        One :class:`Check` each; nothing is installed or changed.
    """
    from ssl_domains.core.registry import domain_folders

    checks = [_python(), _torch()]
    checks += [_domain(name) for name in domain_folders()]
    return [*checks, _threads(), _disk()]


def _python() -> Check:
    found = sys.version.split()[0]
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, found, "" if ok else "install Python 3.11 or newer")


def _torch() -> Check:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return Check("torch", False, f"cannot be imported: {error}", "pip install torch")
    device = "CPU only"
    if torch.cuda.is_available():
        device = f"CUDA: {torch.cuda.get_device_name(0)}"
    elif torch.backends.mps.is_available():
        device = "MPS"
    return Check("torch", True, f"{torch.__version__}, {device}")


def _domain(name: str) -> Check:
    """Whether the domain imports, and every package of its extra is there."""
    missing = [package for package in extra_packages(name) if not _installed(package)]
    fix = f"pip install 'ssl-domains[{name}]'"
    if missing:
        return Check(f"domain {name}", False, f"missing {', '.join(missing)}", fix)
    try:
        importlib.import_module(f"ssl_domains.{name}.domain")
    except ImportError as error:
        return Check(f"domain {name}", False, f"cannot be imported: {error}", fix)
    versions = [f"{package} {metadata.version(package)}" for package in extra_packages(name)]
    return Check(f"domain {name}", True, ", ".join(versions) or "ready")


def extra_packages(extra: str) -> list[str]:
    """Names of the packages of one of this package's extras; empty when it is not installed by pip."""
    try:
        requirements = metadata.requires("ssl-domains") or []
    except metadata.PackageNotFoundError:
        return []
    wanted = re.compile(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]")
    return [re.split(r"[\s;<>=!~\[(]", text, maxsplit=1)[0] for text in requirements if wanted.search(text)]


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _threads() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    note = f", OMP_NUM_THREADS={limit}" if limit else ""
    too_many = bool(limit and limit.isdigit() and int(limit) > cores)
    return Check(
        "threads", not too_many, f"{cores} cores{note}", f"export OMP_NUM_THREADS={cores}" if too_many else ""
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    ok = free >= 1.0
    return Check(
        "disk",
        ok,
        f"{free:.1f} GiB free here",
        "" if ok else "free at least 1 GiB, or choose run=DIR on another disk",
    )
