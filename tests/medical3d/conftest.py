"""Sources of phantoms that the tests share."""

from __future__ import annotations

import pytest

from ssl_domains.core import registry


@pytest.fixture(scope="session")
def medical():
    """The domain."""
    registry.scan_core()
    return registry.load_domain("medical3d")()


@pytest.fixture(scope="session")
def patches(medical):
    """Patches of 16 voxels of eight phantoms."""
    source = "generated://phantoms?patients=8&size=24"
    return medical.open(source, label="mask", patch=(16, 16, 16), per_volume=6)


@pytest.fixture(scope="session")
def slices(medical):
    """Axial slices of eight phantoms."""
    return medical.open("generated://phantoms?patients=8&size=24", axis="axial", size=(32, 32), valid=0.1)
