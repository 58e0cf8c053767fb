"""The MLP probe, and VIME's semi-supervised predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_domains.core.batch import View
from ssl_domains.core.interfaces import Views
from ssl_domains.evaluation.data import ProbeData, labelled_rows
from ssl_domains.evaluation.metrics import score
from ssl_domains.evaluation.probes import LinearProbe
from ssl_domains.evaluation.trained import ConsistencyProbe, MLPProbe, consistency


def xor(n: int = 600, seed: int = 0) -> ProbeData:
    """Two columns whose product decides: nothing for a linear probe."""
    x = np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    cut = [n // 2, n * 3 // 4]
    parts = [dict(zip(("train", "valid", "test"), np.split(v, cut))) for v in (x, y)]
    return ProbeData(parts[0], parts[1], "classification", 2)


def test_mlp_finds_what_a_linear_probe_cannot() -> None:
    d = xor()
    mlp = score(d.y["test"], MLPProbe(batch_size=64).predict(d, 0), d.task)["accuracy"]
    linear = score(d.y["test"], LinearProbe().predict(d, 0), d.task)["accuracy"]
    assert mlp > 0.9
    assert linear < 0.65


def test_mlp_depends_on_the_seed_alone() -> None:
    d = xor(200)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a = MLPProbe(epochs=3).predict(d, 1).score
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    b, c = MLPProbe(epochs=3).predict(d, 1).score, MLPProbe(epochs=3).predict(d, 2).score
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-4


def test_consistency_is_the_mean_squared_difference_to_the_row_itself() -> None:
    out = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 4.0]]])
    # (1 + 0 + 0 + 4 + 0 + 0 + 0 + 16) / 8
    assert consistency(out).item() == pytest.approx(21 / 8)
    assert consistency(out + 7.0).item() == pytest.approx(21 / 8)
    same = out[:, :1].expand(-1, 4, -1)
    assert consistency(same).item() == 0.0


def test_consistency_probe_learns_and_uses_few_labels(toy) -> None:
    source, encoder = toy.blobs(400), toy.Encoder()
    labelled = labelled_rows(source)
    probe = ConsistencyProbe(fraction=0.1, epochs=60, batch_size=16)
    found = probe.predict_encoder(encoder, source, labelled, 0, toy.Views())
    assert score(labelled.labels[labelled.rows["test"]], found, "classification")["accuracy"] > 0.85
    # Labels of the rows that were not drawn change nothing.
    drawn = np.random.default_rng(0).permutation(labelled.rows["train"])[
        : round(0.1 * len(labelled.rows["train"]))
    ]
    others = np.setdiff1d(labelled.rows["train"], drawn)
    labelled.labels[others] = 0
    again = probe.predict_encoder(encoder, source, labelled, 0, toy.Views())
    np.testing.assert_array_equal(found.score, again.score)


class Shift(Views):
    """Copies that lie far from the row along one column."""

    def __call__(self, batch, draw):
        x = batch.x.clone()
        x[:, 5] += 4 * draw.normal()
        return [View(x)]


def test_a_large_beta_makes_the_predictor_deaf_to_the_corruption(toy) -> None:
    source, encoder = toy.blobs(300), toy.Encoder()
    labelled = labelled_rows(source)

    def spread(beta: float) -> float:
        probe = ConsistencyProbe(fraction=0.5, beta=beta, epochs=30, patience=30, batch_size=16)
        seen = []
        original = probe._copies

        def copies(*args):
            seen.append(original(*args))
            return seen[-1]

        probe._copies = copies
        nets = []
        fit = probe.fit
        probe.fit = lambda *args: nets.append(fit(*args)) or nets[-1]
        probe.predict_encoder(encoder, source, labelled, 0, Shift())
        with torch.no_grad():
            out = nets[0].net.eval()(nets[0].x["copies"]).view(*seen[0].shape[:2], -1)
            return float(consistency(out) / out.var())

    assert spread(30.0) < 0.5 * spread(1e-6)


def test_without_views_it_is_supervised_alone(toy) -> None:
    source, encoder = toy.blobs(200), toy.Encoder()
    labelled = labelled_rows(source)
    probe, plain = ConsistencyProbe(epochs=2), ConsistencyProbe(epochs=2, beta=0.0)
    a = probe.predict_encoder(encoder, source, labelled, 0).score
    b = plain.predict_encoder(encoder, source, labelled, 0, toy.Views()).score
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"epochs": 0}, {"dropout": 1.0}])
def test_options_out_of_range(options) -> None:
    with pytest.raises(ValueError, match="lr must be above 0"):
        MLPProbe(**options)
    with pytest.raises(ValueError):
        ConsistencyProbe(**options)


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"beta": -1.0}, {"copies": 0}])
def test_semi_supervised_options_out_of_range(options) -> None:
    with pytest.raises(ValueError):
        ConsistencyProbe(**options)
