"""What crosses the seams: Batch, View, Tokens, Encoded, Mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssl_domains.core.layout import Layout


def move(value: Any, device: torch.device | str, non_blocking: bool = True) -> Any:
    """Moves tensors, mappings and sequences of them, and anything with ``.to(device)``."""
    if isinstance(value, Mapping):
        return {key: move(item, device, non_blocking) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "to"):
        return type(value)(move(item, device, non_blocking) for item in value)
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    return value.to(device) if hasattr(value, "to") else value


@dataclass
class Batch:
    """One batch of samples.

    Attributes:
        x: what an encoder eats: a tensor, padded tensor and lengths, a PyG ``Data`` or
            ``Batch``, a dict of columns; ``{modality: x}`` across modalities.
        index: ``[B]`` int64, the samples' stable GLOBAL row numbers. Banks, mask seeds,
            cluster targets and curation rely on it.
        label: ``[B, ...]`` or None. Read by probes and by the few methods that declare it
            (``Method.uses_labels``); the trainer takes it away from all others.
        meta: aligned side columns by name (length, group, time, position ...).
    """

    x: Any
    index: Tensor
    label: Tensor | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """A copy on ``device``."""
        return Batch(
            move(self.x, device), move(self.index, device), move(self.label, device), move(self.meta, device)
        )

    def with_x(self, x: Any) -> Batch:
        """The same samples with another ``x``."""
        return replace(self, x=x)


@dataclass
class View:
    """An augmented ``x``.

    Attributes:
        x: same type as :attr:`Batch.x`; row b is still sample ``Batch.index[b]``.
        role: what it is for: ``global``, ``local``, ``clean``, ``corrupted``, ``style`` ...
        params: what was done to it, as tensors ``[B, ...]`` (crop box, corrupted cells ...).
    """

    x: Any
    role: str = "global"
    params: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Alteration:
    """What a mask does to the numbers within tokens (TERA): read by encoders whose layout names ``channels``.

    Attributes:
        counted: ``[B, N, C]`` bool, the entries that the loss reads; never of padding.
        cleared: ``[B, N, C]`` bool, entries that are set to 0.
        donor: ``[B, N]`` int64, the token of the same sample whose content stands here (itself by default);
            None: everywhere its own.
        noise: ``[B, N, C]`` added at the end, or None.
    """

    counted: Tensor
    cleared: Tensor
    donor: Tensor | None = None
    noise: Tensor | None = None

    def apply(self, values: Tensor) -> Tensor:
        """The altered copy of ``values [B, N, C]``, which stay as they are."""
        if self.donor is not None:
            values = torch.gather(values, 1, self.donor[..., None].expand_as(values))
        values = values.masked_fill(self.cleared, 0.0)
        return values if self.noise is None else values + self.noise.to(values.dtype)


@dataclass
class Mask:
    """Which tokens are hidden.

    Attributes:
        hidden: bool over the tokens, ``[B, N]`` or ragged ``[S]``: the tokens to predict.
        context: ``[B, n_c]`` int64 indices of the tokens that a sequence encoder sees, or
            None: then it sees ``~hidden``.
        targets: ``[K, B, n_t]`` int64: K target sets a sample (latent prediction), equal in
            length within a batch; may overlap one another. None: one set, ``hidden``.
        substitute: int64 over the tokens for encoders that replace instead of drop: -1
            takes the learned mask token, ``j >= 0`` the content of token j (of the flattened
            token axis); read where ``hidden``. None: the mask token everywhere.
        alteration: numbers within tokens are altered instead of whole tokens hidden; ``hidden`` are then the
            tokens with an entry that the loss reads. None: tokens as wholes.
    """

    hidden: Tensor
    context: Tensor | None = None
    targets: Tensor | None = None
    substitute: Tensor | None = None
    alteration: Alteration | None = None

    @property
    def visible(self) -> Tensor:
        """Complement of :attr:`hidden`."""
        return ~self.hidden

    def context_index(self) -> Tensor:
        """``[B, n_c]``: :attr:`context`, or the visible tokens of each row in order.

        Raises:
            ValueError: rows hide different numbers of tokens, so there is no rectangle.
        """
        if self.context is not None:
            return self.context
        counts = self.visible.sum(dim=1)
        n = int(counts.max())
        if bool((counts != n).any()):
            raise ValueError("rows of this mask leave different numbers of tokens visible; give Mask.context")
        return self.hidden.to(torch.int8).argsort(dim=1, stable=True)[:, :n]


@dataclass
class Tokens:
    """Token values, padded ``[B, N, D]`` or ragged ``[S, D]``.

    Attributes:
        values: the tokens.
        layout: where they sit; None for plain sequences.
        padding: ``[B, N]`` bool, True where there is no token; None: all are real.
        segment: ``[S]`` int64 sample of each row; given exactly when the values are ragged.
    """

    values: Tensor
    layout: Layout | None = None
    padding: Tensor | None = None
    segment: Tensor | None = None

    @property
    def ragged(self) -> bool:
        """True for ``[S, D]`` values."""
        return self.segment is not None

    def select(self, mask: Mask) -> Tensor:
        """``[M, D]``: the tokens that the mask asks to predict.

        With target index sets, row ``((k * B) + b) * n_t + i`` is the i-th target of set k
        of sample b. Otherwise the hidden tokens in order; padded ones never appear.
        """
        if mask.targets is not None and not self.ragged:
            k, b, n = mask.targets.shape
            index = mask.targets.permute(1, 0, 2).reshape(b, k * n, 1)
            picked = torch.gather(self.values, 1, index.expand(-1, -1, self.values.shape[-1]))
            return picked.view(b, k, n, -1).permute(1, 0, 2, 3).reshape(k * b * n, -1)
        hidden = mask.hidden if self.padding is None else mask.hidden & ~self.padding
        return self.values[hidden]

    def flat(self) -> Tensor:
        """``[M, D]``: all real tokens of all samples."""
        if self.ragged:
            return self.values
        return self.values.flatten(0, 1) if self.padding is None else self.values[~self.padding]

    def padded(self, n_samples: int) -> tuple[Tensor, Tensor | None]:
        """``[B, T, D]`` values, and ``[B, T]`` bool where there is a token; None: everywhere.

        Raises:
            ValueError: ragged tokens that belong to another number of samples (all nodes of one
                graph, whose samples are the nodes themselves).
        """
        if self.segment is None:
            return self.values, None if self.padding is None else ~self.padding
        counts = torch.bincount(self.segment, minlength=n_samples)
        if len(counts) != n_samples or bool((counts == 0).any()):
            raise ValueError(
                f"the tokens belong to {int((counts > 0).sum())} samples, and there are {n_samples}"
            )
        first = counts.cumsum(0) - counts
        place = torch.arange(len(self.values), device=self.values.device) - first[self.segment]
        valid = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
        dense = self.values.new_zeros(*valid.shape, self.values.shape[-1])
        return dense.index_put((self.segment, place), self.values), valid


@dataclass
class Encoded:
    """What an encoder returns.

    Attributes:
        tokens: last layer, without register tokens; only the visible ones when an encoder
            dropped the hidden ones.
        pooled: ``[B, D]`` one vector a sample.
        layers: all hidden states when asked for.
        extra: what the domain's own predictor wants besides (register tokens ...).
    """

    tokens: Tokens
    pooled: Tensor
    layers: list[Tensor] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Output(NamedTuple):
    """What a method returns for one batch (a named tuple, so that DDP and FSDP2 find its tensors).

    Attributes:
        loss: scalar with gradient.
        parts: named scalars for the log, without gradient.
        stages: embeddings by stage, ``[N, D]`` without gradient: ``tokens``, ``encoder``
            (pooled), ``projector``, ``predictor``, ``teacher``. The guard watches them.
        trivial: values of the loss when nothing is learned, by name.
    """

    loss: Tensor
    parts: dict[str, Tensor] = {}
    stages: dict[str, Tensor] = {}
    trivial: dict[str, float] = {}
