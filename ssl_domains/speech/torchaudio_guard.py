"""torchaudio, also where its compiled part does not fit the torch that is installed."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


def load_torchaudio() -> Any:
    """The package torchaudio.

    Its compiled part is built against one CUDA build of torch. With another build, or the CPU's, the import
    fails (``OSError`` or ``RuntimeError``), and with it that of transformers, which imports torchaudio.
    Nothing here needs the compiled part (only forced alignment and RNN-T do), so then it is left out.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        pass
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    stand_in = types.ModuleType("torchaudio._extension")
    stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
    stand_in._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
    stand_in.fail_if_no_align = lambda function: function  # type: ignore[attr-defined]
    sys.modules["torchaudio._extension"] = stand_in
    return importlib.import_module("torchaudio")
