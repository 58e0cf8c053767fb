"""From the recipe's ``data`` section to interactions, and from new tables to users or items."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.data import TableOptions
from ssl_domains.tabular.plan import PlanOptions, name_list, nearest
from ssl_domains.tabular.readers import Reader, open_reader
from ssl_domains.tabular.recommendation.entities import (
    EntityOptions,
    EntitySource,
    ids_only,
    open_entities,
    read_ids,
)
from ssl_domains.tabular.recommendation.interactions import (
    InteractionOptions,
    InteractionSource,
    check_columns,
    distinct,
    read_interactions,
)
from ssl_domains.tabular.recommendation.spec import RecommendationSpec


@dataclass(frozen=True)
class RecommendationOptions:
    """Everything of the ``data`` section that speaks of interactions; see :meth:`Tabular.open`."""

    rows: InteractionOptions
    items: Any = None
    users: Any = None
    item_key: str | None = None
    user_key: str | None = None
    lists: Mapping[str, str | None] = field(default_factory=dict)
    label: Sequence[str] = ()
    task: str | None = None
    plan: PlanOptions = field(default_factory=PlanOptions)

    def key(self, side: str) -> str:
        """Id column of a side's own table."""
        own: str | None = getattr(self, f"{side}_key")
        return own or getattr(self.rows, side)


def open_recommendation(data: Mapping[str, Any]) -> InteractionSource:
    """Opens the arguments of :meth:`Tabular.open` as interactions.

    Raises:
        DataError: one sentence on what is wrong with a table or an option.
    """
    if data["item"] is None or data["user"] is None:
        lacking = "item" if data["item"] is None else "user"
        raise DataError(f"data.{lacking} is missing: interactions need the columns of users and of items")
    if data.get("schema") is not None:
        raise DataError("data.schema holds the columns of one table; interactions cannot use it")
    keys = ("user", "item", "time", "split", "valid", "test", "unknown", "head", "seed", "limit")
    plan = PlanOptions(
        columns=dict(data["columns"] or {}),
        exclude=name_list(data["exclude"]),
        include=None if data["include"] is None else name_list(data["include"]),
        **{key: data[key] for key in ("max_categories", "scaling", "inf", "seed")},
    )
    options = RecommendationOptions(
        InteractionOptions(**{key: data[key] for key in keys}),
        **{key: data[key] for key in ("items", "users", "item_key", "user_key", "task")},
        lists=dict(data["lists"] or {}),
        label=name_list(data["label"]),
        plan=plan,
    )
    ids = [data["user"], data["item"]]
    return open_tables(open_reader(data["source"], data["query"], data["table"], ids), options)


def open_tables(reader: Reader, options: RecommendationOptions) -> InteractionSource:
    """Interactions with the tables of users and items that there are.

    Raises:
        DataError: as of :func:`open_recommendation`.
    """
    check_columns(reader, options.rows)
    readers = {"user": _table(options, "user"), "item": _table(options, "item")}
    _check_names(options, [found for found in readers.values() if found is not None])
    sides: dict[str, EntitySource] = {}
    ids = {}
    for side, own in readers.items():
        if own is None:
            ids[side] = distinct(reader, getattr(options.rows, side))
            own = ids_only(options.key(side), ids[side], f"the {side}s of {reader.name}")
        else:
            ids[side] = read_ids(own, EntityOptions(side, options.key(side)))
        sides[side] = open_entities(own, _entity(options, side, own), ids[side])
    rows = read_interactions(reader, options.rows, ids["user"], ids["item"])
    spec = RecommendationSpec(
        sides["user"].entity, sides["item"].entity, options.rows.user, options.rows.item
    )
    for source in sides.values():
        source.spec = spec
    return InteractionSource(spec, sides["user"], sides["item"], rows, options.rows, reader.name)


def _table(options: RecommendationOptions, side: str) -> Reader | None:
    """The table of one side, or None."""
    source = getattr(options, f"{side}s")
    return None if source is None else open_reader(source, text_columns=[options.key(side)])


def _entity(options: RecommendationOptions, side: str, reader: Reader) -> EntityOptions:
    """What the options say of one side: names that its table has."""
    names = set(reader.schema.names)
    plan = options.plan
    own = replace(
        plan,
        columns={k: v for k, v in plan.columns.items() if k in names},
        exclude=[name for name in plan.exclude if name in names],
        include=None if plan.include is None else [name for name in plan.include if name in names],
    )
    labels = [name for name in options.label if side == "item"]
    table = TableOptions(
        label=labels, task=options.task if labels else None, plan=own, seed=options.rows.seed,
        valid=options.rows.valid if labels else 0.0, test=options.rows.test if labels else 0.0,
    )  # fmt: skip
    lists = {name: sign for name, sign in options.lists.items() if name in names}
    return EntityOptions(side, options.key(side), lists, table)


def _check_names(options: RecommendationOptions, readers: list[Reader]) -> None:
    """Every column that an option names stands in the table of users or that of items."""
    names = [name for reader in readers for name in reader.schema.names]
    plan = options.plan
    said: list[tuple[str, Iterable[str]]] = [
        ("columns", plan.columns), ("exclude", plan.exclude), ("include", plan.include or ()),
        ("lists", options.lists), ("label", options.label),
    ]  # fmt: skip
    for key, given in said:
        for name in given:
            if name not in names:
                where = (
                    " and ".join(reader.name for reader in readers)
                    or "data.items and data.users, which are missing,"
                )
                hint = nearest(name, names) if names else ""
                raise DataError(f"data.{key}: no column of {where} is called {name!r}{hint}")


def open_new(spec: RecommendationSpec, source: Any, plan: PlanOptions, limit: int | None) -> EntitySource:
    """New users or items for a trained encoder; which of both is told by the id column.

    Raises:
        DataError: the table has neither id column, or both (then it holds interactions).
    """
    keys = {side: spec.side(side).key for side in ("user", "item")}
    reader = open_reader(source, text_columns=list(keys.values()))
    names = reader.schema.names
    found = [side for side, key in keys.items() if key in names]
    if not found:
        raise DataError(
            f"{reader.name} has neither an item's {keys['item']!r} nor a user's {keys['user']!r}; give a "
            "table of the items or the users to embed"
        )
    if len(found) == 2 and keys["user"] != keys["item"]:
        raise DataError(
            f"{reader.name} has a user's {keys['user']!r} and an item's {keys['item']!r}; give a table of "
            "one of both: a row is one item, or one user"
        )
    side = spec.side(found[-1])
    table = TableOptions(limit=limit, valid=0.0, test=0.0, plan=plan)
    opened = open_entities(reader, EntityOptions(side.name, side.key, table=table), spec=side)
    opened.spec = spec
    return opened


def recipe_lines(source: Any, data: Mapping[str, Any], opened: InteractionSource) -> str:
    """The ``data`` section that opens these tables."""
    where = os.fspath(source) if isinstance(source, str | os.PathLike) else "interactions.parquet"
    lines = ["domain: tabular", "data:", f"  source: {where}"]
    lines += [f"  {key}: {value}" for key, value in data.items()]
    hints = {
        "time": "COLUMN   (the last interactions of a user are held out; without it, random ones)",
        "items": "items.csv   (a row an item; its columns become features)",
        "users": "users.csv",
    }
    lines += [f"  # {key}: {text}" for key, text in hints.items() if key not in data]
    if "lists" not in data:
        lines.append("  # lists: {genres: '|'}   (columns with several values)")
    return "\n".join([*lines, "method: item_recommendation", "evaluate: {probes: [retrieval]}"]) + "\n"
