"""Generated recordings in every format that is read."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_domains.skeleton.domain import SkeletonDomain


@pytest.fixture(scope="session")
def motions():
    """Clips of the generated body."""
    return SkeletonDomain().open("generated://motions?clips=40&people=6", valid=0.2, test=0.2)


@pytest.fixture(scope="session")
def wearables():
    """Windows of six devices."""
    return SkeletonDomain().open("generated://wearables?clips=24&people=4", window=2, valid=0.0, test=0.25)


@pytest.fixture
def clips(tmp_path):
    """Writes ``x [N, C, T, V, M]`` with side arrays: ``clips(name, x, label=...)``."""

    def write(name: str = "clips.npz", x: np.ndarray | None = None, **sides: object):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(8, 3, 20, 25, 1)).astype(np.float32) if x is None else x
        np.savez(tmp_path / name, x=x, **sides)
        return tmp_path / name

    return write
