"""Weights from a file or a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_domains.core.errors import UserError

_WRAPPERS = ("state_dict", "model", "module", "teacher", "student", "encoder", "backbone")
_PREFIXES = ("module.", "backbone.", "encoder.", "model.", "net.", "base_encoder.", "encoder_q.", "teacher.")


def load_weights(net: nn.Module, file: str | None) -> None:
    """Loads weights into a network; its classifier may be missing from it, everything else must fit.

    Args:
        net: the body.
        file: ``.safetensors``, or ``.pt`` / ``.pth`` / ``.bin`` (read with ``weights_only``: nothing in it is
        run);
            None: leaves the network as it is.

    Raises:
        UserError: no such file, not readable, or keys or shapes that do not fit; names some.
    """
    if file is None:
        return
    found = _strip(read_weights(Path(file).expanduser()), net)
    own = net.state_dict()
    missing = [key for key in own if key not in found]
    shapes = [key for key, value in own.items() if key in found and found[key].shape != value.shape]
    if missing or shapes:
        raise UserError(_misfit(file, missing, shapes, own, found))
    net.load_state_dict({key: found[key] for key in own})


def _misfit(
    file: str, missing: list[str], shapes: list[str], own: dict[str, Tensor], found: dict[str, Tensor]
) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(own)} weights are missing (the first: {missing[0]})")
    if shapes:
        key = shapes[0]
        parts.append(
            f"{len(shapes)} have other shapes (the first: {key} is {list(found[key].shape)}, "
            f"wanted {list(own[key].shape)})"
        )
    return (
        f"encoder.weights: {file} does not fit this encoder: {'; '.join(parts)}; "
        "use the encoder it was made for"
    )


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name of ``.safetensors``, ``.pt``, ``.pth`` or ``.bin``; wrappers are taken off.

    Raises:
        UserError: no such file, or it holds no weights.
    """
    if not file.is_file():
        raise UserError(f"encoder.weights: {file} does not exist; give a .safetensors or .pt file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(file))
        values: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and tensor readers each raise their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"encoder.weights: {file} cannot be read as weights ({reason[:120]})") from None
    while isinstance(values, dict) and not any(isinstance(v, Tensor) for v in values.values()):
        inner = next((values[key] for key in _WRAPPERS if isinstance(values.get(key), dict)), None)
        if inner is None:
            raise UserError(f"encoder.weights: {file} holds no weights by name")
        values = inner
    if not isinstance(values, dict):
        raise UserError(f"encoder.weights: {file} holds no weights by name")
    return {key: value for key, value in values.items() if isinstance(value, Tensor)}


def _strip(found: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Without the prefixes that training code puts before names."""
    own = set(net.state_dict())
    best = found
    for _ in range(3):
        if own & set(best):
            break
        for prefix in _PREFIXES:
            shorter = {k.removeprefix(prefix): v for k, v in best.items() if k.startswith(prefix)}
            if shorter:
                best = shorter
                break
    return best


_NOT_OF_THE_NETWORK = {
    *("transformers_version", "architectures", "dtype", "torch_dtype", "model_type", "_name_or_path"),
    *("id2label", "label2id"),
}


def plain_config(config: Any) -> dict[str, Any]:
    """Fields of a configuration of transformers that make the network, as JSON values."""
    known = set(type(config)().to_dict()) - _NOT_OF_THE_NETWORK
    found = {key: value for key, value in config.to_dict().items() if key in known}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def create_timm(name: str, pretrained: bool, **options: Any) -> Any:
    """A timm model by its name, with weights of the hub if asked.

    Raises:
        UserError: no such model (with near names), or its weights cannot be fetched.
    """
    import difflib

    import timm

    known = timm.list_models()
    base = name.split(".")[0]
    if not name.startswith("hf-hub:") and base not in known:
        near = difflib.get_close_matches(base, known, n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(f"encoder.model: timm has no model {name!r}{hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if pretrained or name.startswith("hf-hub:"):
            raise UserError(
                f"encoder.pretrained: the weights of {name!r} cannot be fetched ({reason[:160]}); "
                "without a network give a file with encoder.weights=FILE"
            ) from None
        raise UserError(f"encoder.model: timm cannot build {name!r} here ({reason[:200]})") from None
