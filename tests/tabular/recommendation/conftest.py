"""The small shop, as fixtures."""

import importlib.util
import sys
from pathlib import Path

import pytest

import ssl_domains
from ssl_domains.tabular.domain import Tabular

HELPER = Path(__file__).with_name("shop.py")


def load_helper():
    """The helper file as a module."""
    if "recommendation_shop" not in sys.modules:
        spec = importlib.util.spec_from_file_location("recommendation_shop", HELPER)
        module = importlib.util.module_from_spec(spec)
        sys.modules["recommendation_shop"] = module
        spec.loader.exec_module(module)
    return sys.modules["recommendation_shop"]


@pytest.fixture
def shop(tmp_path):
    """Files of a fresh shop."""
    return load_helper().write_shop(tmp_path)


@pytest.fixture
def source(shop):
    """The shop, opened."""
    return Tabular().open(**shop.data)


@pytest.fixture
def recipe(shop):
    """``recipe(method={...}, train={...})``: a small recipe on the shop."""
    return lambda **sections: load_helper().recipe_of(shop, **sections)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, and its files. Do not change them."""
    folder = tmp_path_factory.mktemp("shop")
    shop = load_helper().write_shop(folder)
    given = load_helper().recipe_of(shop, train={"steps": 60})
    return ssl_domains.pretrain(given, run=folder / "run", progress=False), shop


@pytest.fixture
def finished(trained):
    """The run alone."""
    return trained[0]
