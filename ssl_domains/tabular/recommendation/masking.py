"""Two views of an item by masked features: correlated, random, and the baselines beside them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source, Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.tabular.recommendation.dependence import mutual_information
from ssl_domains.tabular.recommendation.spec import EMPTY, RecommendationSpec

Features = dict[str, Tensor | dict[str, Tensor]]


def correlated_sets(information: np.ndarray) -> np.ndarray:
    """``[k, k]`` bool: row s is the masked set of seed s.

    The seed and the ``floor(k / 2)`` features with the largest mutual information with it (ties:
    the first), as in section 4.2 of the paper.
    """
    k = len(information)
    others = np.where(np.eye(k, dtype=bool), -np.inf, information)
    near = np.argsort(-others, axis=1, kind="stable")[:, : k // 2]
    masked = np.eye(k, dtype=bool)
    np.put_along_axis(masked, near, True, axis=1)
    return masked


@views("feature_masking")
class FeatureMasking(Views):
    """Two views of each item, by hidden features and then by dropped values.

    (Yao et al., CIKM 2021, arXiv 2007.12865, section 4.) In a view a hidden feature has the
    learned default vector of its slot in place of its own. What is hidden is drawn anew each step,
    the same for all items of it.

    * ``correlated``: a seed drawn uniformly and the features that tell most about it are hidden in
      the first view, all others in the second;
    * ``random``: a random half, and the other half;
    * ``independent``: two random halves that know nothing of each other;
    * ``none``: nothing is hidden. With ``feature_dropout`` this is the paper's feature-dropout
      baseline; with neither it is a softmax version of spread-out regularisation.

    ``params["hidden"]``: ``[B, k]`` bool.

    Args:
        spec: of the interactions.
        masking: see above.
        dropout: probability with which each value of a list (categories of an app, genres of a
            film) is dropped in each view. Default 0.2, ours.
        feature_dropout: probability with which each feature is hidden besides, by itself in each
            view and for each item.
        normalized: of the mutual information; see :func:`mutual_information`.
        bins: quantile bins of a number, for the mutual information.
        side: ``item``, or ``user``.
    """

    def __init__(
        self,
        spec: RecommendationSpec,
        masking: Literal["correlated", "random", "independent", "none"] = "correlated",
        dropout: float = 0.2,
        feature_dropout: float = 0.0,
        normalized: bool = False,
        bins: int = 16,
        side: Literal["item", "user"] = "item",
    ) -> None:
        for key, value in (("dropout", dropout), ("feature_dropout", feature_dropout)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"views.{key} is a probability and must lie in [0, 1), got {value}")
        if bins < 2:
            raise ValueError(f"views.bins must be at least 2, got {bins}")
        if not isinstance(spec, RecommendationSpec):
            raise ValueError("views 'feature_masking' needs interactions: give data.user and data.item")
        self.features = spec.side(side).features
        if masking != "none" and len(self.features) < 3:
            raise ValueError(
                f"masking '{masking}' needs at least 3 features of an {side}, and there are "
                f"{len(self.features)} ({', '.join(self.features)}); give data.{side}s more "
                "columns, or set views.masking: none"
            )
        self.masking, self.dropout, self.feature_dropout = masking, dropout, feature_dropout
        self.normalized, self.bins, self.side = normalized, bins, side
        self.information: np.ndarray | None = None
        self._sets: Tensor | None = None

    def prepare(self, source: Source) -> None:
        """Computes the mutual information, once over the catalogue."""
        if self.masking == "correlated" and self._sets is None:
            catalogue: Any = getattr(source, f"{self.side}s", source)
            self.information = mutual_information(catalogue, self.bins, self.normalized)
            self._sets = torch.from_numpy(correlated_sets(self.information))

    def target_width(self, name: str, spec: object) -> int:
        """k, the number of features, for ``hidden``.

        Raises:
            KeyError: another name.
        """
        if name != "hidden":
            raise KeyError(f"these views record 'hidden', not {name!r}")
        return len(self.features)

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """Two views, with the features of this side alone."""
        x: Features = batch.x[self.side]
        return [self._view(x, hidden, draw.fork(f"view {i}")) for i, hidden in enumerate(self.sets(draw))]

    def sets(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """``[k]`` bool: what this step hides in the first view, and in the second.

        Raises:
            DataError: the views have not seen the catalogue.
        """
        k, device = len(self.features), draw.index.device
        if self.masking == "none":
            nothing = torch.zeros(k, dtype=torch.bool, device=device)
            return nothing, nothing
        if self.masking == "correlated":
            if self._sets is None:
                raise DataError("views.feature_masking needs the catalogue: call prepare(source) first")
            first = self._sets[draw.integers(0, k - 1)].to(device)
            return first, ~first
        step = draw.at(torch.zeros(1, dtype=torch.int64, device=device))
        first = step.permutation(k)[0] < k // 2
        if self.masking == "random":
            return first, ~first
        return first, step.permutation(k)[0] < k // 2

    def _view(self, x: Features, hidden: Tensor, draw: Draw) -> View:
        rows = hidden.expand(len(draw.index), -1)
        if self.feature_dropout:
            rows = rows | draw.bernoulli(self.feature_dropout, len(self.features))
        lists = x["lists"]
        assert isinstance(lists, dict)
        if self.dropout:
            lists = {name: self._dropped(codes, draw.fork(name)) for name, codes in lists.items()}
        return View({self.side: {**x, "lists": lists, "hidden": rows}}, "masked", {"hidden": rows})

    def _dropped(self, codes: Tensor, draw: Draw) -> Tensor:
        """``[B, L]`` codes with some values taken away. A value's fate does not depend on the padding."""
        return codes.masked_fill(draw.bernoulli(self.dropout, codes.shape[1]), EMPTY)
