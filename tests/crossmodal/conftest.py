"""Small sources of every domain, from the matrix of methods and domains."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.crossmodal.build import join_sources
from ssl_domains.crossmodal.encoders import Towers
from ssl_domains.crossmodal.method import CrossModal

MATRIX = Path(__file__).parent.parent / "matrix"


def kind_of(domain: str) -> dict:
    """The first kind of a domain's matrix file: a small source and an encoder for it."""
    spec = importlib.util.spec_from_file_location(f"pairs_{domain}", MATRIX / f"{domain}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return next(iter(module.KINDS.values()))


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """``opened(domain)``: (source, encoder's name and options), made once."""
    registry.scan_core()
    found = {}

    def get(domain):
        if domain not in found:
            registry.load_domain(domain)
            kind = kind_of(domain)
            found[domain] = (kind["source"](tmp_path_factory.mktemp(domain)), kind["encoder"])
        return found[domain]

    return get


@pytest.fixture
def paired(opened):
    """``paired(a, b)``: pairs of row i with row i of the train splits of two domains."""

    def make(*names, n=32, **options):
        parts, towers, rows = {}, {}, {}
        for letter, name in zip("abcd", names, strict=False):
            source, (encoder, given) = opened(name)
            parts[letter] = source
            towers[letter] = (name, encoder, given)
            rows[letter] = np.asarray(source.splits["train"])[:n]
        least = min(len(r) for r in rows.values())
        rows = {letter: r[:least] for letter, r in rows.items()}
        return join_sources(parts, towers, rows, **options)

    return make


@pytest.fixture
def make_method():
    """``make_method(source, ...)``: towers and CrossModal on pairs."""
    return _make


def _make(source, objective="clip", objective_options=None, width=16, seed=0, **options) -> CrossModal:
    """Towers and CrossModal on pairs."""
    torch.manual_seed(seed)
    towers = Towers(source.spec, width)
    made = registry.get("objective", objective)(**(objective_options or {}))
    return CrossModal(towers, made, **options)
