"""Segmentation fine-tuning with few labelled volumes: Dice, surface Dice and Hausdorff distance by MONAI."""

from __future__ import annotations

import copy
import warnings
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.evaluation.data import LabelledRows
from ssl_domains.evaluation.embeddings import resolve_device
from ssl_domains.evaluation.protocols import Features, ProtocolProbe, Score


@runtime_checkable
class DenseSource(Protocol):
    """What the probe needs of a source.

    Attributes:
        dense_classes: names, background first; None without masks.
        recordings: ``[n]`` int64 volume of each sample.
        groups: ``[n]`` int64 patient of each sample.
    """

    dense_classes: list[str] | None
    recordings: np.ndarray
    groups: np.ndarray

    def dense(self, indices: np.ndarray) -> Tensor:
        """``[B, *sides]`` int64 classes of the samples' voxels."""

    def scan(self, volume: int) -> tuple[Tensor, Tensor, tuple[float, float, float]]:
        """``x`` of a whole volume (``[1, C, D, H, W]``, or its slices ``[N, C, H, W]``), classes
        ``[D, H, W]``, spacing in mm."""


class Segmenter(nn.Module):
    """An encoder with a head for every voxel.

    Where the encoder has a decoder (``decode``), its finest map and a 1x1 convolution; else a pyramid: each
    stage through a 1x1 convolution, upsampled and added from coarse to fine, and two convolutions. A
    transformer's tokens are one stage.

    Args:
        encoder: copied by the caller.
        dims: 2 or 3.
        classes: with background.
        width: of the pyramid. Default 32.
    """

    def __init__(self, encoder: Any, dims: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.encoder, self.dims = encoder, dims
        conv: Any = nn.Conv3d if dims == 3 else nn.Conv2d
        self.decodes = bool(getattr(encoder, "has_decoder", False))
        if self.decodes:
            self.head = conv(encoder.decoder_widths[-1], classes, 1)
            return
        widths = getattr(encoder, "stage_widths", (encoder.width,))
        self.lateral = nn.ModuleList(conv(w, width, 1) for w in widths)
        self.mix = nn.Sequential(conv(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU())
        self.head = conv(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, classes, *sides]`` logits."""
        size = [int(s) for s in x.shape[2:]]
        mode = "trilinear" if self.dims == 3 else "bilinear"
        if self.decodes:
            voxels = self.encoder.prepare(x)
            return self.head(self.encoder.decode(voxels, self.encoder.stages(voxels))[-1])
        maps = self._maps(x)
        out = self.lateral[-1](maps[-1])
        for lateral, finer in zip(list(self.lateral[:-1])[::-1], maps[:-1][::-1], strict=True):
            up = F.interpolate(out, [int(s) for s in finer.shape[2:]], mode=mode, align_corners=False)
            out = lateral(finer) + up
        out = self.mix(out)
        return self.head(F.interpolate(out, size, mode=mode, align_corners=False))

    def _maps(self, x: Tensor) -> list[Tensor]:
        if hasattr(self.encoder, "stages"):
            maps: list[Tensor] = self.encoder.stages(self.encoder.prepare(x))
            return maps
        tokens = self.encoder(x).tokens
        grid = tokens.layout.shape
        if len(grid) == 1 and self.dims == 3:  # a token a slice
            grid = (grid[0], 1, 1)
        return [tokens.values.transpose(1, 2).unflatten(2, grid)]


@register("probe", "segmentation")
class SegmentationProbe(ProtocolProbe):
    """Fine-tunes encoder and head on a few labelled volumes, and segments the test volumes.

    The volumes are drawn from the training patients, others for every seed; on a random encoder the same is
    training from scratch. Each test volume is segmented whole, by a sliding window. Scores are means over
    the structures that are in a volume and over the volumes: ``dice``; ``nsd``, the share of the surface
    within ``tolerance``; ``hd95`` in mm (a structure that is missed counts as the volume's diagonal).

    Args:
        volumes: labelled volumes, of one patient each. Default 2.
        steps: of Adam. Default 300.
        lr: Default 1e-3 (2006.10511).
        batch_size: samples a step. Default 10 (2006.10511).
        frozen: train the head (and pyramid) alone.
        decoder: where an encoder without a decoder has one to offer (``monai_vit``: that of UNETR), it gets
            that, freshly drawn, instead of the pyramid.
        tolerance: of ``nsd`` in mm.
        max_test: at most so many test volumes.
        device: see :func:`~ssl_domains.evaluation.embeddings.resolve_device`.
    """

    draws = "labelled volumes, heads and batch orders"
    main = "dice"
    spread: ClassVar[str] = "test volumes"
    tunes_encoder = True

    def __init__(
        self,
        volumes: int = 2,
        steps: int = 300,
        lr: float = 1e-3,
        batch_size: int = 10,
        frozen: bool = False,
        decoder: bool = False,
        tolerance: float = 2.0,
        max_test: int = 20,
        device: str = "auto",
    ) -> None:
        if min(volumes, steps, batch_size, max_test) < 1 or not (lr > 0 and tolerance > 0):
            raise ValueError(
                "volumes, steps, batch_size and max_test must be at least 1; lr and tolerance above 0"
            )
        self.volumes, self.steps, self.lr, self.batch_size = volumes, steps, lr, batch_size
        self.frozen, self.tolerance, self.max_test, self.device = frozen, tolerance, max_test, device
        if frozen and decoder:
            raise ValueError("a freshly drawn decoder must be trained; set frozen or decoder, not both")
        self.decoder = decoder

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if getattr(source, "dense_classes", None) is None:
            return "The segmentation probe needs masks (data.mask); none were found."
        if not len(source.splits["test"]):
            return "The segmentation probe needs test volumes; there are too few patients to hold some out."
        return ""

    def counts(self, source: Source) -> dict[str, int]:
        return {"test volumes": len(self._test(source))}

    def _test(self, source: Any) -> np.ndarray:
        return np.unique(source.recordings[source.splits["test"]])[: self.max_test]

    def measure(self, features: Features, seed: int) -> list[Score]:
        assert features.encoder is not None
        where = resolve_device(self.device, features.encoder)
        cuda = [where] if where.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            torch.manual_seed(seed)
            model = self.fitted(features.encoder, features.source, seed, where)
        return self.scored(model, features.source, where)

    def labelled_rows(self, source: Any, seed: int) -> np.ndarray:
        """Rows of the drawn volumes: one of each of as many patients, or of all there are."""
        train = source.splits["train"]
        rng = np.random.default_rng([seed, 21])
        patients = rng.permutation(np.unique(source.groups[train]))[: self.volumes]
        of_each = [np.unique(source.recordings[train[source.groups[train] == p]]) for p in patients]
        chosen = [rng.choice(volumes) for volumes in of_each]
        return np.asarray(train[np.isin(source.recordings[train], chosen)])

    def fitted(self, encoder: Any, source: Any, seed: int, where: torch.device) -> Segmenter:
        """A segmenter after ``steps`` steps; the encoder that is passed in never changes."""
        from monai.losses.dice import DiceCELoss

        body = copy.deepcopy(encoder).float()
        if self.decoder and not getattr(body, "has_decoder", False):
            if not hasattr(body, "with_decoder"):
                raise UserError(
                    "probe segmentation: this encoder has no decoder to offer; leave out decoder, or use "
                    "monai_vit"
                )
            body = body.with_decoder()
        for parameter in body.parameters():
            parameter.requires_grad_(not self.frozen)
        model = Segmenter(body, source.spec.dims, len(source.dense_classes)).to(where)
        criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=self.lr)
        rows = self.labelled_rows(source, seed)
        rng = np.random.default_rng([seed, 22])
        level = torch.tensor(source.spec.std).view(1, -1, *[1] * source.spec.dims)
        model.train()
        if self.frozen:
            model.encoder.eval()
        order = np.empty(0, dtype=np.int64)
        for _ in range(self.steps):
            while len(order) < min(self.batch_size, len(rows)):
                order = np.concatenate([order, rng.permutation(rows)])
            batch, order = order[: self.batch_size], order[self.batch_size :]
            x = source.fetch(batch).x
            gain = torch.from_numpy(rng.uniform(0.8, 1.2, len(batch)).astype(np.float32))
            shift = torch.from_numpy(rng.uniform(-0.3, 0.3, len(batch)).astype(np.float32))
            shape = (-1, *[1] * (x.ndim - 1))
            x = x * gain.view(shape) + level * shift.view(shape)
            target = source.dense(batch)[:, None].to(where)
            loss = criterion(model(x.to(where)), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return model.eval()

    @torch.no_grad()
    def scored(self, model: Segmenter, source: Any, where: torch.device) -> list[Score]:
        """Means over the test volumes."""
        found = []
        for volume in self._test(source):
            x, truth, spacing = source.scan(int(volume))
            guess = self.segmented(model, x, source.spec.size, where)
            found.append(scores_of(guess, truth, len(source.dense_classes), spacing, self.tolerance))
        names = ("dice", "nsd", "hd95")
        values = {name: np.array([f[name] for f in found if np.isfinite(f[name])]) for name in names}
        return [Score(name, float(v.mean()), _error(v), len(v)) for name, v in values.items() if len(v)]

    def segmented(self, model: Segmenter, x: Tensor, size: Any, where: torch.device) -> Tensor:
        """``[D, H, W]`` int64 classes of a whole volume, on the CPU."""
        from monai.inferers.utils import sliding_window_inference

        parts = []
        for start in range(0, len(x), 32):  # slices of a volume are a batch
            logits = sliding_window_inference(
                x[start : start + 32].to(where), tuple(size), 8, model, overlap=0.25, mode="gaussian"
            )
            assert isinstance(logits, Tensor)
            parts.append(logits.argmax(dim=1).cpu())
        classes = torch.cat(parts)
        return classes[0] if classes.ndim == 4 else classes


def _error(values: np.ndarray) -> float:
    """Standard error of a mean; NaN of a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def scores_of(
    guess: Tensor, truth: Tensor, classes: int, spacing: tuple[float, float, float], tolerance: float
) -> dict[str, float]:
    """Dice, surface Dice and 95 % Hausdorff distance of a volume: means over the structures in ``truth``.

    Args:
        guess, truth: ``[D, H, W]`` int64.
        classes: with background.
        spacing: mm.
        tolerance: mm.
    """
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.surface_dice import compute_surface_dice

    present = [c for c in range(1, classes) if bool((truth == c).any())]
    if not present:
        return {"dice": np.nan, "nsd": np.nan, "hd95": np.nan}
    one, other = (
        torch.stack([torch.zeros_like(m), *((m == c).long() for c in present)])[None] for m in (guess, truth)
    )
    limits = [tolerance] * len(present)
    given: dict[str, Any] = {"include_background": False, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about structures that are missed: counted below
        dice = compute_dice(one, other, include_background=False)[0]
        surface = compute_surface_dice(one, other, limits, **given)[0]
        far = compute_hausdorff_distance(one, other, percentile=95, **given)[0]
    diagonal = float(np.linalg.norm(np.array(truth.shape) * np.array(spacing)))
    missed = ~torch.isfinite(far)
    far = torch.where(missed, torch.full_like(far, diagonal), far)
    surface = torch.where(torch.isfinite(surface) & ~missed, surface, torch.zeros_like(surface))
    return {"dice": float(dice.mean()), "nsd": float(surface.mean()), "hd95": float(far.mean())}
