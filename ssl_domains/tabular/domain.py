"""The tabular domain: files, databases and frames of numbers and categories."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Domain
from ssl_domains.core.registry import domain
from ssl_domains.tabular.data import TableOptions, TableSource, open_table
from ssl_domains.tabular.integration.source import (
    MAX_CHARS,
    TextTableSource,
    open_text_table,
    open_verbatim,
    refuse_for_texts,
)
from ssl_domains.tabular.integration.spec import KIND, TextTableSpec
from ssl_domains.tabular.plan import PlanOptions, name_list
from ssl_domains.tabular.readers import open_reader
from ssl_domains.tabular.recommendation.entities import EntitySource
from ssl_domains.tabular.recommendation.interactions import InteractionSource
from ssl_domains.tabular.recommendation.opening import open_new, open_recommendation, recipe_lines
from ssl_domains.tabular.recommendation.spec import RecommendationSpec
from ssl_domains.tabular.schema import check_schema, read_schema, reuse, write_schema
from ssl_domains.tabular.spec import TableSpec


@domain("tabular")
class Tabular(Domain):
    """Tables: CSV, TSV, Parquet, Arrow, DataFrames, Hugging Face datasets, DuckDB and SQLite."""

    title: ClassVar[str] = "tables: CSV, Parquet, Arrow, DataFrames, Hugging Face datasets, DuckDB, SQLite"
    defaults: ClassVar[dict[str, str]] = {
        "encoder": "ft_transformer",
        "views": "column_corruption",
        "mask": "disjoint_subsets",
    }

    def open(  # type: ignore[override]
        self,
        source: Any,
        label: str | Sequence[str] | None = None,
        task: str | None = None,
        columns: Mapping[str, str] | None = None,
        exclude: str | Sequence[str] = (),
        include: str | Sequence[str] | None = None,
        id: str | None = None,
        query: str | None = None,
        table: str | None = None,
        split: str | None = None,
        valid: float = 0.1,
        test: float = 0.1,
        scaling: str = "standard",
        max_categories: int = 1000,
        inf: str = "error",
        schema: str | None = None,
        seed: int = 0,
        limit: int | None = None,
        item: str | None = None,
        user: str | None = None,
        time: str | None = None,
        items: Any = None,
        users: Any = None,
        item_key: str | None = None,
        user_key: str | None = None,
        lists: Mapping[str, str | None] | None = None,
        unknown: str = "error",
        head: float = 0.1,
        cells: Literal["mixed", "text"] = "mixed",
        max_chars: int = MAX_CHARS,
    ) -> TableSource | InteractionSource | TextTableSource:
        """Opens a table; column types are inferred and fitted on the train rows.

        With ``item`` and ``user`` the table holds interactions, and the features are those of
        ``items`` and ``users``.

        Args:
            source: a path (CSV, TSV, Parquet, Arrow or Feather, DuckDB, SQLite), a folder or a
                glob of files with one header, a saved Hugging Face dataset,
                ``package://PACKAGE/PATH``; in Python also a DataFrame, Arrow table or dataset.
            label: a column, or several for ``multilabel``. Probes read it; it never is input.
            task: ``classification``, ``regression`` or ``multilabel``; inferred when not given.
            columns: kinds to set by hand, ``{age: numeric, zip: categorical, day: date}``.
            exclude: columns to leave out.
            include: the only columns to use.
            id: a column of ids, kept for ``embed``; no input.
            query: SQL on a database file.
            table: a table of a database file.
            split: a column that says train, valid or test; instead of ``valid`` and ``test``.
            valid: share of validation rows.
            test: share of test rows.
            scaling: ``standard``, ``minmax`` (T-JEPA) or ``quantile``.
            max_categories: a column's rarer values beyond these share one code.
            inf: ``error``, or ``missing``: infinite values count as missing.
            schema: a file that ``inspect --schema`` wrote, or a run: its columns, scales and
                categories are checked against the table and used; nothing is fitted.
            seed: of the split.
            limit: use the first rows only.
            item: of interactions: the column of item ids.
            user: of interactions: the column of user ids.
            time: of interactions: a column of numbers or dates; each user's last ones are held out.
            items: table of the items, read as ``source`` is; without it items are known by their id alone.
            users: table of the users.
            item_key: the id column of ``items``, when it is not called as in the interactions.
            user_key: the id column of ``users``, when it is not called as in the interactions.
            lists: columns of ``items`` and ``users`` with several values a row, and their separator,
                ``{genres: "|"}``; Arrow lists are found by themselves.
            unknown: interactions that name users or items which their table lacks: ``error`` or ``drop``.
            head: share of the items, the most frequent ones, that is scored apart from the tail.
            cells: ``mixed``: numbers and categories; ``text``: every cell is a text (table integration).
                Then ``columns``, ``scaling``, ``max_categories``, ``inf`` and ``schema`` are refused.
            max_chars: characters of a cell that an encoder of texts sees; longer cells are cut for it.

        Raises:
            DataError: one sentence with file, row or column, and what to do.
        """
        if item is not None or user is not None:
            return open_recommendation(locals())
        for key, value in (("time", time), ("items", items), ("users", users), ("lists", lists)):
            if value is not None:
                raise DataError(f"data.{key} speaks of interactions; give data.user and data.item, too")
        plan = PlanOptions(
            columns=dict(columns or {}),
            exclude=name_list(exclude),
            include=None if include is None else name_list(include),
            max_categories=max_categories,
            scaling=scaling,
            inf=inf,
            seed=seed,
        )
        options = TableOptions(name_list(label), task, id, split, valid, test, seed, limit, plan)
        if cells == KIND:
            refuse_for_texts(
                columns=columns, scaling=scaling, max_categories=max_categories, inf=inf, schema=schema
            )
            return open_text_table(open_verbatim(source, query, table), options, max_chars)
        text = [name for name, kind in (columns or {}).items() if kind == "categorical"]
        reader = open_reader(source, query, table, text)
        if schema is None:
            return open_table(reader, options)
        taken = [*options.label, *(name for name in (id, split) if name)]
        known = reuse(read_schema(schema), plan, taken, str(schema))
        check_schema(known, reader, plan, str(schema))
        return open_table(reader, options, known)

    def spec_from_dict(self, values: dict[str, Any]) -> TableSpec | RecommendationSpec | TextTableSpec:
        """Reads a :class:`TableSpec`, :class:`RecommendationSpec` or :class:`TextTableSpec` back."""
        if "recommendation" in values:
            return RecommendationSpec.from_dict(values)
        kind = TextTableSpec if values.get("cells") == KIND else TableSpec
        return kind.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: TableSpec | RecommendationSpec | TextTableSpec,
        source: Any,
        label: str | Sequence[str] | None = None,
        task: str | None = None,
        id: str | None = None,
        query: str | None = None,
        table: str | None = None,
        split: str | None = None,
        valid: float = 0.0,
        test: float = 0.0,
        inf: str = "error",
        seed: int = 0,
        limit: int | None = None,
        **fitted: Any,
    ) -> TableSource | EntitySource | TextTableSource:
        """Opens new rows with a fitted spec; all of them are "train" unless split.

        Towers of users and items take a table of one of both, told by its id column.

        Columns that the spec does not know are ignored, new categories get the code of unseen
        ones. Arguments as of :meth:`open`; those that only matter for fitting (``columns``,
        ``exclude``, ``include``, ``scaling``, ``max_categories``) are taken and ignored, so
        that a run's own ``data`` section can be passed on.

        Raises:
            DataError: a column that the encoder needs is not there.
        """
        if isinstance(spec, RecommendationSpec):
            return open_new(spec, source, PlanOptions(scaling=spec.item.table.scaling, inf=inf), limit)
        if isinstance(spec, TextTableSpec):
            options = TableOptions(name_list(label), task, id, split, valid, test, seed, limit)
            return open_text_table(open_verbatim(source, query, table), options, spec=spec)
        text = [column.source for column in spec.categorical]
        reader = open_reader(source, query, table, text)
        plan = PlanOptions(scaling=spec.scaling, inf=inf)
        options = TableOptions(name_list(label), task, id, split, valid, test, seed, limit, plan)
        return open_table(reader, options, spec)

    def inspect(  # type: ignore[override]
        self, source: Any, schema_out: str | os.PathLike[str] | None = None, **data: Any
    ) -> tuple[dict[str, Any], str]:
        """The card, and the recipe lines that use the table; ``schema_out`` is a file to write the
        fitted columns to."""
        opened = self.open(source, **data)
        if isinstance(opened, InteractionSource):
            if schema_out is not None:
                raise DataError(
                    "a schema holds the columns of one table; write it for the items or the users alone"
                )
            return opened.card(), recipe_lines(source, data, opened)
        if schema_out is not None:
            if isinstance(opened.spec, TextTableSpec):
                raise DataError("a schema is of numbers and categories; remove data.cells: text, or --schema")
            write_schema(opened.spec, os.fspath(schema_out))
        where = os.fspath(source) if isinstance(source, str | os.PathLike) else "table.parquet"
        lines = ["domain: tabular", "data:", f"  source: {where}"]
        lines += [f"  {key}: {value}" for key, value in data.items()]
        if "label" not in data:
            lines.append("  # label: COLUMN   (read by probes only)")
        kinds = ", ".join(f"{name}: {kind}" for name, kind in _kinds(opened.spec).items())
        if "columns" not in data:
            lines.append(f"  # columns: {{{kinds}}}   (as found; write down what is wrong)")
        return opened.card(), "\n".join(lines) + "\n"

    def tree_baseline(self) -> bool:
        """Boosted trees are the customary baseline on tables."""
        return True


def _kinds(spec: TableSpec | TextTableSpec) -> dict[str, str]:
    """Kind of each column of the file."""
    return {column.source: "date" if column.part else column.kind for column in spec.columns}
