"""Folders of small images that the tests of this folder share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path_factory.mktemp("cache")))


def pattern(height: int = 20, width: int = 20, seed: int = 0, channels: int = 3) -> np.ndarray:
    """A smooth image, ``[H, W, C]`` uint8, different for each seed."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = []
    for _ in range(channels):
        rate, other, phase = rng.uniform(1, 5), rng.uniform(1, 5), rng.uniform(0, 6)
        waves.append(np.sin(rate * down + other * across + phase))
    return ((np.stack(waves, axis=2) + 1) * 127.5).astype(np.uint8)


@pytest.fixture
def write_images():
    """``write_images(folder, n, classes)``: n images, dealt to class folders in turn (none: flat)."""

    def write(folder: Path, n: int = 12, classes=("cat", "dog"), ending: str = "png", size=(20, 20)) -> Path:
        for i in range(n):
            place = folder / classes[i % len(classes)] if classes else folder
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pattern(*size, seed=i)).save(place / f"{i:03d}.{ending}")
        return folder

    return write
