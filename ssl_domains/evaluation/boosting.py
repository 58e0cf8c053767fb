"""Gradient-boosted trees on embeddings and raw features together."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from ssl_domains.core.registry import register
from ssl_domains.evaluation.baselines import tree_prediction
from ssl_domains.evaluation.data import Prediction, ProbeData
from ssl_domains.evaluation.probes import Probe


@register("probe", "boosted_trees")
class BoostedTreesProbe(Probe):
    """Histogram gradient boosting on embeddings joined with the raw features.

    On tables trees on the raw columns are hard to beat; what an encoder adds to them is what a
    user gains. So the row of the raw features is trees on the raw features alone, and those of
    the encoders are trees on both. The number of trees is chosen on the validation rows.

    Args:
        join_raw: False: embeddings alone.
        components: wider embeddings are reduced to so many principal components of the training
            rows first (the time of the trees grows with the columns).
        max_iter: most trees a class or output.
        learning_rate: shrinkage.
    """

    def __init__(
        self, join_raw: bool = True, components: int = 64, max_iter: int = 200, learning_rate: float = 0.1
    ) -> None:
        if components < 1 or max_iter < 1 or not learning_rate > 0:
            raise ValueError("components and max_iter must be at least 1, and learning_rate above 0")
        self.joins_raw, self.components = join_raw, components
        self.max_iter, self.learning_rate = max_iter, learning_rate

    def predict(self, data: ProbeData, seed: int) -> Prediction:
        alone = self.joins_raw and data.raw is None  # the row of the raw features
        x = data.x if alone else self._narrow(data.x)
        if data.raw is not None:
            x = {split: np.concatenate([values, data.raw[split]], axis=1) for split, values in x.items()}
        joined = ProbeData(x, data.y, data.task, data.n_classes)
        return tree_prediction(joined, self.max_iter, self.learning_rate)

    def _narrow(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """At most :attr:`components` columns."""
        n = min(self.components, len(x["train"]))
        if x["train"].shape[1] <= self.components:
            return x
        pca = PCA(n, svd_solver="randomized", random_state=0).fit(x["train"])
        return {split: np.asarray(pca.transform(v), dtype=np.float32) for split, v in x.items()}
