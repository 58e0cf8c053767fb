"""Ctrl-C and SIGTERM: finish the step, save, and say so."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The user or the system asked a run to stop; it is saved and can be resumed. Exit code 130.

    Attributes:
        step: steps done.
        checkpoint: where it is saved; None without a run directory.
    """

    def __init__(self, step: int, checkpoint: Path | None) -> None:
        self.step, self.checkpoint = step, checkpoint
        saved = f"saved in {checkpoint}; continue with --resume" if checkpoint else "nothing is saved"
        super().__init__(f"interrupted after step {step}; {saved}")


class Interrupts:
    """Context in which the first SIGINT or SIGTERM sets :attr:`asked`, and a second SIGINT ends at once.

    Does nothing outside the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        sys.stderr.write("\nstopping after this step and saving; Ctrl-C again to stop at once\n")
