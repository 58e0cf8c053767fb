"""The verb ``transfer``: a run's encoder, measured on another data set."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_domains.core.errors import RunError, UserError

if TYPE_CHECKING:
    from ssl_domains.api import Run
    from ssl_domains.core.interfaces import Encoder

SHARES = {"valid": 0.1, "test": 0.2}
"""Shares that are held out of the new data when they bring no splits of their own."""


def transfer(
    run: str | Path,
    data: Any = None,
    out: str | Path | None = None,
    *,
    plugin: Iterable[str | Path] = (),
    progress: bool = False,
    **options: Any,
) -> Run:
    """Measures a run's encoder on other data with labels, by the run's own probes, and writes a report.

    Args:
        run: run directory.
        data: as the recipe's ``data.source``.
        out: folder for the evaluation and its report; default ``<run>-on-<data>``. It must not be there yet.
        plugin: your own Python files.
        progress: say what is being done.
        options: other keys of the domain's ``data`` section, such as ``label``.

    Raises:
        RunError: no such run, or ``out`` is there already.
        DataError: the data cannot be read or lack what the encoder needs.
    """
    from ssl_domains.api import Run, _call_with_keys
    from ssl_domains.encoders import load
    from ssl_domains.evaluation import evaluate_encoder, write_report
    from ssl_domains.recipe.build import build_encoder, set_seed
    from ssl_domains.recipe.check import read_recipe
    from ssl_domains.trainer.run import RunDirectory

    if data is None and not options:
        raise UserError("transfer: say on what to measure, for example --data other.csv data.label=kind")
    recipe = read_recipe(RunDirectory.open(run).recipe_path, [], {}, plugin)
    loaded = load(run)
    name = Path(str(data)).stem if isinstance(data, str | Path) else "data"
    target = Path(out) if out is not None else Path(f"{Path(run)}-on-{name}")
    if target.exists():
        raise RunError(f"{target} is there already; give another folder with --out DIR")
    takes = inspect.signature(loaded.domain.embed_source).parameters
    given = {key: share for key, share in SHARES.items() if key in takes} | options
    source = _call_with_keys(loaded.domain.open, loaded.source, data, given)
    config = recipe.evaluate

    def fresh(seed: int) -> Encoder:
        set_seed(seed)
        return build_encoder(loaded.config)[2]

    evaluation = evaluate_encoder(
        loaded.encoder,
        source,
        make_encoder=fresh,
        probes=config.entries(),
        seeds=config.seeds,
        tree=loaded.domain.tree_baseline() if config.tree is None else config.tree,
        max_rows=config.max_rows,
        batch_size=config.batch_size,
        progress=print if progress else None,
    )
    target.mkdir(parents=True)
    evaluation.save(target)
    title = f"{recipe.name} on {name}"
    write_report(target, evaluation, title=title, subtitle=["transfer", recipe.domain], card=source.card())
    return Run(target, title, evaluation)
