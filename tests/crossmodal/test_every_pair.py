"""CrossModal on every pair of domains, a new domain by itself as soon as it has a matrix file."""

from __future__ import annotations

from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.random import Draw

MATRIX = Path(__file__).parent.parent / "matrix"
DOMAINS = [name for name in registry.domain_folders() if (MATRIX / f"{name}.py").is_file()]
STEPS = 10


PAIRS = [  # twice one domain is told apart by its views only; one such pair is in the default run
    pytest.param(a, b, marks=[pytest.mark.slow] if a == b != "text" else [])
    for a, b in combinations_with_replacement(DOMAINS, 2)
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_partners_find_each_other(first, second, paired, make_method):
    source = paired(first, second, n=16).for_pretraining()
    method = make_method(source)
    method.before_training(source)
    batch = source.fetch(source.splits["train"])
    optimizer = torch.optim.Adam([p for g in method.parameter_groups() for p in g["params"]], lr=1e-2)
    losses = []
    for step in range(STEPS):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            for name in ("a", "b"):
                tower = method.encoder.part(name)
                assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.parameters()), name
        optimizer.step()
        method.after_step(Progress(step + 1, STEPS))
        losses.append(float(out.loss.detach()))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.98 * losses[0], losses
    pooled = method.encoder_for_export()(batch.x).pooled
    assert pooled.shape == (len(batch), 2 * method.encoder.width)
