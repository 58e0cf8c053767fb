"""A saved encoder: load it, embed new raw data, copy it elsewhere."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import RunError
from ssl_domains.core.interfaces import Domain, Encoder, Source


class LoadedEncoder:
    """An encoder with the preprocessing that was fitted with it.

    Attributes:
        encoder: the module, in eval mode, on the CPU until it embeds.
        domain: object of its domain.
        spec: what the encoder knows about its data (columns, scales, vocabularies ...).
        config: content of ``config.json``.
        path: folder it came from.
    """

    def __init__(
        self, encoder: Encoder, domain: Domain, spec: Any, config: dict[str, Any], path: Path
    ) -> None:
        self.encoder, self.domain, self.spec, self.config, self.path = encoder, domain, spec, config, path

    @property
    def width(self) -> int:
        """D of the embeddings."""
        return self.encoder.pooled_width

    def source(self, data: Any = None, **options: Any) -> Source:
        """Opens new raw data with the fitted preprocessing (no label needed).

        Args:
            data: path or object; the ``source`` key of the domain's ``data`` section.
            options: other keys of it, such as ``nodes`` and ``edges``.

        Raises:
            DataError: the data do not have what the encoder needs, or cannot be read.
        """
        given = options if data is None else {"source": data, **options}
        return self.domain.embed_source(self.spec, **given)

    def embed(
        self, data: Any = None, *, batch_size: int = 1024, device: str = "auto", **options: Any
    ) -> np.ndarray:
        """Embeds new raw data, in the order of its rows.

        Args:
            data: path or object, as the recipe's ``data.source``.
            batch_size: rows at a time.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            options: other keys of the domain's ``data`` section (``nodes``, ``edges`` ...).

        Returns:
            ``[n, D]`` float32.

        Raises:
            DataError: the data do not have what the encoder needs, or cannot be read.
        """
        from ssl_domains.evaluation import extract

        source = self.source(data, **options)
        return extract(self.encoder, source, np.arange(len(source)), batch_size=batch_size, device=device)


def load(run: str | Path) -> LoadedEncoder:
    """Loads the encoder of a run, or of a folder that :func:`export` wrote. Nothing is unpickled.

    Args:
        run: run directory, or encoder folder.

    Raises:
        RunError: there is no encoder, it is truncated or from another version, or its weights do not fit.
        UserError: its domain's packages are missing.
    """
    from ssl_domains.recipe.build import build_encoder
    from ssl_domains.trainer.checkpoint import init_from, read_encoder_config

    path = encoder_folder(run)
    config = read_encoder_config(path)
    domain, spec, encoder = build_encoder(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_from(encoder, path)
    return LoadedEncoder(encoder.eval(), domain, spec, config, path)


def encoder_folder(run: str | Path) -> Path:
    """The folder with ``config.json`` and ``model.safetensors``.

    Raises:
        RunError: there is none here.
    """
    place = Path(run).expanduser()
    if not place.exists():
        raise RunError(f"{place} does not exist; give the run directory that pretrain printed")
    if (place / "config.json").is_file():
        return place
    if (place / "encoder" / "config.json").is_file():
        return place / "encoder"
    if (place / "run.json").is_file():
        raise RunError(
            f"run {place} has no encoder yet: it did not finish; continue it with "
            f"ssl-domains pretrain {place} --resume"
        )
    raise RunError(f"{place} is neither a run directory nor an encoder folder (no config.json in it)")


def export(run: str | Path, out: str | Path | None = None) -> Path:
    """Copies a run's encoder into a folder of its own: weights, config, fitted preprocessing.

    Args:
        run: run directory.
        out: folder to make; default ``<run>-encoder``. It must not be there yet.

    Returns:
        The folder; ``ssl_domains.load(folder)`` reads it anywhere.

    Raises:
        RunError: the run has no encoder, or ``out`` is there already.
    """
    from ssl_domains.trainer.checkpoint import read_encoder_config

    source = encoder_folder(run)
    read_encoder_config(source)
    target = Path(out) if out is not None else Path(f"{Path(run)}-encoder")
    if target.exists():
        raise RunError(f"{target} is there already; give another folder with --out DIR")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"{target} could not be written: {error.strerror}") from error
    return target
