"""Weights of video and image transformers by the names of transformers, timm and the authors' code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_domains.core.errors import UserError
from ssl_domains.core.weights import read_weights

if TYPE_CHECKING:
    from ssl_domains.video.encoders.vit import VideoViT

_HF = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.output.dense.": "attention.out.",
    "intermediate.dense.": "ffn.0.",
    "output.dense.": "ffn.3.",
}
_TIMM = {
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "attn.proj.": "attention.out.",
    "mlp.fc1.": "ffn.0.",
    "mlp.fc2.": "ffn.3.",
}


def load_vit(encoder: VideoViT, source: str) -> None:
    """Loads a VideoMAE (or, for single frames, a ViT or MAE) into an encoder; decoder and head are left out.

    Weights of a patch that knows one frame are put in the place of a tubelet of 1. Fixed position codes are
    made, not loaded; learned ones of another kind are refused.

    Args:
        encoder: of the sizes that the weights have.
        source: a folder of transformers' ``save_pretrained``, or a file.

    Raises:
        UserError: no such file, or keys or shapes that do not fit; names some.
    """
    place = Path(source).expanduser()
    if place.is_dir():
        files = [
            place / name for name in ("model.safetensors", "pytorch_model.bin") if (place / name).is_file()
        ]
        if not files:
            raise UserError(
                f"encoder.weights: {source} holds no model.safetensors; give a folder that transformers' "
                "save_pretrained wrote"
            )
        place = files[0]
    found = _renamed(read_weights(place), encoder)
    own = encoder.state_dict()
    missing = [key for key in own if key not in found and key not in ("mask_token", "place", "time")]
    shapes = [key for key, value in own.items() if key in found and found[key].shape != value.shape]
    extra = [key for key in found if key not in own]
    problems = []
    if missing:
        hint = ""
        if all(key.startswith("norm.") for key in missing):
            hint = "; they come without a last norm: set encoder.norm=false"
        problems.append(f"{len(missing)} of {len(own)} weights are missing (the first: {missing[0]}){hint}")
    if shapes:
        key = shapes[0]
        problems.append(
            f"{len(shapes)} have other shapes (the first: {key} is {list(found[key].shape)}, wanted "
            f"{list(own[key].shape)})"
        )
    if extra:
        problems.append(f"{len(extra)} have no place here (the first: {extra[0]})")
    if problems:
        raise UserError(f"encoder.weights: {source} does not fit this encoder: {'; '.join(problems)}")
    encoder.load_state_dict({**own, **found})


def _renamed(found: dict[str, Tensor], encoder: VideoViT) -> dict[str, Tensor]:
    """By the names of :class:`VideoViT`; what is not the encoder's is dropped."""
    found = {key.removeprefix("videomae.").removeprefix("vit."): value for key, value in found.items()}
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        name = key.removeprefix("encoder.").removeprefix("module.")
        if key.startswith(("decoder", "mask_token", "classifier", "head", "fc_norm", "encoder_to_decoder")):
            continue
        if name.startswith(("embeddings.patch_embeddings.projection.", "patch_embed.proj.")):
            end = name.rsplit(".", 1)[1]
            if end == "weight" and value.ndim == 4:  # of images
                value = value[:, :, None]
            out[f"embed.{end}"] = value
        elif name.startswith(("layer.", "blocks.")):
            number, rest = name.split(".", 2)[1:]
            _block(rest, value, f"blocks.blocks.{number}.", out, parts)
        elif name.startswith(("layernorm.", "norm.")):
            out[f"norm.{name.rsplit('.', 1)[1]}"] = value
    for prefix, held in parts.items():
        out.update(_joined(prefix, held))
    return out


def _block(
    rest: str, value: Tensor, prefix: str, out: dict[str, Tensor], parts: dict[str, dict[str, Tensor]]
) -> None:
    """One tensor of a block: renamed, or kept to be joined with its like."""
    for name in ("query", "key", "value"):
        if rest.startswith(f"attention.attention.{name}."):
            parts.setdefault(prefix, {})[f"{name}.{rest.rsplit('.', 1)[1]}"] = value
            return
    if rest == "attn.qkv.weight":
        out[f"{prefix}attention.qkv.weight"] = value
    elif rest == "attn.qkv.bias":
        out[f"{prefix}attention.qkv.bias"] = value
    elif rest in ("attn.q_bias", "attn.v_bias", "attention.attention.q_bias", "attention.attention.v_bias"):
        parts.setdefault(prefix, {})[f"{'query' if 'q_' in rest else 'value'}.bias"] = value
    else:
        for names in (_HF, _TIMM):
            for old, new in names.items():
                if rest.startswith(old):
                    out[prefix + new + rest.removeprefix(old)] = value
                    return


def _joined(prefix: str, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value as one layer. A key's bias does not change a softmax; without one it is zero."""
    out = {}
    if "query.weight" in held:
        weights = [held[f"{n}.weight"] for n in ("query", "key", "value")]
        out[f"{prefix}attention.qkv.weight"] = torch.cat(weights)
    if "value.bias" in held:
        zero = torch.zeros_like(held["value.bias"])
        biases = [held.get(f"{n}.bias", zero) for n in ("query", "key", "value")]
        out[f"{prefix}attention.qkv.bias"] = torch.cat(biases)
    return out
