"""Classifiers of the methods themselves: scored as they predict, kept when the encoder is evaluated again."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import ssl_domains
from ssl_domains.evaluation.classifiers import classifier_rows
from ssl_domains.evaluation.report import probe_title
from ssl_domains.image.domain import ImageDomain


class Guesser(nn.Module):
    """Class 3 for everything by one classifier, the truth by another."""

    uses_labels = True

    def __init__(self, truth):
        super().__init__()
        self.truth, self.unused, self.sizes = truth, nn.Parameter(torch.zeros(1)), []

    def class_scores(self, batch):
        assert not self.training
        self.sizes.append(len(batch.index))
        three = torch.zeros(len(batch.index), 10)
        three[:, 3] = 5.0
        return {"three": three, "truth": torch.eye(10)[self.truth[batch.index.numpy()]]}


def test_scores_are_those_of_the_test_rows():
    source = ImageDomain().open("sklearn://digits", limit=300)
    labels = np.asarray(source.labels)
    method = Guesser(labels)
    rows = {row.probe: row for row in classifier_rows(method, source, batch_size=8) if row.main}
    test = labels[source.splits["test"]]
    assert rows["classifier(three)"].mean == np.mean(test == 3)
    assert rows["classifier(truth)"].mean == 1.0
    assert sum(method.sizes) == len(test)
    assert max(method.sizes) == 8
    assert method.training


def test_a_method_without_labels_has_none():
    source = ImageDomain().open("sklearn://digits", limit=100)
    method = Guesser(np.asarray(source.labels))
    method.uses_labels = False
    assert classifier_rows(method, source) == []


def test_they_are_in_the_evaluation_and_stay_there(tmp_path):
    run = ssl_domains.pretrain(
        "image/sla", "train.steps=2", "data.limit=200", "evaluate.probes=[knn]", "evaluate.seeds=1",
        run=tmp_path / "run", progress=False,
    )  # fmt: skip
    found = {row.probe: row.mean for row in run.evaluation.rows if row.main and row.features == "pretrained"}
    assert set(found) == {"knn", "classifier(single)", "classifier(aggregated)", "classifier(distilled)"}
    again = ssl_domains.evaluate(run.path)
    assert {r.probe: r.mean for r in again.evaluation.rows if r.main and r.features == "pretrained"} == found
    assert probe_title("classifier(distilled)") in (run.path / "report.html").read_text()
