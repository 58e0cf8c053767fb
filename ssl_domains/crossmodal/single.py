"""One modality by itself, in the form that the towers eat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_domains.core.batch import Batch
from ssl_domains.core.interfaces import Source
from ssl_domains.crossmodal.spec import PairSpec


class SingleSource:
    """A domain's source whose batches are ``{part: x}``; everything else is the source's own.

    Implements :class:`ssl_domains.core.interfaces.Source`.
    """

    def __init__(self, base: Source, part: str, spec: PairSpec) -> None:
        self.base, self.part_name, self.spec = base, part, spec
        self.splits, self.labels, self.task = base.splits, base.labels, base.task
        self.class_names, self.full_batch = base.class_names, base.full_batch

    def __len__(self) -> int:
        return len(self.base)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """``{part: x}``."""
        batch = self.base.fetch(indices)
        return batch.with_x({self.part_name: batch.x})

    def raw_features(self, indices: np.ndarray) -> np.ndarray | None:
        """The modality's own."""
        return self.base.raw_features(indices)

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """The modality's own."""
        return self.base.ids(indices)

    def card(self) -> dict[str, Any]:
        """The modality's own."""
        return self.base.card()
