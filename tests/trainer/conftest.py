"""A tiny source and a method with every kind of state: dropout, batch norm, teacher, queue."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOY = Path(__file__).with_name("toy.py")


def load_toy() -> ModuleType:
    """The helper file as a module, also for subprocesses that run by file."""
    if "trainer_toy" not in sys.modules:
        spec = importlib.util.spec_from_file_location("trainer_toy", TOY)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["trainer_toy"] = module
        spec.loader.exec_module(module)
    return sys.modules["trainer_toy"]


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    return load_toy()
