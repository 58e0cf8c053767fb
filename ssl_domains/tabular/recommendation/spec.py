"""What users and items are: their columns, fitted once, and the ids that are known."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ssl_domains.tabular.spec import FIRST_CATEGORY, ColumnSpec, TableSpec

EMPTY = 0
"""Code of a list without values, and of the padding of shorter lists."""


@dataclass(frozen=True)
class ListSpec:
    """A column that holds several values a row, such as the genres of a film.

    Attributes:
        name: of the column.
        separator: between the values of a text; None: the column holds lists.
        values: known values; their codes are their places plus ``FIRST_CATEGORY``. Code 0 is an
            empty list, code 1 a value that is not in the list (unseen, or too rare to be kept).
        counts: rows of each code, ``len(values) + 2`` numbers; a row counts once for each value.
        longest: values of the longest list.
    """

    name: str
    separator: str | None
    values: tuple[str, ...]
    counts: tuple[int, ...] = ()
    longest: int = 1

    @property
    def n_codes(self) -> int:
        """Number of codes."""
        return len(self.values) + FIRST_CATEGORY


@dataclass(frozen=True)
class EntitySpec:
    """One side of the interactions: users, or items.

    Features come in the order numeric, categorical, lists; the id is the first categorical one.

    Attributes:
        name: ``user`` or ``item``: the key of its features in a batch.
        key: column of the ids in its table.
        table: numbers and categories, the id among them.
        lists: columns with several values a row.
    """

    name: str
    key: str
    table: TableSpec
    lists: tuple[ListSpec, ...] = ()

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        return self.table.names + [column.name for column in self.lists]

    @property
    def id_place(self) -> int:
        """Place of the id among the features."""
        return len(self.table.numeric)

    @property
    def ids(self) -> tuple[str, ...]:
        """The known ids; their places are row numbers of the catalogue."""
        return self.table.categorical[0].categories

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EntitySpec:
        """Reads ``asdict`` back."""
        known = {field.name for field in fields(ListSpec)}
        lists = []
        for item in values["lists"]:
            kept: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in item.items() if k in known
            }
            lists.append(ListSpec(**kept))
        return cls(values["name"], values["key"], TableSpec.from_dict(values["table"]), tuple(lists))


@dataclass(frozen=True)
class RecommendationSpec:
    """Frozen description of interactions between users and items.

    Attributes:
        user, item: both sides.
        user_column, item_column: columns of the interaction table.
    """

    user: EntitySpec
    item: EntitySpec
    user_column: str
    item_column: str

    def side(self, name: str) -> EntitySpec:
        """``user`` or ``item``."""
        return self.item if name == "item" else self.user

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"recommendation": asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RecommendationSpec:
        """Reads :meth:`to_dict` back."""
        inner = values["recommendation"]
        user, item = (EntitySpec.from_dict(inner[name]) for name in ("user", "item"))
        return cls(user, item, inner["user_column"], inner["item_column"])


def id_column(key: str, ids: tuple[str, ...]) -> ColumnSpec:
    """The id as a categorical column. Its counts are zero: ids are no plain feature of a baseline."""
    return ColumnSpec(key, "categorical", key, categories=ids, counts=(0,) * (len(ids) + FIRST_CATEGORY))
