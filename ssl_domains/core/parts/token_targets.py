"""Discrete targets for tokens: codes of a random projection, or clusters of features or of an earlier
encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Source, pretrain_rows
from ssl_domains.core.parts.quantiser import RandomProjection
from ssl_domains.core.parts.teacher import Teacher


class TokenTargets(nn.Module):
    """Base: ``targets(x, encoder) -> [B, N, G]`` int64 numbers of what each token holds, without gradient.

    Attributes:
        sizes: numbers of codes of each round; the method has a head for each.
        round: which of them is on.
    """

    sizes: list[int]
    groups: int = 1
    round: int = 0

    def before_epoch(self, source: Source, encoder: Encoder, epoch: int) -> None:
        """Fits what has to be fitted."""

    def restarts(self) -> Sequence[int]:
        """Epochs at which :meth:`before_epoch` puts fresh weights into the encoder; see
        :meth:`ssl_domains.core.methods.base.Method.restarts`."""
        return ()

    def forward(self, x: Any, encoder: Encoder) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define forward")


class ProjectedTargets(TokenTargets):
    """BEST-RQ (Chiu et al., ICML 2022): what a token held, through a frozen random projection.

    Args:
        encoder: says what tokens hold (normalised features).
        codes, code_width, groups: see :class:`~ssl_domains.core.parts.quantiser.RandomProjection`.
    """

    def __init__(self, encoder: Encoder, codes: int = 8192, code_width: int = 16, groups: int = 1) -> None:
        super().__init__()
        self.sizes, self.groups = [codes], groups
        self.quantiser = RandomProjection(encoder.target_width, codes, code_width, groups)

    @torch.no_grad()
    def forward(self, x: Any, encoder: Encoder) -> Tensor:
        """``[B, N, G]``."""
        return self.quantiser(encoder.targets(x).values)


class ClusterTargets(TokenTargets):
    """HuBERT's k-means rounds (Hsu et al., TASLP 2021, section II): first clusters of features, then of a
    layer of the encoder as the round before left it.

    Numbers are made when they are needed: clusters need only their centres, later rounds a frozen copy of the
    encoder and a pass through it. So data may be cropped, mixed and streamed, and nothing is stored.

    Each round trains a new model, as in the paper: the encoder gets its first weights back (a second frozen
    copy, for as long as the run lasts), the head is the round's own, and optimizer and schedule begin anew.

    Args:
        encoder: the student.
        rounds: ``{epoch, layer, codes}`` in order: from that epoch on, ``codes`` clusters of the copy's layer
            (counted from 1; null: of what the tokens held). Default: 100 clusters of features; the paper's
            second round is ``{layer: 6, codes: 500}``.
        rows: training samples that clusters are fitted on, evenly spaced.
        frames: at most so many of their tokens, drawn at random.
        batch_size: samples at a time while fitting.
        restart: a round begins with the weights that the encoder was built with (``encoder.weights`` where
            given, random ones otherwise, also after ``init_from``). False: it goes on with the encoder as it
            is. Default True, as in the paper.

    Raises:
        ValueError: rounds out of order, or unknown keys.
    """

    def __init__(
        self,
        encoder: Encoder,
        rounds: Sequence[Mapping[str, Any]] = ({"epoch": 0, "codes": 100},),
        rows: int = 2000,
        frames: int = 200_000,
        batch_size: int = 16,
        restart: bool = True,
    ) -> None:
        super().__init__()
        known = {"epoch", "layer", "codes"}
        for one in rounds:
            if set(one) - known or "codes" not in one:
                raise ValueError(
                    f"method.targets.rounds: {dict(one)} must have codes, and may have epoch and layer"
                )
        self.rounds = [(int(r.get("epoch", 0)), r.get("layer"), int(r["codes"])) for r in rounds]
        epochs = [r[0] for r in self.rounds]
        if not self.rounds or epochs[0] != 0 or sorted(set(epochs)) != epochs:
            raise ValueError(
                "method.targets.rounds must begin with epoch 0, and each begin later than the last"
            )
        self.sizes = [codes for _, _, codes in self.rounds]
        self.rows, self.frames, self.batch_size = rows, frames, batch_size
        for number, (_, layer, codes) in enumerate(self.rounds):
            width = encoder.target_width if layer is None else encoder.width
            self.register_buffer(f"centres{number}", torch.zeros(codes, width))
        tapped = any(layer is not None for _, layer, _ in self.rounds)
        self.copy = Teacher(encoder, "copy") if tapped else None
        self.first = Teacher(encoder, "copy") if restart and len(self.rounds) > 1 else None

    def restarts(self) -> list[int]:
        return [] if self.first is None else [epoch for epoch, _, _ in self.rounds[1:]]

    def centres(self) -> Tensor:
        """``[K, W]`` of the round that is on."""
        return self.get_buffer(f"centres{self.round}")

    def get_extra_state(self) -> dict[str, Any]:
        """Which round is on."""
        return {"round": self.round}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes :meth:`get_extra_state` back."""
        self.round = int(state["round"])

    @torch.no_grad()
    def before_epoch(self, source: Source, encoder: Encoder, epoch: int) -> None:
        """Begins a round when its epoch has come."""
        begun = [number for number, (at, _, _) in enumerate(self.rounds) if at <= epoch]
        fresh = bool((self.get_buffer(f"centres{begun[-1]}") == 0).all())
        if not fresh and begun[-1] == self.round:
            return
        self.round = begun[-1]
        if self.copy is not None and self.rounds[self.round][1] is not None:
            self.copy.update(encoder, 0.0)
        self.centres().copy_(self._fitted(source, encoder))
        if self.first is not None and self.round:
            _copy(self.first.module, encoder)

    def _fitted(self, source: Source, encoder: Encoder) -> Tensor:
        from sklearn.cluster import MiniBatchKMeans

        rows = pretrain_rows(source)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), self.rows)).astype(np.int64))]
        each = max(self.frames // max(len(rows) // self.batch_size, 1), 1)
        device, rng, found = self.centres().device, np.random.default_rng(self.round), []
        for begin in range(0, len(rows), self.batch_size):
            x = source.fetch(rows[begin : begin + self.batch_size]).to(device).x
            values, padding = self._features(x, encoder)
            flat = values.flatten(0, 1) if padding is None else values[~padding]
            keep = torch.from_numpy(rng.permutation(len(flat))[:each]).to(device)
            found.append(flat[keep].float().cpu().numpy())
        z = np.concatenate(found)
        codes = self.sizes[self.round]
        if len(z) < codes:
            raise UserError(f"method.targets: {len(z)} tokens cannot form {codes} clusters; lower codes")
        model = MiniBatchKMeans(codes, batch_size=10_000, n_init=3, random_state=0, compute_labels=False).fit(
            z
        )
        return torch.from_numpy(model.cluster_centers_).to(device, torch.float32)

    def _features(self, x: Any, encoder: Encoder) -> tuple[Tensor, Tensor | None]:
        layer = self.rounds[self.round][1]
        if layer is None:
            held = encoder.targets(x)
            return held.values, held.padding
        assert self.copy is not None
        self.copy.eval()
        encoded = self.copy(x, layers=True)
        layers = encoded.layers or []
        if not 0 < int(layer) < len(layers):
            raise UserError(f"method.targets: layer {layer} of an encoder with {len(layers) - 1} blocks")
        return layers[int(layer)], encoded.tokens.padding

    @torch.no_grad()
    def forward(self, x: Any, encoder: Encoder) -> Tensor:
        """``[B, N, 1]``."""
        values, _ = self._features(x, encoder)
        with torch.autocast(values.device.type, enabled=False):
            centres = self.centres()
            half = 0.5 * centres.square().sum(dim=1)
            rows = [
                (part.float() @ centres.T - half).argmax(dim=1) for part in values.flatten(0, 1).split(16384)
            ]
        return torch.cat(rows).view(*values.shape[:2], 1)


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Weights and buffers of one module into its twin, shard by shard under FSDP2."""
    for kind in (nn.Module.parameters, nn.Module.buffers):
        for mine, theirs in zip(kind(target), kind(source), strict=True):
            mine.copy_(theirs)


def make_targets(options: Mapping[str, Any], encoder: Encoder) -> TokenTargets:
    """``{name: random_projection, ...}`` or ``{name: clusters, ...}``.

    Raises:
        ValueError: another name, or an option that it does not take.
    """
    given = dict(options)
    name = given.pop("name", "random_projection")
    kinds: dict[str, type[TokenTargets]] = {"random_projection": ProjectedTargets, "clusters": ClusterTargets}
    if name not in kinds:
        raise ValueError(f"method.targets.name must be one of {', '.join(kinds)}, got {name!r}")
    try:
        return kinds[name](encoder, **given)
    except TypeError as error:
        raise ValueError(f"method.targets: {error}") from None
