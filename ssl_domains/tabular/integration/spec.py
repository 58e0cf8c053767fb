"""What a table of texts is: its columns, and how rare each hashed n-gram is in the train rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn

import numpy as np

from ssl_domains.core.errors import DataError

KIND = "text"


@dataclass(frozen=True)
class TextColumn:
    """One token of a row: a column whose cells are read as texts.

    Attributes:
        name: of the token, and of the column in the file.
        missing: share of missing cells among the train rows.
        mean_chars: mean length of the other cells, in characters.
        longest: length of the longest cell, in characters.
        cut: cells that are longer than what the encoder sees.
    """

    name: str
    missing: float = 0.0
    mean_chars: float = 0.0
    longest: int = 0
    cut: int = 0
    kind: str = KIND
    part: str | None = None

    @property
    def source(self) -> str:
        """Name of the column in the file."""
        return self.name


@dataclass(frozen=True)
class TextTableSpec:
    """Frozen description of a table whose cells are texts (``data.cells: text``).

    Attributes:
        columns: the tokens of a row, in the order of the file.
        max_chars: characters of a cell that the encoder sees.
        idf: weight of each bucket of hashed n-grams, ``ln((1 + cells) / (1 + cells with it)) + 1``
            over the cells of the train rows.
        dropped: why columns of the file are no tokens, by name.
        n_train: number of rows that all this was fitted on.
    """

    columns: tuple[TextColumn, ...]
    max_chars: int = 128
    idf: tuple[float, ...] = ()
    dropped: dict[str, str] | None = None
    n_train: int = 0

    @property
    def n_columns(self) -> int:
        """m, number of tokens a row."""
        return len(self.columns)

    @property
    def names(self) -> list[str]:
        """Names of the tokens."""
        return [column.name for column in self.columns]

    sources = names

    @property
    def numeric(self) -> NoReturn:
        """There are none: encoders and objectives of numbers and categories do not fit.

        Raises:
            DataError: always, with what to use instead.
        """
        raise DataError(
            "data.cells is text, but a part of this recipe reads numbers and categories; use encoder "
            "text_cells with views text_perturbations, or remove data.cells"
        )

    categorical = cardinalities = numeric

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"cells": KIND, **asdict(self), "idf": [round(value, 4) for value in self.idf]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TextTableSpec:
        """Reads :meth:`to_dict` back."""
        known = {field.name for field in fields(cls)}
        rest = {key: value for key, value in values.items() if key in known}
        rest["columns"] = tuple(TextColumn(**_known(item)) for item in values["columns"])
        rest["idf"] = tuple(np.asarray(values["idf"], dtype=np.float64).tolist())
        return cls(**rest)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(TextColumn)}
    return {key: value for key, value in values.items() if key in known}
