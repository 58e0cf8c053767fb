"""The cross-modal domain: what a recipe's ``domain: crossmodal`` gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import nn

from ssl_domains.core import registry
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Domain, Encoder, Figure, Source
from ssl_domains.core.registry import domain
from ssl_domains.crossmodal.build import build_pairs
from ssl_domains.crossmodal.data import PairSource
from ssl_domains.crossmodal.encoders import Towers
from ssl_domains.crossmodal.parts import PairOptions, Part
from ssl_domains.crossmodal.single import SingleSource
from ssl_domains.crossmodal.spec import PairSpec
from ssl_domains.recipe.schema import to_plain


@domain("crossmodal")
class CrossModalDomain(Domain):
    """Pairs of samples of any two (or more) domains: pictures with captions, sounds with films ..."""

    title: ClassVar[str] = (
        "pairs of any two domains: a table with a column for each, folders of equal names, ids"
    )
    defaults: ClassVar[dict[str, str]] = {"encoder": "towers", "views": "", "mask": "random"}
    parts: ClassVar[tuple[str, ...]] = ("a", "b", "c", "d")

    def open(  # type: ignore[override]
        self,
        source: Any = None,
        columns: Mapping[str, str] | None = None,
        label: str | None = None,
        *,
        root: str | None = None,
        split: str | None = None,
        group: str | None = None,
        start: str | None = None,
        end: str | None = None,
        valid: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        part: str | None = None,
        options: Mapping[str, Any] | None = None,
        **parts: Any,
    ) -> PairSource:
        """Opens pairs; each modality is opened by its own domain, fitted on the train pairs.

        Args:
            source: a table (.csv, .tsv, .parquet, .feather) with a column for each modality, of paths, texts,
                SMILES strings, or ids of the part's own ``data.source``; a folder with files of equal names,
                in a subfolder for each modality or side by side; ``generated://scenes``,
                ``generated://digits``; in
                Python a DataFrame or mapping. Null: every part has its own ``data.source``, equal ids are a
                pair.
            columns: by part, its column (in a folder: its subfolder or ending); usual names are found.
            label: column that probes predict; default ``label``, else the labels of the first part that has
                some.
            root: folder that relative paths start from; by default the table's.
            split: column of train, valid, test.
            group: column; rows of one group stay on one side of a split. By default rows that share the first
                part's item do.
            start: column of the second at which a stretch of a sound or film starts.
            end: column of the second at which it ends.
            valid: share of validation pairs.
            test: share of test pairs.
            seed: of the split.
            limit: at most so many rows, evenly spaced.
            strict: refuse rows without a partner and files that do not exist instead of counting them.
            part: for ``embed`` only: the modality that new data are of, where they are of one alone.
            options: for ``embed`` with ``part`` only: other keys of that modality's ``data`` section.
            parts: by name, what :meth:`ssl_domains.recipe.check.Checker.part` made of its section.

        Raises:
            DataError: in one sentence, with the file, row or key.
        """
        if part is not None or options is not None:
            raise DataError(
                "data.part and data.options are for embedding one modality; a recipe has parts a, b ..."
            )
        made = {name: self._part(recipe) for name, recipe in parts.items()}
        joined = PairOptions(
            columns or {}, root, label, split, group, valid, test, seed, limit, strict, start, end
        )
        return build_pairs(source, made, joined)

    @staticmethod
    def _part(recipe: Any) -> Part:
        """A part from its checked section; from a run, where it names one (``init_from``)."""
        section = recipe.sections["encoder"]
        part = Part(recipe.domain, dict(recipe.data), section.name, to_plain(section.resolved))
        if recipe.init_from is None:
            return part
        from ssl_domains.trainer.checkpoint import read_encoder_config

        config = read_encoder_config(recipe.init_from)
        if config["domain"] != recipe.domain:
            raise DataError(f"{recipe.name}.init_from: {recipe.init_from} is of domain {config['domain']!r}")
        own = registry.load_domain(recipe.domain)()
        part.spec = own.spec_from_dict(config["spec"])
        part.encoder, part.options = config["encoder"], dict(config["encoder_options"])
        return part

    def spec_from_dict(self, values: dict[str, Any]) -> PairSpec:
        """Reads a spec back."""
        return PairSpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: PairSpec,
        source: Any = None,
        part: str | None = None,
        columns: Mapping[str, str] | None = None,
        label: str | None = None,
        *,
        root: str | None = None,
        split: str | None = None,
        group: str | None = None,
        start: str | None = None,
        end: str | None = None,
        valid: float = 0.0,
        test: float = 0.0,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Source:
        """New pairs with fitted towers, or samples of one modality.

        Args:
            spec: of the towers.
            source: as of :meth:`open`; with ``part`` the source of that modality alone.
            part: embed this modality only (``part=a``).
            columns: as of :meth:`open`, as are label, root, split, group, start, end, valid, test,
                seed, limit and strict.
            options: with ``part``, other keys of that modality's ``data`` section.

        Raises:
            DataError: no such part, or data that its domain cannot read.
        """
        if part is not None:
            if part not in spec.parts:
                raise DataError(f"data.part: there is no part {part!r} (there are: {', '.join(spec.parts)})")
            own = spec.parts[part]
            given = {**(options or {}), **({} if label is None else {"label": label})}
            opened = registry.load_domain(own.domain)().embed_source(own.spec, source=source, **given)
            return SingleSource(opened, part, spec)
        parts = {name: Part(p.domain, {}, p.encoder, p.options, p.spec) for name, p in spec.parts.items()}
        joined = PairOptions(
            columns or {}, root, label, split, group, valid, test, seed, limit, strict, start, end
        )
        return build_pairs(source, parts, joined)

    def figures(self, encoder: Encoder, source: Source, method: nn.Module | None = None) -> list[Figure]:
        """Queries with what they found; see :func:`ssl_domains.crossmodal.figures.found_pages`. Where
        recordings have maps beside them, also the terrain that a segmentation learned from what was heard."""
        from ssl_domains.crossmodal.figures import found_pages
        from ssl_domains.crossmodal.terrain_probe import terrain_pages

        if not isinstance(source, PairSource) or not isinstance(encoder, Towers):
            return []
        return [*terrain_pages(encoder, source), *found_pages(encoder, source)]

    def inspect(self, source: Any, **data: Any) -> tuple[dict[str, Any], str]:  # type: ignore[override]
        """Columns of a table of pairs, and the recipe lines that use it."""
        from ssl_domains.crossmodal.tables import NAMES, read_pairs

        table = read_pairs(source, {}, {})
        named = {
            column: next((d for d, names in NAMES.items() if column.lower() in (d, *names)), None)
            for column in map(str, table.columns)
        }
        found = [(c, d) for c, d in named.items() if d is not None]
        lines = ["domain: crossmodal", "data:", f"  source: {source}"]
        if found:
            lines.append(f"  columns: {{{', '.join(f'{p}: {c}' for p, (c, _) in zip('abcd', found))}}}")
        lines += [f"{p}: {{domain: {d}}}" for p, (_, d) in zip("abcd", found)]
        card = {
            "source": table.name,
            "rows": len(table),
            "columns": {
                str(c): {"empty": int((~_there(v)).sum()), "different": _different(v)}
                for c, v in table.columns.items()
            },
        }
        return card, "\n".join(lines) + "\n"


def _there(values: Any) -> np.ndarray:
    from ssl_domains.crossmodal.build import _there as there

    return there(values, len(values))


def _different(values: Any) -> int:
    return len(values) if isinstance(values, np.ndarray) and values.ndim > 1 else len(set(map(str, values)))
