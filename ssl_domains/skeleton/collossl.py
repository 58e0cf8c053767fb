"""ColloSSL: what several devices on one body feel at one moment are views of one another."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.collectives import all_gather_rows, gather_no_grad, world_size
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.skeleton.mmd import mmd
from ssl_domains.skeleton.temporal import whole

STATIC_ROWS = 2048


@method("collossl")
class ColloSSL(Method):
    """Collaborative contrast of body-worn devices (Jain et al., IMWUT 2022, arXiv 2202.00758).

    The anchor is the device that the encoder will be used with (``encoder.device``). MMD between the
    lengths of the devices' accelerations says which other device is its positive, at the same moment;
    negatives are all other devices (the positive one, too) at other moments: their windows, permuted
    within the batch anew for each. ``L = mean_i [log(P_i + N_i) - log P_i]`` with ``P_i = sum_p exp(s(z_i,
    z_i^p) / T)`` and ``N_i = sum_n w_n exp(s(z_i, z_pi(i)^n) / T)``, w_n = 1 / MMD(anchor, n), all weights
    divided by their maximum. There is no projector; gradient runs through all devices.

    s is the cosine. The authors' released code takes a library's loss of that name, which is minus the
    cosine, so that aligned windows would be pushed apart; the paper's formula is followed here.

    A batch must be of one person (``sampler: one_group``): otherwise the task is who it is. Windows in
    which the anchor is missing take no part, missing devices are neither positive nor negative for their
    windows.

    Args:
        encoder: tokens are devices; ``device_conv``.
        objective: ``{name: info_nce, in_batch: false, aggregate: in, temperature: 0.05}``.
        views: changes the windows before they are encoded, such as rotation; None (the paper's default):
            nothing does. The first view is used.
        select: ``closest_positive``: the closest device is the positive, all are negatives (the paper's
            default, "closest_pos_all_neg"); ``all_positive``: all are both; ``random_positive``: a random
            device instead of the closest, for comparison.
        dynamic: select by each batch; False: once, on the training data.
        unsynchronised: negatives at other moments. False leaves them at the anchor's own moment, which
            contradicts the positives (an ablation of the paper).
        copies: permutations of each negative device. Default 1.

    Raises:
        ValueError: a single device, an encoder whose tokens are no devices, or options out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views | None = None,
        select: Literal["closest_positive", "all_positive", "random_positive"] = "closest_positive",
        dynamic: bool = True,
        unsynchronised: bool = True,
        copies: int = 1,
    ) -> None:
        super().__init__()
        if not hasattr(encoder, "device"):
            raise ValueError(
                "method collossl wants an encoder whose tokens are devices; use encoder: device_conv"
            )
        body = cast(Any, encoder)
        if body.points < 2:
            raise ValueError("method collossl wants at least two devices; the data have one (data.devices)")
        if select not in ("closest_positive", "all_positive", "random_positive"):
            raise ValueError(
                f"method.select is {select!r}; use closest_positive, all_positive or random_positive"
            )
        if copies < 1:
            raise ValueError(f"method.copies must be at least 1, got {copies}")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.embedding_width = encoder.pooled_width
        self.select, self.dynamic, self.unsynchronised, self.copies = select, dynamic, unsynchronised, copies
        self.anchor = int(body.device)
        self.others = [v for v in range(body.points) if v != self.anchor]
        vectors = body.spec.vectors
        self.axes = list(vectors[0]) if vectors else list(range(len(body.spec.channels)))
        self.frames = int(body.spec.frames)
        self.register_buffer("distance", torch.zeros(len(self.others)), persistent=False)

    def before_training(self, source: Source) -> None:
        """Distances on the training data, unless every batch has its own."""
        super().before_training(source)
        if self.dynamic:
            return
        rows = source.splits["train"]
        rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), STATIC_ROWS)).long().numpy()]
        level, present = self._level(source.fetch(rows).to(next(self.parameters()).device).x)
        self.distance = self._distances(level, present)

    def forward(self, batch: Batch, draw: Draw) -> Output:
        x = batch.x if self.views is None else self.views(batch, draw.fork("views"))[0].x
        encoded = self.encoder(x)
        z = F.normalize(encoded.tokens.values.float(), dim=-1)  # [B, V, D]
        level, present = self._level(batch.x)
        everyone = gather_no_grad(present)  # [G, V]
        distance = self._distances(gather_no_grad(level), everyone) if self.dynamic else self.distance
        positive = self._positives(distance, draw)  # [V - 1] bool
        negatives, there = self._negatives(z, everyone, gather_no_grad(batch.index), draw)
        others = z[:, self.others]
        weights = self._weights(distance)
        ignore = torch.cat([~present[:, self.others] | ~positive[None], ~there], dim=1)
        ignore = ignore | ~present[:, [self.anchor]]
        terms = self.objective(
            z[:, self.anchor],
            positives=others,
            query_negatives=negatives,
            weights=weights[None],
            ignore_mask=ignore,
        )
        closest = distance.min()
        known = torch.isfinite(distance)
        mean = torch.where(known, distance, 0.0).sum() / known.sum().clamp_min(1)
        parts = terms.parts | {"mmd_closest": closest, "mmd_mean": mean}
        seen = stages(encoded, projector=z[:, self.anchor])
        # No trivial value: log(1 + sum of w_n) depends on the batch, and a plain float would wait for the
        # device.
        return Output(terms.total, parts, seen)

    @torch.no_grad()
    def _level(self, x: Any) -> tuple[Tensor, Tensor]:
        """``[B, V, W]`` length of the first vector (the acceleration), and ``[B, V]`` which devices are
        there."""
        clip = whole(x, self.frames)
        points = clip["points"][:, self.axes, ..., 0]  # [B, axes, T, V]
        return points.square().sum(1).sqrt().transpose(1, 2), (clip["confidence"][..., 0] > 0).any(dim=1)

    def _distances(self, level: Tensor, present: Tensor) -> Tensor:
        """``[V - 1]`` MMD of every other device to the anchor, over the rows that both have."""
        a = self.anchor
        return torch.stack(
            [mmd(level[:, a], level[:, v], present[:, a] & present[:, v]) for v in self.others]
        )

    def _positives(self, distance: Tensor, draw: Draw) -> Tensor:
        """``[V - 1]`` bool."""
        if self.select == "all_positive":
            return torch.isfinite(distance)
        place = torch.arange(len(self.others), device=distance.device)
        if self.select == "random_positive":
            return place == draw.fork("select").integers(0, len(self.others) - 1)
        return place == distance.argmin()

    def _negatives(self, z: Tensor, everyone: Tensor, index: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """``[B, (V - 1) * copies, D]`` of other moments of the whole batch, and whether each is there
        ``[B, ...]``."""
        n = len(self.others) * self.copies
        device = torch.tensor(self.others, device=z.device).repeat(self.copies)
        gathered = all_gather_rows(z)  # [G, V, D]
        g, mine = len(gathered), slice(0, len(z))
        if world_size() > 1:
            mine = slice(dist.get_rank() * len(z), (dist.get_rank() + 1) * len(z))
        rows = torch.arange(g, device=z.device)[:, None].expand(-1, n)
        if self.unsynchronised:
            keys = Draw(draw.seed, draw.step, index).fork("other moments").bits(n)
            rows = keys.argsort(dim=0)  # a permutation for each negative device
        rows = rows[mine]
        return gathered[rows, device], everyone[rows, device]

    def _weights(self, distance: Tensor) -> Tensor:
        """``[P + Q]``: 1 for positives, 1 / MMD for negatives, over their maximum (which changes nothing)."""
        inverse = torch.where(torch.isfinite(distance), 1.0 / distance, 0.0).repeat(self.copies)
        weights = torch.cat([torch.ones_like(distance), inverse])
        return weights / weights.max()

    def check(self, *, batch_size: int, n_samples: int | None) -> list[str]:
        problems = super().check(batch_size=batch_size, n_samples=n_samples)
        if batch_size < 2:
            problems.append(
                "method collossl takes its negatives from other moments of the batch; raise train.batch_size"
            )
        return problems
