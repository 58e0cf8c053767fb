"""Alice: one part of the body in two patients, a masked student, its teacher, aligned tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Masker, Source, Views
from ssl_domains.core.layout import Grid
from ssl_domains.core.methods._common import momentum_ramp, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.methods.ibot import for_tokens
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.parts.prototypes import Prototypes
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.medical3d.encoders.base import StagedEncoder
from ssl_domains.medical3d.spec import VolumeSpec


class CrossAttention(nn.Module):
    """CASA: one block of cross-attention, residual and layer norm after each part (section 3.3).

    Args:
        width: of the tokens; 512 in the paper.
        heads: 8, so 64 numbers a head.
        ffn: hidden width; 2048.
        dropout: 0.1.
    """

    def __init__(self, width: int = 512, heads: int = 8, ffn: int = 2048, dropout: float = 0.1) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"method.prototypes {width} must be a multiple of method.heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), nn.ReLU(), nn.Linear(ffn, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, query: Tensor, keys: Tensor, drop: bool = True) -> Tensor:
        """``query [B, N, D]`` attends to ``keys [B, M, D]``, which carry no positions: ``[B, N, D]``.

        Args:
            query: tokens.
            keys: tokens, keys and values alike.
            drop: whether dropout is on in training mode (off for the teacher's side).
        """
        rate = self.dropout if self.training and drop else 0.0
        q, k, v = self._split(self.query(query)), self._split(self.key(keys)), self._split(self.value(keys))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate).transpose(1, 2).flatten(2)
        x = self.norm1(query + F.dropout(self.out(mixed), rate, training=rate > 0))
        return self.norm2(x + F.dropout(self.ffn(x), rate, training=rate > 0))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(len(x), x.shape[1], self.heads, -1).transpose(1, 2)


class Seen(NamedTuple):
    """What a network says of crops: pooled and tokens as K outputs, and the decoder's last map."""

    pooled: Tensor
    whole: Tensor
    encoder_tokens: Tensor
    decoder_tokens: Tensor
    coarsest: Tensor
    finest: Tensor | None


class AliceNet(nn.Module):
    """Backbone and heads; the student's, and by EMA the teacher's.

    Encoder tokens (the coarsest stage) and those of the first decoder stage each go through a linear map to
    one width, then, as the pooled vector does, through DINO's head. Pooled vectors and tokens have last
    layers of their own in the student; the teacher's serves both (iBOT's defaults).
    """

    def __init__(
        self, encoder: StagedEncoder, hidden: Sequence[int], prototypes: int, width: int | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        inner = encoder.width if width is None else width
        self.map_encoder = nn.Linear(encoder.width, inner)
        self.map_decoder = nn.Linear(encoder.decoder_widths[0], inner)
        self.map_pooled = nn.Identity() if inner == encoder.width else nn.Linear(encoder.width, inner)
        self.trunk = mlp(inner, hidden, norm="none", activation="gelu")
        self.last_pooled = Prototypes(hidden[-1], prototypes)
        self.last_tokens = Prototypes(hidden[-1], prototypes)

    def forward(self, voxels: Tensor, shared: bool, full: bool, frozen_last: bool = False) -> Seen:
        """Heads of prepared voxels.

        Args:
            voxels: ``[B, C, D, H, W]``, prepared.
            shared: the pooled vector's last layer serves the tokens, too (teacher).
            full: run the whole decoder (student).
            frozen_last: the last layers get no gradient.
        """
        maps = self.encoder.stages(voxels)
        decoded = self.encoder.decode(voxels, maps, None if full else 1)
        coarse, first = maps[-1].flatten(2).transpose(1, 2), decoded[0].flatten(2).transpose(1, 2)
        pooled = coarse.mean(dim=1)
        whole = self.last_pooled(self.trunk(self.map_pooled(pooled)), frozen=frozen_last)
        last = self.last_pooled if shared else self.last_tokens

        def outputs(tokens: Tensor) -> Tensor:
            flat = last(self.trunk(tokens).flatten(0, 1), frozen=frozen_last)
            return flat.view(*tokens.shape[:2], -1)

        return Seen(
            pooled, whole, outputs(self.map_encoder(coarse)), outputs(self.map_decoder(first)), maps[-1],
            decoded[-1] if full else None,
        )  # fmt: skip


@method("alice")
class Alice(Method):
    """Alice (Jiang et al., ICCV 2023, arXiv 2302.05615; details of the authors' code).

    Views are a query and an anchor: the same part of the body in two patients (``anatomical_pairs``). The
    student sees them with an axial grid of columns set to 0, the teacher whole. Three terms, each of weight
    1: pooled vectors across the two views (patients) only; tokens within a view only, aligned by
    cross-attention (CASA): encoder tokens of the student ask decoder tokens, once the student's and once
    the teacher's; reconstruction: ``10 * MSE / 2`` over all voxels, hidden or not, on the window's scale.

    The paper's backbone, nnFormer, is in no kept library; Swin UNETR or a U-Net takes its place.

    Args:
        encoder: with a decoder.
        objective: ``teacher_cross_entropy``; the paper: student 0.1, teacher 0.008 to 0.01, center 0.9. Its
            settings serve the tokens, too, with a center of their own.
        views: two views.
        masker: over the columns' grid; the paper's is ``tube`` with 0.75: 12 of 16 columns, all slices alike.
        spec: of the data.
        cells: sides of a masking cell in voxels. Default 16 (of 64), or a quarter of the side if less.
        projector: widths of DINO's head before its last layer. Default ``[2048, 2048, 256]``.
        prototypes: K outputs, the width of CASA. Default 512.
        heads: of CASA.
        ffn: hidden width of CASA.
        dropout: of CASA.
        weights: of the class, token and reconstruction terms. Default 1, 1, 10 / 2.
        align: with CASA; False: encoder tokens are compared as they are.
        masked: False: the student sees whole crops.
        freeze_last: epochs in which the last layers do not move. Default 1.
        momentum: EMA momentum ``[start, end]`` along a cosine; ``[0.996, 1.0]``.
        export: whose encoder is exported, ``student`` or ``teacher``.

    Raises:
        ValueError: an encoder without a decoder, another objective, settings out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: TeacherCrossEntropy,
        views: Views,
        masker: Masker,
        spec: VolumeSpec,
        cells: Sequence[int] | int | None = None,
        projector: Sequence[int] = (2048, 2048, 256),
        prototypes: int = 512,
        heads: int = 8,
        ffn: int = 2048,
        dropout: float = 0.1,
        weights: tuple[float, float, float] = (1.0, 1.0, 5.0),
        align: bool = True,
        masked: bool = True,
        freeze_last: int = 1,
        momentum: float | tuple[float, float] = (0.996, 1.0),
        export: Literal["student", "teacher"] = "student",
    ) -> None:
        super().__init__()
        if not isinstance(encoder, StagedEncoder):
            raise ValueError("method 'alice' wants monai_swin_unetr, monai_unet or monai_resnet")
        encoder.need_decoder()
        if not isinstance(objective, TeacherCrossEntropy):
            raise ValueError("method 'alice' wants the objective teacher_cross_entropy")
        if not projector or export not in ("student", "teacher"):
            raise ValueError("method.projector must hold a width, and method.export is student or teacher")
        self.objective, self.views, self.masker = objective, views, masker
        self.token_objective = for_tokens(objective)
        self.student = AliceNet(encoder, projector, prototypes)
        self.teacher = Teacher(self.student)
        self.casa = CrossAttention(prototypes, heads, ffn, dropout) if align else None
        conv = nn.Conv3d if spec.dims == 3 else nn.Conv2d
        self.reconstruct = conv(encoder.decoder_widths[-1], spec.channels, 1)
        self.embedding_width = prototypes
        default = [min(16, max(s // 4, 1)) for s in spec.size]
        sides = default if cells is None else [cells] * spec.dims if isinstance(cells, int) else list(cells)
        if len(sides) != spec.dims or any(c < 1 or s % c for s, c in zip(spec.size, sides, strict=False)):
            raise ValueError(f"method.cells {sides} does not divide samples of {list(spec.size)}")
        self.grid = Grid(tuple(s // c for s, c in zip(spec.size, sides, strict=True)))
        self.weights, self.masked = tuple(weights), masked
        self.freeze_last, self.frozen = freeze_last, freeze_last > 0
        self.momentum, self.export = momentum_ramp(momentum, "cosine"), export

    @property
    def encoder(self) -> StagedEncoder:  # type: ignore[override]
        """The student's."""
        return self.student.encoder

    @classmethod
    def objective_width(cls, encoder: Encoder, options: Mapping[str, Any]) -> int:
        """K."""
        return int(options.get("prototypes", 512))

    def before_epoch(self, source: Source, epoch: int) -> None:
        """The last layers stand still in the first epochs (DINO, appendix)."""
        super().before_epoch(source, epoch)
        self.frozen = epoch < self.freeze_last

    def visible(self, x: Tensor, draw: Draw) -> Tensor:
        """``[B, 1, *sides]``: 1 where the student sees a voxel, 0 in hidden columns."""
        if not self.masked:
            return x.new_ones(len(x), 1, *x.shape[2:])
        mask = self.masker(self.grid, draw)
        shown = (~mask.hidden).view(len(x), 1, *self.grid.shape).to(x.dtype)
        return F.interpolate(shown, [int(s) for s in x.shape[2:]])

    def forward(self, batch: Batch, draw: Draw) -> Output:
        query, anchor = (view.x for view in self.views(batch, draw.fork("views"))[:2])
        x = torch.cat([query, anchor])
        shown = torch.cat([self.visible(v, draw.fork(f"mask{i}")) for i, v in enumerate((query, anchor))])
        staged = self.encoder
        hidden = staged.prepare(x * shown)
        student: Seen = self.student(hidden, shared=False, full=True, frozen_last=self.frozen)
        teacher: Seen = self.teacher(staged.prepare(x), shared=True, full=False)
        between = self.objective(list(student.whole.chunk(2)), list(teacher.whole.chunk(2)))
        own, target = self.aligned(student, teacher)
        tokens = self.token_objective(own.flatten(0, 1), target.flatten(0, 1))
        assert student.finest is not None
        rebuilt = F.mse_loss(self.reconstruct(student.finest), x)
        a, b, c = self.weights
        total = a * between.total + b * tokens.total + c * rebuilt
        parts = {"class": between.total.detach(), "tokens": tokens.total.detach(), "mse": rebuilt.detach()}
        parts |= {f"class_{name}": value for name, value in between.parts.items()}
        parts |= {f"token_{name}": value for name, value in tokens.parts.items()}
        seen = stages(self.staged_encoded(student.coarsest), projector=student.whole, teacher=teacher.whole)
        return Output(total, parts, seen)

    def staged_encoded(self, coarsest: Tensor) -> Any:
        """Tokens and pooled vector for the guard."""
        return self.encoder.encoded(coarsest)

    def aligned(self, student: Seen, teacher: Seen) -> tuple[Tensor, Tensor]:
        """(student's tokens, teacher's tokens) ``[2B, N, K]``, comparable place by place; the teacher's side
        carries no gradient."""
        if self.casa is None:
            return student.encoder_tokens, teacher.encoder_tokens.detach()
        own = self.casa(student.encoder_tokens, student.decoder_tokens)
        with torch.no_grad():
            target = self.casa(student.encoder_tokens, teacher.decoder_tokens, drop=False)
        return own, target

    def after_step(self, progress: Progress) -> None:
        self.teacher.update(self.student, self.momentum.value(progress.fraction))
        super().after_step(progress)
        self.token_objective.after_step(progress.fraction)

    def encoder_for_export(self) -> Encoder:
        """The student's or the teacher's, decoder included."""
        if self.export == "student":
            return self.encoder
        return self.teacher.module.encoder  # type: ignore[return-value]

    @torch.no_grad()
    def restore(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """(hidden parts at 0, what the student fills in), for the report."""
        shown = self.visible(batch.x, draw.fork("mask0"))
        staged = self.encoder
        seen: Seen = self.student(staged.prepare(batch.x * shown), shared=False, full=True)
        assert seen.finest is not None
        return batch.x * shown, self.reconstruct(seen.finest)
