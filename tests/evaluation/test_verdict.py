"""The sentence on top of the report: what it calls better."""

import pytest

from ssl_domains.evaluation.results import Evaluation, Row
from ssl_domains.evaluation.verdict import verdict


def found(metric, ours, random):
    rows = [
        Row("pretrained", "linear", metric, ours, 0.01, 100, "resamples of the test rows", True),
        Row("random", "linear", metric, random, 0.01, 3, "encoder initialisations", True),
    ]
    return Evaluation(task="regression", rows=rows, width=4)


@pytest.mark.parametrize(
    ("metric", "ours", "random", "sentence"),
    [
        ("accuracy", 0.9, 0.5, "Pretraining helped"),
        ("accuracy", 0.5, 0.9, "Pretraining hurt"),
        ("accuracy", 0.5, 0.505, "Pretraining made no clear difference"),
        ("mae", 0.5, 0.9, "Pretraining helped"),
        ("mae", 0.9, 0.5, "Pretraining hurt"),
        ("equal_error_rate", 0.1, 0.4, "Pretraining helped"),
    ],
)
def test_a_falling_error_helps(metric, ours, random, sentence):
    assert verdict(found(metric, ours, random)).startswith(sentence)
