"""Metrics on disk: the same rows whether or not a run was interrupted."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_domains.core.errors import RunError, UserError

TIMING = "time/"
"""Keys that differ from run to run begin with this: seconds, samples a second, waiting for data."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``; a line cut off by a crash is left out."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` (the truth) and ``metrics.csv`` (for spreadsheets).

    A row is a flat mapping with ``step``. The files are flushed after each row. The CSV is
    rewritten when a row brings a new column.

    Args:
        folder: of the run; None: rows are kept in memory only.
        resume_step: rows after this step are removed, so that a resumed run repeats nothing;
            None: a fresh run.
        trackers: ``tensorboard``, ``wandb``: also sent there.

    Raises:
        UserError: a tracker is unknown or not installed, with the command that installs it.
    """

    def __init__(
        self, folder: Path | None, resume_step: int | None = None, trackers: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._trackers = [_tracker(name, folder) for name in trackers]
        if folder is not None and resume_step is not None:
            kept = read_rows(folder / "metrics.jsonl")
            self.rows = [row for row in kept if row.get("step", 0) <= resume_step]
            self._rewrite()

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row.

        Raises:
            RunError: the disk is full.
        """
        self.rows.append(row)
        for tracker in self._trackers:
            tracker(row)
        if self.folder is None:
            return
        try:
            _append(self.folder / "metrics.jsonl", json.dumps(_plain(row)) + "\n")
            if set(row) - set(self._columns):
                self._rewrite_csv()
            else:
                _append(self.folder / "metrics.csv", _csv([row], self._columns))
        except OSError as error:
            raise RunError(f"metrics in {self.folder} could not be written: {error.strerror}") from error

    def _rewrite(self) -> None:
        assert self.folder is not None
        text = "".join(json.dumps(_plain(row)) + "\n" for row in self.rows)
        (self.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        self._rewrite_csv()

    def _rewrite_csv(self) -> None:
        assert self.folder is not None
        self._columns = list(dict.fromkeys(key for row in self.rows for key in row))
        header = _csv([dict(zip(self._columns, self._columns))], self._columns) if self._columns else ""
        text = header + _csv(self.rows, self._columns)
        (self.folder / "metrics.csv").write_text(text, encoding="utf-8")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _csv(rows: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writerows(rows)
    return text.getvalue()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN; it becomes null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _tracker(name: str, folder: Path | None) -> Any:
    """A function that takes rows."""
    known = {"tensorboard": "tensorboard", "wandb": "wandb"}
    if name not in known:
        raise UserError(f"tracker {name!r} is unknown; there are: {', '.join(known)}")
    try:
        module = importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise UserError(f"tracker {name!r} needs its package: pip install {known[name]}") from error
    if name == "tensorboard":
        writer = module.SummaryWriter(str(folder or "."))
        return lambda row: _each(row, lambda key, value: writer.add_scalar(key, value, row["step"]))
    session = module.init(project="ssl_domains", dir=str(folder or "."))
    return lambda row: session.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])


def _each(row: dict[str, Any], send: Any) -> None:
    for key, value in row.items():
        if key != "step" and isinstance(value, int | float):
            send(key, value)
