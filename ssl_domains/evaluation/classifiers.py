"""Classifiers that a method trains itself (label augmentation, joint training), scored on the test rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ssl_domains.core.interfaces import Source
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import Prediction, labelled_rows
from ssl_domains.evaluation.embeddings import to_device
from ssl_domains.evaluation.results import Row

if TYPE_CHECKING:
    from ssl_domains.core.methods.base import Method

RESAMPLES = 100


@torch.no_grad()
def classifier_rows(
    method: Method, source: Source, max_rows: int = 50_000, batch_size: int = 1024
) -> list[Row]:
    """Scores of the method's own classifiers, as rows ``classifier(NAME)``; none where it has none.

    Args:
        method: after training.
        source: data with splits and classes.
        max_rows: labelled rows a split.
        batch_size: rows a pass.
    """
    found = labelled_rows(source, max_rows)
    if not method.uses_labels or isinstance(found, str) or found.task != "classification":
        return []
    test = found.rows["test"]
    step = len(test) if source.full_batch else batch_size
    where, training = next(method.parameters()).device, method.training
    method.eval()
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(test), max(step, 1)):
        batch = to_device(source.fetch(test[start : start + step]), where)
        for name, scores in method.class_scores(batch).items():
            parts.setdefault(name, []).append(scores.float().softmax(dim=1).cpu().numpy())
    method.train(training)
    rows = []
    for name, pieces in parts.items():
        score = np.concatenate(pieces)
        guess = Prediction(score.argmax(axis=1), score)
        spread = metrics.bootstrap(found.labels[test], guess, found.task, RESAMPLES)
        rows += [
            Row(
                "pretrained", f"classifier({name})", metric, value, spread.get(metric, float("nan")),
                RESAMPLES, "resamples of the test rows", metric == metrics.MAIN[found.task],
            )
            for metric, value in metrics.score(found.labels[test], guess, found.task).items()
        ]  # fmt: skip
    return rows
