"""Bodies of text encoders: BERT and its relatives of transformers, with fresh weights or out of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from ssl_domains.core.errors import UserError
from ssl_domains.core.weights import plain_config
from ssl_domains.text.spec import TextSpec

FAMILIES = ("bert", "distilbert", "electra", "roberta", "xlm-roberta", "mpnet")
NAMES = {
    "distilbert": {
        "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim", "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
}  # fmt: skip
"""What a family calls a field of BERT's."""


def fresh(spec: TextSpec, family: str, fields: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """A body with random weights.

    Args:
        spec: the data; vocabulary, places and padding are the data's.
        family: one of :data:`FAMILIES`, as transformers' ``model_type`` names it.
        fields: sizes and dropout, by BERT's names.
        config: fields by the family's own names, in place of these.

    Raises:
        ValueError: an unknown family or field.
        UserError: tables that ``config`` makes too small for the data.
    """
    from transformers import CONFIG_MAPPING

    if family not in FAMILIES:
        raise ValueError(f"encoder.family must be one of {', '.join(FAMILIES)}, got {family!r}")
    made = CONFIG_MAPPING[family]
    unknown = sorted(set(config) - set(made().to_dict()))
    if unknown:
        raise ValueError(f"encoder.config: {made.__name__} has no field {unknown[0]!r}")
    places = spec.length + _first_place(family, spec.pad)
    own = {
        **{"vocab_size": spec.size, "max_position_embeddings": places, "pad_token_id": spec.pad},
        **({"embedding_size": fields["hidden_size"]} if family == "electra" else {}),
        **{NAMES.get(family, {}).get(key, key): value for key, value in fields.items()},
    }
    filled = made(**{**own, **config})
    _fits(filled, spec, "encoder.config")
    cls = _model(filled)
    return cls(filled, **_without_pooler(cls))


def loaded(folder: str, spec: TextSpec) -> Any:
    """A body whose configuration and weights lie in a folder of ``save_pretrained``.

    Raises:
        UserError: none lies there, it is of another kind, or its tables are too small for the data.
    """
    from transformers import AutoConfig

    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise UserError(f"encoder.weights: {folder} holds no config.json; give a folder of save_pretrained")
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True)
        if config.model_type not in FAMILIES:
            raise ValueError(f"it is a {config.model_type}; known are {', '.join(FAMILIES)}")
        cls = _model(config)
        body = cls.from_pretrained(str(path), local_files_only=True, **_without_pooler(cls))
    except Exception as error:  # transformers raises many kinds
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(f"encoder.weights: {folder} cannot be loaded ({reason})") from None
    _fits(body.config, spec, f"encoder.weights: {folder}")
    return body


def options_of(body: Any) -> dict[str, Any]:
    """The encoder's options that build such a body."""
    return {"family": body.config.model_type, "config": plain_config(body.config)}


def _model(config: Any) -> Any:
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(config)]


def _without_pooler(cls: Any) -> dict[str, bool]:
    """The layer on the first token that some families have, and that nothing here reads."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in signature(cls.__init__).parameters else {}


def _fits(config: Any, spec: TextSpec, origin: str) -> None:
    """A table of words and of places that is large enough for the data."""
    if config.vocab_size < spec.size:
        raise UserError(
            f"{origin} knows {config.vocab_size} tokens, the data's tokeniser has {spec.size}; set "
            "data.tokeniser to the folder of the weights"
        )
    places = config.max_position_embeddings - _first_place(config.model_type, config.pad_token_id)
    if places < spec.length:
        raise UserError(f"{origin} has {places} places; lower data.length")


def _first_place(family: str, pad: int | None) -> int:
    """Number of the first word's place: RoBERTa counts from behind the padding token, MPNet from 2."""
    return {"roberta": (pad or 0) + 1, "xlm-roberta": (pad or 0) + 1, "mpnet": 2}.get(family, 0)
