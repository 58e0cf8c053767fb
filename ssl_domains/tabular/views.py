"""Views of table rows: corrupted cells, noise, cells of other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source, Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.tabular.integration.spec import TextTableSpec
from ssl_domains.tabular.spec import FIRST_CATEGORY, TableSpec

Row = dict[str, Tensor]

TEXTS = "these views change numbers and categories, but data.cells is text; use views: text_perturbations"


def _share(value: float, name: str) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"views.{name} is a share and must lie in [0, 1], got {value}")
    return value


def _n_columns(x: Row) -> int:
    if "numeric" not in x:
        raise DataError(TEXTS)
    return x["numeric"].shape[1] + x["categorical"].shape[1]


def chosen_cells(n: int, rate: float, draw: Draw, per_cell: bool = False) -> Tensor:
    """``[B, n]`` bool: ``floor(rate * n)`` cells a row, at least one when ``rate`` is above 0; with
    ``per_cell`` each cell by itself with probability ``rate``."""
    if per_cell:
        return draw.bernoulli(rate, n)
    count = max(int(rate * n), 1) if rate > 0 else 0
    return draw.permutation(n) < count


def replace_cells(x: Row, where: Tensor, other: Row) -> Row:
    """Rows with the cells ``where [B, N]`` (token order) taken from ``other``."""
    n = x["numeric"].shape[1]
    numeric, categorical = where[:, :n], where[:, n:]
    return {
        "numeric": torch.where(numeric, other["numeric"], x["numeric"]),
        "missing": torch.where(numeric, other["missing"], x["missing"]),
        "categorical": torch.where(categorical, other["categorical"], x["categorical"]),
    }


def partners(draw: Draw) -> Tensor:
    """``[B]`` int64: for each row the place of another one in the batch, uniformly drawn."""
    n = len(draw.index)
    return (torch.arange(n, device=draw.index.device) + 1 + draw.randint(max(n - 1, 1))) % n


def changed_cells(x: Row, other: Row) -> Tensor:
    """``[B, N]`` bool: cells whose content differs; two missing numbers are the same."""
    missing, gone = x["missing"], other["missing"]
    numeric = (missing != gone) | (~missing & ~gone & (x["numeric"] != other["numeric"]))
    return torch.cat([numeric, x["categorical"] != other["categorical"]], dim=1)


def _clean(batch: Batch, n: int) -> View:
    """The batch as it is."""
    none = torch.zeros(len(batch), n, dtype=torch.bool, device=batch.index.device)
    return View(batch.x, "clean", {"corrupted": none})


class _ColumnViews(Views):
    """Views that record ``params["corrupted"]``, one boolean a column."""

    def prepare(self, source: Source) -> None:
        """Looks whether there are columns.

        Raises:
            DataError: the data are texts, or interactions, whose rows have no cells of their own.
        """
        if isinstance(source.spec, TextTableSpec):
            raise DataError(TEXTS)
        if not isinstance(source.spec, TableSpec):
            raise DataError(
                "these views change the cells of one table; interactions need views feature_masking"
            )

    def target_width(self, name: str, spec: Any) -> int:
        """N, the number of columns, for ``corrupted``.

        Raises:
            KeyError: another name.
        """
        if name != "corrupted":
            raise KeyError(f"these views record 'corrupted', not {name!r}")
        return int(spec.n_columns)


@views("column_corruption")
class ColumnCorruption(_ColumnViews):
    """SCARF: cells replaced by values of the same column from other training rows.

    ``floor(rate * N)`` columns, drawn anew for every row, take a value of the column's
    empirical marginal: the column's value in a random row of a reservoir (missing values
    included), independently per cell. (Bahri et al., ICLR 2022, section 3.)

    ``params["corrupted"]``: ``[B, N]`` bool in token order.

    Args:
        rate: share of corrupted columns. Default 0.6 (the paper's).
        both: corrupt both views, as the paper's ablation does; default: the first is clean.
        reservoir: training rows to draw from.
        per_cell: each cell is corrupted with probability ``rate`` by itself (VIME, SubTab), in
            place of a fixed number a row.
    """

    def __init__(
        self, rate: float = 0.6, both: bool = False, reservoir: int = 65_536, per_cell: bool = False
    ) -> None:
        self.rate, self.both, self.size = _share(rate, "rate"), both, reservoir
        self.per_cell = per_cell
        self._rows: Row | None = None

    def prepare(self, source: Source) -> None:
        """Takes the reservoir: the same training rows each time."""
        super().prepare(source)
        train = np.asarray(source.splits["train"])
        if len(train) > self.size:
            train = np.sort(np.random.default_rng(0).choice(train, self.size, replace=False))
        self._rows = source.fetch(train).x

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """Two views: clean and corrupted, or both corrupted."""
        second = self._corrupted(batch.x, draw)
        first = self._corrupted(batch.x, draw) if self.both else _clean(batch, _n_columns(batch.x))
        return [first, second]

    def _corrupted(self, x: Row, draw: Draw) -> View:
        where = chosen_cells(_n_columns(x), self.rate, draw, self.per_cell)
        return View(replace_cells(x, where, self._marginals(x, draw)), "corrupted", {"corrupted": where})

    def _marginals(self, x: Row, draw: Draw) -> Row:
        """A row of the reservoir for each cell."""
        if self._rows is None:
            raise DataError("views.column_corruption draws from training rows: call prepare(source) first")
        device = x["numeric"].device
        if self._rows["numeric"].device != device:
            self._rows = {key: value.to(device) for key, value in self._rows.items()}
        n = x["numeric"].shape[1]
        pick = draw.randint(len(self._rows["numeric"]), _n_columns(x))
        return {
            "numeric": self._rows["numeric"].gather(0, pick[:, :n]),
            "missing": self._rows["missing"].gather(0, pick[:, :n]),
            "categorical": self._rows["categorical"].gather(0, pick[:, n:]),
        }


@views("column_noise")
class ColumnNoise(_ColumnViews):
    """Gaussian noise on numbers, random changes of categories; missing cells stay.

    ``params``: ``corrupted [B, N]`` bool, cells that were changed (all present numbers when
    ``std`` is above 0, and the flipped categories).

    Args:
        std: deviation of the noise, in units of the scaled columns. Default 0.1.
        flip: share of the categorical cells that take a uniformly drawn other category of
            their column (columns with one category stay). Default 0.1.
        both: both views are noisy (independently); else the first is clean.
    """

    def __init__(self, std: float = 0.1, flip: float = 0.1, both: bool = True) -> None:
        if std < 0:
            raise ValueError(f"views.std must not be negative, got {std}")
        self.std, self.flip, self.both = std, _share(flip, "flip"), both
        self._categories: Tensor | None = None

    def prepare(self, source: Source) -> None:
        """Learns how many categories each column has."""
        super().prepare(source)
        sizes = [size - FIRST_CATEGORY for size in source.spec.cardinalities]
        self._categories = torch.tensor(sizes, dtype=torch.int64)

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """Two views."""
        second = self._noisy(batch.x, draw)
        first = self._noisy(batch.x, draw) if self.both else _clean(batch, _n_columns(batch.x))
        return [first, second]

    def _noisy(self, x: Row, draw: Draw) -> View:
        numeric = x["numeric"] + self.std * draw.normal(x["numeric"].shape[1])
        numeric = torch.where(x["missing"], x["numeric"], numeric)
        categorical, flipped = self._flipped(x["categorical"], draw)
        noised = ~x["missing"] & (self.std > 0)
        row = {"numeric": numeric, "missing": x["missing"], "categorical": categorical}
        return View(row, "corrupted", {"corrupted": torch.cat([noised, flipped], dim=1)})

    def _flipped(self, codes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Codes, and where they changed."""
        if self._categories is None:
            raise DataError("views.column_noise needs the columns' categories: call prepare(source) first")
        n = codes.shape[1]
        sizes = self._categories.to(codes.device)
        flip = draw.bernoulli(self.flip, n) & (codes >= FIRST_CATEGORY) & (sizes > 1)
        # A step of 1 .. size-1 around the circle of categories never lands where it began.
        step = 1 + (draw.uniform(n) * (sizes - 1)).to(torch.int64).clamp(max=(sizes - 2).clamp_min(0))
        other = FIRST_CATEGORY + (codes - FIRST_CATEGORY + step) % sizes.clamp_min(1)
        return torch.where(flip, other, codes), flip


@views("row_cutmix")
class RowCutMix(_ColumnViews):
    """Cells taken from one other row of the batch (CutMix for tables, as in SAINT).

    Unlike the other views this one depends on who is in the batch: the partner of a row is
    drawn among the others of its batch. (Somepalli et al. 2021, section 3.3.)

    ``params``: ``corrupted [B, N]`` bool; ``partner [B]`` int64, a place in the batch.

    Args:
        rate: share of the columns taken from the partner. Default 0.3: SAINT keeps a cell with
            probability 0.7 and more, by data set.
        both: mix both views (independently); else the first is clean.
        per_cell: each cell is taken with probability ``rate`` by itself (as in SAINT's code), in
            place of a fixed number a row.
    """

    def __init__(self, rate: float = 0.3, both: bool = False, per_cell: bool = False) -> None:
        self.rate, self.both, self.per_cell = _share(rate, "rate"), both, per_cell

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """Two views."""
        second = self._mixed(batch.x, draw)
        first = self._mixed(batch.x, draw) if self.both else _clean(batch, _n_columns(batch.x))
        return [first, second]

    def _mixed(self, x: Row, draw: Draw) -> View:
        where = chosen_cells(_n_columns(x), self.rate, draw, self.per_cell)
        partner = partners(draw)
        other = {key: value[partner] for key, value in x.items()}
        return View(replace_cells(x, where, other), "corrupted", {"corrupted": where, "partner": partner})
