"""CrossVideoMAE (arXiv 2502.07811): a masked autoencoder of clips, one of their frames, and contrast
between both.

The abstract and published summaries confirm: two masked branches, contrast within clips, within frames and
across both on the features of visible tokens, and a plain sum of the losses. There is no official code; what
is taken from the code of its building blocks (masked autoencoders of space and time, CrossPoint) or chosen
here is said at each place, and in docs/video.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_domains.core import collectives
from ssl_domains.core.batch import Batch, Encoded, Mask, Output, View
from ssl_domains.core.interfaces import Encoder, Masker, Source, Views
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Terms
from ssl_domains.core.objectives.contrastive import NTXent
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.video.encoders.vit import VideoViT
from ssl_domains.video.encoders.weights import sizes_of
from ssl_domains.video.spec import VideoSpec


def keep_count(ratio: float, n: int) -> int:
    """``int(n * (1 - ratio))`` visible tokens of n, at least 1 (as in the code of masked autoencoders of
    space and
    time: 156 of 1,568 at 0.90, 78 at 0.95)."""
    # The products of such shares fall a hair below whole numbers (1568 * (1 - 0.75) must be 392).
    return min(max(int(n * (1 - ratio) + 1e-9), 1), n - 1)


class KeepMask(RandomMask):
    """Random tokens, other ones in every row, of which exactly :func:`keep_count` stay visible."""

    def __call__(self, layout: Any, draw: Draw) -> Mask:
        n = layout.n_tokens
        order = draw.permutation(n)
        n_hidden = n - keep_count(self.ratio, n)
        hidden = torch.zeros(len(order), n, dtype=torch.bool, device=order.device)
        hidden.scatter_(1, order[:, :n_hidden], True)
        return Mask(hidden, context=order[:, n_hidden:].sort(dim=1).values)


@method("cross_video_mae")
class CrossVideoMAE(Method):
    """Reconstruction of clips and frames, invariance within each, and contrast across, at visible tokens.

    With a clip v, its augmented version v', frames i out of it and their augmented version i', each seen
    through a mask of its own, z the projection of the mean visible token, and ``zbar = (z + z') / 2``::

        L = rec(v) + rec(i)  +  within * (NT(z_v, z_v') + NT(z_i, z_i'))  +  across * NT(zbar_v, zbar_i)

    NT is NT-Xent. With S frames a clip their z are averaged for the contrast across; with ``frame_level``
    each frame is contrasted with its clip as well (a choice made here). An encoder runs once a view: the same
    output is reconstructed from and contrasted. Clips of one video in a batch (``data.clips_per_video``) are
    no negatives of each other. With ``within: 0, across: 0`` the rest is a masked autoencoder of clips and
    one of frames.

    Args:
        encoder: of clips, one that drops hidden tokens.
        views: gives two views of role ``clip`` and two of role ``frames`` (``clip_and_frames``).
        spec: of the data.
        masker: of the clips; None: random in space and time, ``video_ratio`` hidden.
        video_ratio: hidden share of a clip's tokens; the paper has 0.90 to 0.95. Default 0.90.
        image_ratio: hidden share of a frame's tokens; the paper has 0.75 to 0.90. Default 0.75.
        predictor: options of the clips' decoder; default width 512, depth 4, 16 heads (masked autoencoders
            of space and time).
        image: options of the frames' encoder, a ``video_vit`` of single frames (variant, depth, weights ...);
            what is not given is as in the clips' encoder. ``weights``: of an image transformer, a run of
            ``image/mae`` for example; its sizes are taken from the folder where it says them, and its
            position codes are learned on. The paper starts from image pre-training; without weights it is
            random.
        image_predictor: options of the frames' decoder; default width 512, depth 8, 16 heads (MAE).
        image_lr: factor on the learning rate of the frames' branch. Default 0.1 (a choice made here).
        freeze_image: the frames' encoder stays as it is, without a loss of its own (distillation). Whether
            the paper freezes it is not confirmed.
        projector: widths of each branch's head, with batch norm between; default 256, 256 (CrossPoint).
        temperature: of NT-Xent; default 0.1 (CrossPoint).
        reconstruction, within, across: weights of the terms; default 1 each (a plain sum).
        frame_level: see above.

    Raises:
        ValueError: an encoder that keeps hidden tokens, a frozen random branch, or all weights zero.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        spec: VideoSpec,
        masker: Masker | None = None,
        video_ratio: float = 0.9,
        image_ratio: float = 0.75,
        predictor: Mapping[str, Any] | None = None,
        image: Mapping[str, Any] | None = None,
        image_predictor: Mapping[str, Any] | None = None,
        image_lr: float = 0.1,
        freeze_image: bool = False,
        projector: tuple[int, ...] = (256, 256),
        temperature: float = 0.1,
        reconstruction: float = 1.0,
        within: float = 1.0,
        across: float = 1.0,
        frame_level: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, VideoViT) or not encoder.drops_hidden:
            raise ValueError(
                "method 'cross_video_mae' wants an encoder that drops hidden tokens; use "
                "encoder=video_vit with hidden=drop"
            )
        if min(reconstruction, within, across) < 0 or reconstruction + within + across == 0:
            raise ValueError("method.reconstruction, within and across must not be negative, nor all be 0")
        if freeze_image and not (image or {}).get("weights"):
            raise ValueError(
                "method.freeze_image: a random branch teaches nothing; give method.image.weights"
            )
        self.encoder, self.views = encoder, views
        self.masker = masker or KeepMask(video_ratio)
        self.image_masker = KeepMask(image_ratio)
        self.image_encoder = _image_encoder(encoder, spec, image or {})
        decoder = {"width": 512, "depth": 4, "heads": 16, **(predictor or {})}
        self.predictor = encoder.predictor(encoder.target_width, **decoder)
        self.image_predictor: nn.Module | None = None
        if not freeze_image:
            decoder = {"width": 512, "depth": 8, "heads": 16, **(image_predictor or {})}
            self.image_predictor = self.image_encoder.predictor(self.image_encoder.target_width, **decoder)
        self.projector = mlp(encoder.pooled_width, projector)
        self.image_projector = mlp(self.image_encoder.pooled_width, projector)
        self.embedding_width = projector[-1] if projector else encoder.pooled_width
        self.objective = NTXent(temperature)  # `check` and `remedies` are its
        self.error = MaskedMSE()
        self.weights = {"reconstruction": reconstruction, "within": within, "across": across}
        self.image_lr, self.freeze_image, self.frame_level = image_lr, freeze_image, frame_level
        self.repeated = True
        self._frozen()

    def _frozen(self) -> None:
        """Without a term, what only that term trains stands still (DDP wants every parameter to get a
        gradient)."""
        if self.freeze_image:
            self.image_encoder.requires_grad_(False)
        if not self.weights["reconstruction"]:
            self.predictor.requires_grad_(False)
            if self.image_predictor is not None:
                self.image_predictor.requires_grad_(False)
            for branch in (self.encoder, self.image_encoder):
                getattr(branch, "mask_token", nn.Parameter()).requires_grad_(False)
        if not self.weights["within"] and not self.weights["across"]:
            self.projector.requires_grad_(False)
            self.image_projector.requires_grad_(False)

    def before_training(self, source: Source) -> None:
        super().before_training(source)
        self.repeated = getattr(source, "clips_per_video", 2) > 1

    def train(self, mode: bool = True) -> CrossVideoMAE:
        """A frozen branch stays in eval mode."""
        super().train(mode)
        if self.freeze_image:
            self.image_encoder.eval()
        return self

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        clips = [view for view in views if view.role == "clip"]
        frames = [view for view in views if view.role == "frames"]
        if len(clips) != 2 or len(frames) != 2:
            raise ValueError("method.cross_video_mae wants two views of clips and two of frames")
        contrast = self.weights["within"] or self.weights["across"]
        used = 2 if contrast else 1
        seen = [self._clip(v, draw.fork(f"mask{i}")) for i, v in enumerate(clips[:used])]
        stills = [self._stills(v, draw.fork(f"still{i}")) for i, v in enumerate(frames[:used])]
        total = batch.x.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        shown = stages(seen[0][0])
        if self.weights["reconstruction"]:
            found = self._reconstruct(seen[0], clips[0].x, stills[0], frames[0].x)
            for name, terms in found.items():
                parts[name] = terms.total.detach()
                total = total + self.weights["reconstruction"] * terms.total
            if not contrast:  # the guard compares it with the whole loss
                constant = torch.stack([terms.parts["constant_prediction"] for terms in found.values()])
                parts["constant_prediction"] = self.weights["reconstruction"] * constant.sum()
        trivial: dict[str, float] = {}
        if contrast:
            terms_, z, uniform = self._contrast(
                [e.pooled for e, _ in seen], [e.pooled for e, _ in stills], batch
            )
            of = {name: self.weights[name.split("_")[0]] for name in terms_}
            for name, value in terms_.items():
                parts[name] = value.detach()
                total = total + of[name] * value
            shown |= {"projector": z.detach()}
            if uniform is not None and not self.weights["reconstruction"]:  # else the sum has no such value
                trivial = {"uniform": uniform * sum(of.values())}
        return Output(total, parts, shown, trivial)

    def _clip(self, view: View, draw: Draw) -> tuple[Encoded, Mask]:
        mask = self.masker(self.encoder.layout(view.x), draw)
        return self.encoder(view.x, mask), mask

    def _stills(self, view: View, draw: Draw) -> tuple[Encoded, Mask]:
        """S frames a clip as ``B * S`` images, rows of a clip side by side."""
        b, s = len(view.x), view.x.shape[2]
        x = singles(view.x)
        index = (draw.index[:, None] * s + torch.arange(s, device=draw.index.device)).flatten()
        mask = self.image_masker(self.image_encoder.layout(x), draw.at(index))
        encoded = self.image_encoder(x, mask)
        assert len(encoded.pooled) == b * s
        return encoded, mask

    def _reconstruct(
        self, clip: tuple[Encoded, Mask], x: Tensor, still: tuple[Encoded, Mask], frames: Tensor
    ) -> dict[str, Terms]:
        """Mean squared error over hidden tokens only, of the plain clip and of the plain frames."""
        encoded, mask = clip
        found = {"clips": self.error(self.predictor(encoded, mask, x), self.encoder.targets(x).select(mask))}
        if self.image_predictor is not None:
            encoded, mask = still
            x = singles(frames)
            target = self.image_encoder.targets(x).select(mask)
            found["frames"] = self.error(self.image_predictor(encoded, mask, x), target)
        return found

    def _contrast(
        self, clips: list[Tensor], stills: list[Tensor], batch: Batch
    ) -> tuple[dict[str, Tensor], Tensor, float | None]:
        """Unweighted terms by name, the first projection, and each term's value when all look alike."""
        z = [self.projector(pooled) for pooled in clips]
        y = [self.image_projector(pooled).unflatten(0, (len(z[0]), -1)) for pooled in stills]  # [B, S, P]
        same = same_video(batch) if self.repeated else None
        s = y[0].shape[1]
        terms: dict[str, Tensor] = {}
        own = self.objective(z[0], z[1], ignore_mask=same)
        if self.weights["within"]:
            terms["within_clips"] = own.total
            each = [self.objective(y[0][:, i], y[1][:, i], ignore_mask=same).total for i in range(s)]
            terms["within_frames"] = torch.stack(each).mean()
        if self.weights["across"]:
            clip, frames = (z[0] + z[1]) / 2, (y[0] + y[1]) / 2
            terms["across"] = self.objective(clip, frames.mean(dim=1), ignore_mask=same).total
            if self.frame_level and s > 1:
                each = [self.objective(clip, frames[:, i], ignore_mask=same).total for i in range(s)]
                terms["across_frame_level"] = torch.stack(each).mean()
        return terms, z[0], own.trivial.get("uniform")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The frames' branch with a learning rate of its own."""
        branch = [self.image_encoder, self.image_predictor, self.image_projector]
        slow = {id(p) for part in branch if part is not None for p in part.parameters()}
        groups = []
        for scale, member in ((1.0, False), (self.image_lr, True)):
            own = [p for p in self.parameters() if p.requires_grad and (id(p) in slow) == member]
            matrices, vectors = [p for p in own if p.ndim > 1], [p for p in own if p.ndim <= 1]
            groups += [
                {"params": matrices, "decay": True, "lr_scale": scale},
                {"params": vectors, "decay": False, "lr_scale": scale},
            ]
        return groups

    def check(self, *, batch_size: int, n_samples: int | None) -> list[str]:
        """Contrast needs other samples; without it a batch of one will do."""
        if not self.weights["within"] and not self.weights["across"]:
            return []
        return super().check(batch_size=batch_size, n_samples=n_samples)

    def reconstruction_parts(self) -> tuple[Encoder, nn.Module, Masker, bool]:
        """What the report draws reconstructions with."""
        return self.encoder, self.predictor, self.masker, False


