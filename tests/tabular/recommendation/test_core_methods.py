"""The core's methods that compare views train the item tower: the recommendation column of the matrix."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.errors import UserError
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.random import Draw
from ssl_domains.tabular.recommendation.masking import FeatureMasking
from ssl_domains.tabular.recommendation.towers import TwoTower

MATRIX = Path(__file__).parents[2] / "test_matrix.py"


def matrix():
    """The matrix's methods, from its file."""
    spec = importlib.util.spec_from_file_location("the_matrix", MATRIX)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.METHODS


METHODS = matrix()
# Ids and lists have no mixture; an item has no regions; its tokens are not as wide as its summary.
NOT_HERE = {"mixed_barlow_twins", "cmd", "deep_graph_infomax"}
STEPS = 30


def make(case, source):
    registry.scan_core()
    torch.manual_seed(0)
    method, options, objective, objective_options, takes = METHODS[case]
    encoder = TwoTower(source.spec, width=16, hidden=[16], cell_width=8)
    options = dict(options)
    if takes == "masker":
        options |= {"masker": registry.get("mask", "random")(), "predictor": {}}
        objective, objective_options = "masked_mse", {}
    else:
        options["views"] = FeatureMasking(source.spec)
    if case == "pretext_task":
        options |= {"spec": source.spec, "target": "hidden"}
    return registry.get("method", method)(
        encoder, registry.get("objective", objective)(**objective_options), **options
    )


@pytest.mark.parametrize("case", [c for c in METHODS if METHODS[c][4] == "views" and c not in NOT_HERE])
def test_method_trains_the_item_tower(case, source):
    method = make(case, source)
    method.before_training(source)
    method.before_epoch(source, 1)
    batch = source.fetch(np.asarray(source.splits["train"])[:48])
    optimizer = torch.optim.Adam([p for g in method.parameter_groups() for p in g["params"]], lr=5e-3)
    losses = []
    for step in range(STEPS):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step(Progress(step + 1, STEPS))
        losses.append(float(out.parts.get("kl", out.loss).detach()))
    encoder = method.encoder
    assert all(p.grad is None for p in encoder.towers["user"].parameters())
    assert encoder.towers["item"].columns.embedding.weight.grad.abs().sum() > 0
    assert np.isfinite(losses).all()
    assert np.mean(losses[-8:]) < np.mean(losses[4:12])


@pytest.mark.parametrize("case", [c for c in METHODS if METHODS[c][4] == "masker"])
def test_methods_on_tokens_say_that_towers_have_none(case, source):
    with pytest.raises((ValueError, UserError), match="no predictor of hidden features"):
        make(case, source)
