"""What a person sees while a run goes on."""

from __future__ import annotations

import sys
import time
from typing import Any

LINE_SECONDS = 15.0


class Display:
    """A progress bar on a terminal, plain lines elsewhere, nothing when switched off.

    Args:
        total: steps of the run.
        start: steps done already.
        wanted: None: a bar on a terminal, lines otherwise; True: the same; False: nothing.
    """

    def __init__(self, total: int, start: int, wanted: bool | None, main: bool) -> None:
        self.total, self.start, self.on = total, start, main and wanted is not False
        self._bar: Any = None
        self._text = ""
        self._last = self._begin = time.monotonic()

    def __enter__(self) -> Display:
        if self.on and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=self.total, completed=self.start, text="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()
        elif self.on and self._text:
            self._line(self._step)

    def row(self, row: dict[str, Any]) -> None:
        """Takes the numbers of the newest row."""
        if not self.on:
            return
        parts = [f"loss {row['loss']:.4f}"] if "loss" in row else []
        parts += [f"lr {row['lr']:.2e}"] if "lr" in row else []
        parts += [f"rank {row['rank']:.1f}"] if row.get("rank") is not None else []
        if "time/samples_per_second" in row:
            parts += [f"{row['time/samples_per_second']:.0f} samples/s", f"data {row['time/data_wait']:.0%}"]
        self._text = "  ".join(parts)

    def step(self, step: int) -> None:
        """After each step; redraws twice a second at most."""
        if not self.on:
            return
        now = time.monotonic()
        self._step = step
        if now - self._last < (0.5 if self._bar is not None else LINE_SECONDS):
            return
        self._last = now
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=self._text)
            self._bar.refresh()
        else:
            self._line(step)

    def say(self, sentence: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(sentence, markup=False)
        elif self.on:
            sys.stderr.write(sentence + "\n")

    def _line(self, step: int) -> None:
        done = max(step - self.start, 1)
        left = (time.monotonic() - self._begin) / done * (self.total - step)
        sys.stderr.write(f"step {step}/{self.total}  {self._text}  ETA {left:.0f} s\n")


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False)
