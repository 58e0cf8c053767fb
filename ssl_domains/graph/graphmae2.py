"""GraphMAE2 (Hou et al., WWW 2023): random re-maskings, and a teacher's latents as a second target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Mask, Output
from ssl_domains.core.interfaces import Encoder, Masker
from ssl_domains.core.methods._common import momentum_ramp, stages
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.objectives.numerics import global_mean
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.graph.layers import KINDS, edges_of


@method("graphmae2")
class GraphMAE2(MaskedReconstruction):
    """GraphMAE with random re-masking and a latent target (GraphMAE2, WWW 2023, section 3).

    The decoder's input is re-masked ``remaskings`` times, each time at other random nodes (hidden
    ones or not), by a learned token; the reconstruction errors of the hidden nodes are summed. Beside
    it a predictor tells, from the masked graph, what an EMA teacher's projection says of the whole
    one: at the visible nodes, or at the seeds of a sampled batch.

    Args:
        encoder: a graph encoder.
        objective: of the reconstruction, ``scaled_cosine``.
        masker: hides nodes.
        predictor: options of the encoder's predictor, which is the decoder; its kind passes messages.
        remaskings: K. Default 3 (the authors' code). 0: the hidden nodes are re-masked once, as in GraphMAE,
            so that the latent term is an option of GraphMAE (and ``latent_weight: 0`` GraphMAE itself).
        remask: share of the nodes re-masked. Default 0.5.
        latent_weight: weight of the latent term, lambda. Default 1.
        latent_width: hidden width of the projector. Default 256.
        momentum: of the teacher, a number or ``[start, end]``. Default 0.996.

    Parts: ``reconstruction`` (the mean over the re-maskings) and ``latent``.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        masker: Masker,
        predictor: Mapping[str, Any] | None = None,
        remaskings: int = 3,
        remask: float = 0.5,
        latent_weight: float = 1.0,
        latent_width: int = 256,
        momentum: float | tuple[float, float] = 0.996,
    ) -> None:
        super().__init__(encoder, objective, masker, {**(predictor or {}), "remask": remaskings == 0})
        if remaskings < 0 or not 0.0 <= remask < 1.0 or latent_weight < 0:
            raise ValueError(
                "method.remaskings must be >= 0, method.remask in [0, 1), method.latent_weight >= 0"
            )
        if getattr(self.predictor, "kind", None) not in KINDS:
            raise ValueError(f"method.predictor.kind must be one of {', '.join(KINDS)} for graphmae2")
        self.remaskings, self.remask, self.latent_weight = remaskings, remask, latent_weight
        width = encoder.width
        self.remask_token = nn.Parameter(torch.zeros(1, width))
        self.projector = nn.Sequential(
            nn.Linear(width, latent_width), nn.PReLU(), nn.Linear(latent_width, width)
        )
        self.latent_predictor = nn.Sequential(nn.PReLU(), nn.Linear(width, width))
        self.teacher_encoder, self.teacher_projector = Teacher(encoder), Teacher(self.projector)
        self.momentum = momentum_ramp(momentum, "linear")

    def forward(self, batch: Batch, draw: Draw) -> Output:
        x = batch.x
        layout = self.encoder.layout(x)
        mask = self.masker(layout, draw.fork("mask"))
        encoded = self.encoder(x, mask)
        target = self.encoder.targets(x).select(mask)
        at = draw.fork("remask").at(layout.index)  # type: ignore[union-attr]
        if self.remaskings:
            latents = self.predictor.project(encoded.tokens.values)  # type: ignore[operator]
            guesses = [self._decode(latents, x, mask, at) for _ in range(self.remaskings)]
        else:
            guesses = [self.predictor(encoded, mask, x)]
        found = [self.objective(guess, target) for guess in guesses]
        latent = self._latent(batch, encoded.tokens.values, mask)
        rebuilt = torch.stack([terms.total for terms in found]).sum()
        total = rebuilt + self.latent_weight * latent
        parts = {"reconstruction": (rebuilt / len(found)).detach(), "latent": latent.detach()}
        return Output(total, parts, stages(encoded), {})

    def _decode(self, latents: Tensor, x: Any, mask: Mask, draw: Draw) -> Tensor:
        """``[M, F]`` features of the hidden nodes after re-masking of ``int(remask * N)`` random nodes."""
        chosen = draw.bits().argsort()[: int(self.remask * len(latents))]
        gone = torch.zeros(len(latents), 1, dtype=torch.bool, device=latents.device)
        gone[chosen] = True
        shown = torch.where(gone, self.remask_token.to(latents.dtype), latents)
        decoder: Any = self.predictor
        return decoder.decode(decoder.dropout(shown), *edges_of(x))[mask.hidden]

    def _latent(self, batch: Batch, tokens: Tensor, mask: Mask) -> Tensor:
        """Mean ``1 - cos`` at the visible nodes, or at the seeds where the batch is a sample."""
        seeds = self.encoder.layout(batch.x).seeds  # type: ignore[union-attr]
        rows = ~mask.hidden if seeds is None else seeds
        prediction = self.latent_predictor(self.projector(tokens[rows]))
        with torch.no_grad():
            target = self.teacher_projector(self.teacher_encoder(batch.x).tokens.values[rows])
        cosine = F.cosine_similarity(prediction.float(), target.float(), dim=1, eps=1e-12)
        return global_mean(1.0 - cosine)

    def after_step(self, progress: Progress) -> None:
        momentum = self.momentum.value(progress.fraction)
        self.teacher_encoder.update(self.encoder, momentum)
        self.teacher_projector.update(self.projector, momentum)
        super().after_step(progress)