def singles(x: Tensor) -> Tensor:
    """``[B, C, S, H, W]`` as ``[B * S, C, 1, H, W]``."""
    b, c, s = x.shape[:3]
    return x.transpose(1, 2).reshape(b * s, c, 1, *x.shape[3:])


def same_video(batch: Batch) -> Tensor | None:
    """``[B, G]`` bool: other samples of the global batch that are of the same video; None: there are none.

    Frames of another clip of a video are false negatives under repeated sampling.
    """
    video = batch.meta.get("video")
    if video is None:
        return None
    joined, own = collectives.gather_no_grad(video), collectives.gather_no_grad(batch.index)
    return (video[:, None] == joined[None]) & (batch.index[:, None] != own[None])


def _image_encoder(encoder: VideoViT, spec: VideoSpec, options: Mapping[str, Any]) -> VideoViT:
    """A transformer of single frames: the clips' one but for what the options say."""
    taken = {"tubelet", "target_frames", "spec"} & set(options)
    if taken:
        raise ValueError(
            f"method.image: {', '.join(sorted(taken))} is settled: the branch sees single frames"
        )
    own: dict[str, Any] = {
        "patch": encoder.cube[1],
        "width": encoder.width,
        "depth": len(encoder.blocks.blocks),
        "heads": encoder.heads,
        "positions": encoder.positions,
        "normalize_target": encoder.normalize_target,
    }
    if options.get("weights"):
        own |= {"positions": "learned", **sizes_of(str(options["weights"]))}
    if "variant" in options:
        own = {k: v for k, v in own.items() if k not in ("width", "depth", "heads")}
    return VideoViT(spec.of_frames(), **{**own, "tubelet": 1, **options})
