"""Weights of video and image transformers by the names of transformers, timm and the authors' code."""

from __future__ import annotations

import json
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

    Weights of a patch that knows one frame are put in the place of a tubelet of 1; a class token is left out.
    Position codes that come with the weights go into ``positions: learned`` (an image's are those of the
    places, the one time gets zero); an encoder whose own fixed codes are others refuses them.

    Args:
        encoder: of the sizes that the weights have.
        source: a run of an image recipe or its encoder folder, a folder of transformers'
            ``save_pretrained``, or a file.

    Raises:
        UserError: no such file, or keys or shapes that do not fit; names some.
    """
    place = Path(source).expanduser()
    if place.is_dir():
        names = ("model.safetensors", "encoder/model.safetensors", "pytorch_model.bin")
        files = [place / name for name in names if (place / name).is_file()]
        if not files:
            raise UserError(
                f"encoder.weights: {source} holds no model.safetensors; give a run, or a folder that "
                "transformers' save_pretrained wrote"
            )
        place = files[0]
    read = read_weights(place)
    found = _renamed(read, encoder)
    own = encoder.state_dict()
    codes = _positions(read, encoder)
    if encoder.positions == "learned" and {"pos_embed_spatial", "pos_embed_temporal"} <= set(read):
        # Masked autoencoders of space and time, by the authors' names.
        found |= {"place": read["pos_embed_spatial"][0], "time": read["pos_embed_temporal"][0]}
    elif codes is not None and encoder.positions == "learned":
        found |= {"place": codes, "time": torch.zeros_like(own["time"])}
    elif codes is not None:
        made = encoder.codes
        if codes.shape != made.shape or not torch.allclose(codes.float(), made, atol=1e-3):
            raise UserError(
                f"encoder.weights: {source} comes with position codes of its own, not those of "
                f"positions={encoder.positions}; set positions=learned"
            )
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


def sizes_of(source: str) -> dict[str, int]:
    """Patch, width, depth and heads of an image transformer, where the folder that it lies in says them: of a
    run or its encoder folder, or what ``save_pretrained`` wrote. Heads cannot be told from weights."""
    from ssl_domains.video.encoders.vit import SIZES

    place = Path(source).expanduser()
    places = [place / "encoder" / "config.json", place / "config.json"]
    file = next((p for p in places if place.is_dir() and p.is_file()), None)
    if file is None:
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    if "encoder_options" not in config:
        names = {"patch": "patch_size", "width": "hidden_size", "depth": "num_hidden_layers",
                 "heads": "num_attention_heads"}  # fmt: skip
        return {own: config[name] for own, name in names.items() if isinstance(config.get(name), int)}
    options = config["encoder_options"]
    if config.get("encoder") != "image_vit":
        return {}
    width, depth, heads = SIZES[options.get("variant", "small")]
    sizes = {"patch": 16, "width": width, "depth": depth, "heads": heads}
    return {name: options.get(name) or value for name, value in sizes.items()}


def _positions(found: dict[str, Tensor], encoder: VideoViT) -> Tensor | None:
    """``[N, D]`` codes of the patches that images' weights come with; None without any, or for clips, whose
    fixed codes are made."""
    if encoder.cube[0] != 1 or encoder.grid[0] != 1:
        return None
    ends = ("pos_embed", "embeddings.position_embeddings")
    codes = next((v for k, v in found.items() if k.endswith(ends) and "decoder" not in k), None)
    if codes is None:
        return None
    # A class token and registers come first.
    return codes.flatten(0, -2)[-encoder.grid[1] * encoder.grid[2] :]


def _renamed(found: dict[str, Tensor], encoder: VideoViT) -> dict[str, Tensor]:
    """By the names of :class:`VideoViT`; what is not the encoder's is dropped."""
    prefixes = ("inner.", "body.", "videomae.", "vit.")  # the first two: of this package's image encoders
    for prefix in prefixes:
        found = {key.removeprefix(prefix): value for key, value in found.items()}
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
        out[prefix + rest] = value  # has no place here, and is refused


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
