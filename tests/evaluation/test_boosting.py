"""Trees on embeddings and raw features together, and the few-label curve."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from ssl_domains.core.batch import Encoded, Tokens
from ssl_domains.core.errors import RecipeError
from ssl_domains.core.interfaces import Encoder
from ssl_domains.evaluation import evaluate_encoder, write_report
from ssl_domains.evaluation.boosting import BoostedTreesProbe
from ssl_domains.evaluation.data import ProbeData
from ssl_domains.evaluation.finetune import FineTuneProbe
from ssl_domains.evaluation.label_curve import curves
from ssl_domains.evaluation.metrics import score
from ssl_domains.evaluation.probes import build_probe


def halves(n: int = 800) -> ProbeData:
    """The label is the product of one column of the embedding and one raw column."""
    rng = np.random.default_rng(0)
    z, raw = (rng.normal(size=(n, 3)).astype(np.float32) for _ in range(2))
    y = (z[:, 0] * raw[:, 1] > 0).astype(np.int64)
    cut = [n // 2, n * 3 // 4]
    z, raw, y = (dict(zip(("train", "valid", "test"), np.split(v, cut))) for v in (z, raw, y))
    return ProbeData(z, y, "classification", 2, raw)


def test_joining_sees_what_neither_side_has() -> None:
    d = halves()
    alone = ProbeData(d.x, d.y, d.task, d.n_classes)
    joined = score(d.y["test"], BoostedTreesProbe().predict(d, 0), d.task)["accuracy"]
    only = score(d.y["test"], BoostedTreesProbe().predict(alone, 0), d.task)["accuracy"]
    assert joined > 0.85
    assert only < 0.65


def test_few_labels_keep_the_rows_of_both_sides_together() -> None:
    d = halves(2000)
    part = d.with_train(np.arange(300))
    found = score(d.y["test"], BoostedTreesProbe().predict(part, 0), d.task)["accuracy"]
    assert found > 0.75


def test_wide_embeddings_are_reduced_but_raw_features_are_not() -> None:
    rng = np.random.default_rng(1)
    x = {
        s: rng.normal(size=(n, 90)).astype(np.float32)
        for s, n in (("train", 200), ("valid", 50), ("test", 50))
    }
    y = {s: (v[:, 7] > 0).astype(np.int64) for s, v in x.items()}
    probe = BoostedTreesProbe(components=4)
    assert probe._narrow(x)["test"].shape == (50, 4)
    raw = score(y["test"], probe.predict(ProbeData(x, y, "classification", 2), 0), "classification")
    assert raw["accuracy"] > 0.95, "the row of the raw features is trees on all of them"


class Constant(Encoder):
    """Says nothing."""

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x, mask=None, *, layers=False):
        pooled = 1.0 * self.weight.expand(len(x), 2)
        return Encoded(Tokens(pooled[:, None]), pooled)


def test_an_encoder_that_says_nothing_leaves_the_trees_of_the_raw_features(toy) -> None:
    probes = [{"boosted_trees": {"max_iter": 30}}]
    found = evaluate_encoder(Constant(), toy.blobs(200), probes=probes, seeds=1)
    key = "boosted_trees(max_iter=30)"
    assert found.value(key) == pytest.approx(found.value(f"{key}.raw"))


def test_label_curve_is_a_table_and_a_plot(toy, tmp_path) -> None:
    probes = ["linear", {"label_curve": {"fractions": [0.5, 0.05, 1.0]}}]
    found = evaluate_encoder(
        toy.Encoder(), toy.blobs(300), make_encoder=lambda seed: toy.Encoder(), probes=probes, seeds=2
    )
    keys = ["label_fraction(fraction=0.05)", "label_fraction(fraction=0.5)", "label_fraction(fraction=1)"]
    assert curves(found) == {"linear": [(0.05, keys[0]), (0.5, keys[1]), (1.0, keys[2])]}
    assert {row.features for row in found.rows if row.probe == keys[0]} == {"pretrained", "random", "raw"}
    page = write_report(tmp_path, found, title="t").read_text()
    assert "Few labels" in page
    assert re.search(r"<th[^>]*>5 %</th>", page)
    assert 'aria-label="few-label curve of the linear probe"' in page
    probes_table = page[page.index("<h2>Probes</h2>") : page.index("<h2>Few labels</h2>")]
    assert "label_fraction" not in probes_table.split("All scores")[0]


def test_a_curve_of_another_probe_has_its_own_key(toy) -> None:
    probes = [{"label_curve": {"fractions": [0.2, 1.0], "probe": "knn"}}, "label_curve"]
    found = evaluate_encoder(toy.Encoder(), toy.blobs(200), probes=probes, seeds=1)
    assert list(curves(found)) == ["knn", "linear"]


@pytest.mark.parametrize("probe", ["svm", "few_shot", "label_curve", "nothing"])
def test_a_curve_needs_a_probe_on_all_labels(probe) -> None:
    with pytest.raises(RecipeError, match="probe"):
        build_probe({"label_fraction": {"probe": probe}})


def test_a_curve_of_fine_tuning_is_the_semi_supervised_protocol(toy, monkeypatch) -> None:
    seen = []
    tune = FineTuneProbe.predict_encoder

    def spy(self, encoder, source, labelled, seed, views=None):
        seen.append({split: set(rows.tolist()) for split, rows in labelled.rows.items()})
        return tune(self, encoder, source, labelled, seed, views)

    monkeypatch.setattr(FineTuneProbe, "predict_encoder", spy)
    source = toy.blobs(300)
    probes = [{"label_curve": {"fractions": [0.1, 1.0], "probe": "fine_tune"}}]
    found = evaluate_encoder(
        toy.Encoder(), source, make_encoder=lambda seed: toy.Encoder(), probes=probes, seeds=1
    )
    few, everything = sorted({len(rows["train"]) for rows in seen})
    assert few == round(0.1 * everything)
    assert len({frozenset(rows["valid"]) for rows in seen}) == 1  # chosen on the same rows
    assert all(rows["train"] <= set(source.splits["train"].tolist()) for rows in seen)
    key = "label_fraction(fraction=0.1, probe=fine_tune)"
    assert {row.features for row in found.rows if row.probe == key} == {"pretrained", "random"}
    assert list(curves(found)) == ["fine_tune"]
