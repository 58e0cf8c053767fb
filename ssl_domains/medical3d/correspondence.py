"""Which point of one patient is which point of another: an interface, and three answers."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.errors import DataError, UserError
from ssl_domains.medical3d.data import VolumeSource
from ssl_domains.medical3d.encoders.base import StagedEncoder
from ssl_domains.medical3d.spec import VolumeSpec


class Oracle(Protocol):
    """Finds corresponding points."""

    def match(self, first: int, points: np.ndarray, second: int) -> tuple[np.ndarray, np.ndarray]:
        """Points of one volume found in another.

        Args:
            first: number of the volume that ``points`` are of.
            points: ``[n, 3]`` voxel coordinates (D, H, W).
            second: number of the other volume.

        Returns:
            ``[n, 3]`` float voxel coordinates, and ``[n]`` scores of at most 1.
        """


class ExactOracle:
    """The truth about phantoms: score 1 where the point lies in the other volume, else 0.

    Raises:
        DataError: the volumes are scans, whose correspondence nobody knows.
    """

    def __init__(self, source: VolumeSource) -> None:
        if source.anatomies is None:
            raise DataError(
                "views.oracle: exact is for generated phantoms; scans want views.oracle=embedding and "
                "views.embedding=RUN, an encoder that was pretrained on them"
            )
        self.anatomies = source.anatomies

    def match(self, first: int, points: np.ndarray, second: int) -> tuple[np.ndarray, np.ndarray]:
        other = self.anatomies[second]
        found = other.voxels(self.anatomies[first].canonical(points))
        outside = np.maximum(-found, found - (np.array(other.shape) - 1)).max(axis=1)
        return found, np.where(outside <= 0, 1.0, 0.0)


class EmbeddingOracle:
    """Nearest neighbours in dense embeddings of a frozen encoder, as Alice uses SAM ("self-supervised
    anatomical embedding", Yan et al., IEEE TMI 2022): of every voxel a fine and a coarse vector; the match is
    where the mean of both cosines is largest, which is its score.

    Embeddings of the volumes last used are kept in half precision.

    Args:
        source: the volumes.
        folder: ``encoder/`` of a run, or the run, of a network with stages (``monai_unet``, ``monai_resnet``
            or ``monai_swin_unetr``) that was pretrained on volumes prepared alike.
        fine: stage of the fine vectors. Default 1 (half the resolution for U-Nets).
        keep: volumes whose embeddings are kept.
        device: where they are computed.

    Raises:
        UserError: no such encoder, or one for other data.
    """

    def __init__(
        self, source: VolumeSource, folder: str, fine: int = 1, keep: int = 32, device: str | None = None
    ) -> None:
        self.source, self.fine, self.keep = source, fine, keep
        self.encoder, self.spec = load_encoder(folder)
        if self.spec.preparation != source.spec.preparation or self.spec.channels != source.spec.channels:
            raise UserError(
                f"views.embedding: {folder} was trained on volumes of another spacing, window or number of "
                "channels; prepare both alike"
            )
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder.to(chosen).eval().requires_grad_(False)
        self.device = torch.device(chosen)
        self._kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    @torch.no_grad()
    def embedding(self, volume: int) -> tuple[Tensor, Tensor]:
        """(fine ``[C, d, h, w]``, coarse ``[C', d', h', w']``) unit vectors, in half precision."""
        if volume in self._kept:
            self._kept.move_to_end(volume)
            return self._kept[volume]
        x = torch.from_numpy(np.asarray(self.source.volumes.image(volume), dtype=np.float32))[None]
        step = self.encoder.strides[-1]
        pad: list[int] = []
        for side in reversed(x.shape[2:]):
            pad += [0, max(-side % step, 2 * step - side)]
        maps = self.encoder.stages(self.encoder.prepare(F.pad(x, pad, mode="replicate").to(self.device)))
        found = F.normalize(maps[self.fine][0], dim=0).half(), F.normalize(maps[-1][0], dim=0).half()
        self._kept[volume] = found
        if len(self._kept) > self.keep:
            self._kept.popitem(last=False)
        return found

    @torch.no_grad()
    def match(self, first: int, points: np.ndarray, second: int) -> tuple[np.ndarray, np.ndarray]:
        step, coarse_step = self.encoder.strides[self.fine], self.encoder.strides[-1]
        fine_1, coarse_1 = (e.float() for e in self.embedding(first))
        fine_2, coarse_2 = (e.float() for e in self.embedding(second))
        at = torch.as_tensor(np.asarray(points, np.float64), device=self.device)
        one = _take(fine_1, at, step).T @ fine_2.flatten(1)  # [n, places]
        two = (_take(coarse_1, at, coarse_step).T @ coarse_2.flatten(1)).view(len(at), 1, *coarse_2.shape[1:])
        size = [int(s) for s in fine_2.shape[1:]]
        wide = F.interpolate(two, size, mode="trilinear", align_corners=False).flatten(1)
        both = (one + wide) / 2
        both = both.view(len(at), *size)
        shape = self.source.volumes.facts[second].shape
        inside = [-(-n // step) for n in shape]  # what was filled up is no match
        both = both[:, : inside[0], : inside[1], : inside[2]].flatten(1)
        score, place = both.max(dim=1)
        found = torch.stack(torch.unravel_index(place, tuple(inside)), dim=1).double()
        centre = (found + 0.5) * step - 0.5
        return centre.cpu().numpy(), score.double().cpu().numpy()


def _take(maps: Tensor, points: Tensor, step: int) -> Tensor:
    """``[C, n]`` vectors of the places that hold the points."""
    size = torch.tensor(maps.shape[1:], device=points.device)
    at = torch.minimum((points / step).floor().long().clamp_min(0), size - 1)
    return maps[:, at[:, 0], at[:, 1], at[:, 2]]


def load_encoder(folder: str) -> tuple[StagedEncoder, VolumeSpec]:
    """An exported encoder of this domain with its weights, and the spec of its data.

    Raises:
        UserError: nothing there, another domain's, or a network without stages.
    """
    from safetensors.torch import load_file

    place = Path(folder).expanduser()
    place = place / "encoder" if (place / "encoder").is_dir() else place
    try:
        config: dict[str, Any] = json.loads((place / "config.json").read_text())
        weights = load_file(str(place / "model.safetensors"))
    except (OSError, ValueError) as error:
        raise UserError(f"views.embedding: {place} holds no exported encoder ({error})") from None
    if config.get("domain") != "medical3d":
        raise UserError(f"views.embedding: {place} is of the domain {config.get('domain')!r}, not medical3d")
    spec = VolumeSpec.from_dict(config["spec"])
    encoder = registry.get("encoder", config["encoder"])(spec, **config["encoder_options"])
    if not isinstance(encoder, StagedEncoder) or spec.dims != 3:
        raise UserError(f"views.embedding: {place} has no feature maps of volumes; use monai_unet on patches")
    encoder.load_state_dict(weights)
    return encoder, spec
