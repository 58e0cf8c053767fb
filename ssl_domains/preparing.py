"""The verb that works on data before training: ``curate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.core.errors import UserError

if TYPE_CHECKING:
    from ssl_domains.curation.curate import Curation


def curate(
    source: Any = None,
    out: str | Path = "kept.parquet",
    *,
    encoder: str | Path | None = None,
    threshold: float | None = None,
    held_out: bool = True,
    within: str | None = None,
    domain: str | None = None,
    device: str = "auto",
    **data: Any,
) -> Curation:
    """Finds near-duplicates and writes which rows to train on, for a recipe's ``train.rows``.

    Args:
        source: as a recipe's ``data.source``.
        out: ``.parquet`` or ``.csv`` file to write.
        encoder: a run or encoder folder: rows whose embeddings are nearly the same are duplicates, in any
            domain. None: pictures whose perceptual hashes are nearly the same.
        threshold: with an encoder the least cosine (default 0.98), else the most differing bits of 63
            (default 4).
        held_out: rows that are nearly a validation or test row are left out, too.
        within: a rule (``dhash``, ``phash``, ``mutual_information``, ``raw``, ``every``; ``embedding`` with
            an encoder): rows are compared within their recording only (volume, video, session), and
            ``threshold`` is the rule's (``curation.redundancy.DEFAULTS``). ``held_out`` plays no part.
        domain: name of the domain; default: told from the source, or the encoder's.
        device: where rows are embedded and compared.
        data: other keys of the domain's ``data`` section, as in the recipe that will use the file.

    Raises:
        DataError: the data cannot be used, or have no pictures to hash.
        RunError: no such encoder.
        UserError: a threshold out of range.
    """
    from ssl_domains.api import _call_with_keys, _domain
    from ssl_domains.curation.curate import remove_duplicates
    from ssl_domains.curation.redundancy import reduce_recordings
    from ssl_domains.guess import guess_domain

    given = data if source is None else {"source": source, **data}
    embed = None
    where = "cpu"
    if encoder is None:
        name = domain or guess_domain(source, **data)
    else:
        from ssl_domains.encoders import load
        from ssl_domains.evaluation import extract

        loaded = load(encoder)
        name = domain or str(loaded.config["domain"])

        def embed(rows: np.ndarray) -> np.ndarray:
            return extract(loaded.encoder, prepared, rows, device=device)

    opened = _domain(name)
    found = _call_with_keys(opened.open, lambda _, **keys: opened.open(**keys), None, given)
    prepared = found
    if encoder is not None:
        prepared = _as_fitted(loaded, found, given)
    try:
        if within is not None:
            return reduce_recordings(found, out, within, threshold, embed)
        return remove_duplicates(
            found, out, embed=embed, threshold=threshold, held_out=held_out, device=_device(device, where)
        )
    except ValueError as error:
        raise UserError(f"curate: {error}") from None


def _as_fitted(loaded: Any, found: Any, given: dict[str, Any]) -> Any:
    """The same rows with the preprocessing that the encoder was fitted with."""
    prepared = loaded.source(**given)
    if len(prepared) != len(found):
        raise UserError(
            f"curate: the encoder's preprocessing gives {len(prepared)} rows of this data, opening it by "
            f"itself {len(found)}; give the data as the recipe has it"
        )
    return prepared


def _device(device: str, default: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else default
