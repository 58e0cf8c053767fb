"""By what sources of this domain are known; see ``ssl_domains/guess.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RANK = 20
SUFFIXES = (".nii", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")
PREFIXES = ("generated://phantoms",)


def folder(names: Sequence[str], files: Sequence[Path]) -> bool:
    """Volumes or DICOM files at any depth."""
    return any(p.name.lower().removesuffix(".gz").endswith(SUFFIXES) for p in files)
