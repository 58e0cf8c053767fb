"""A run's directory: what is in it, and who may write there."""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ssl_domains
from ssl_domains.core.errors import RunError
from ssl_domains.trainer.files import is_whole, write_text

FORMAT = 1
"""Number of the layout of run directories, checkpoints and exported encoders."""

_PACKAGES = ("torch", "accelerate", "numpy", "scipy", "scikit-learn", "pyarrow", "safetensors", "pydantic",
             "pandas", "duckdb", "torch-geometric", "networkx", "datasets")  # fmt: skip


class RunDirectory:
    """Paths and checks of one run.

    Holds ``run.json recipe.yaml environment.json metrics.jsonl metrics.csv checkpoints/ encoder/``,
    and what the evaluation adds (``card.md report.html``).

    Make one with :meth:`create` or :meth:`open`.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path | str) -> RunDirectory:
        """A new run. Call it after everything else was checked, so that bad input leaves nothing behind.

        Raises:
            RunError: there is something at ``path`` already, or it cannot be written.
        """
        target = Path(path)
        if target.is_file():
            raise RunError(f"run {target} is a file; choose another directory with run=DIR")
        if target.is_dir() and any(target.iterdir()):
            raise RunError(
                f"run directory {target} is there already; continue it with --resume, "
                "or choose another with run=DIR"
            )
        try:
            (target / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run directory {target} could not be made: {error.strerror}") from error
        run = cls(target)
        marker = {"format": FORMAT, "version": ssl_domains.__version__}
        write_text(target / "run.json", json.dumps(marker, indent=2) + "\n", "run")
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """A run that is there, to resume or evaluate it.

        Raises:
            RunError: no run there, or one of another format.
        """
        target = Path(path)
        marker = target / "run.json"
        if not target.is_dir():
            raise RunError(f"run directory {target} does not exist; give the directory that pretrain printed")
        if not marker.is_file():
            raise RunError(
                f"{target} is no run directory (it has no run.json); give the one that pretrain printed"
            )
        check_format(marker, read_json(marker))
        return cls(target)

    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def encoder_path(self) -> Path:
        return self.path / "encoder"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    def write_recipe(self, recipe: Mapping[str, Any] | str) -> None:
        """Writes ``recipe.yaml``: the resolved recipe as a mapping, or YAML text as it is."""
        import yaml

        text = (
            recipe
            if isinstance(recipe, str)
            else yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        )
        write_text(self.recipe_path, text, "recipe")

    def read_recipe(self) -> dict[str, Any]:
        """The resolved recipe.

        Raises:
            RunError: it is missing or no YAML mapping.
        """
        import yaml

        try:
            recipe = yaml.safe_load(self.recipe_path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise RunError(f"run {self.path}: recipe.yaml is missing or damaged ({error})") from error
        if not isinstance(recipe, dict):
            raise RunError(f"run {self.path}: recipe.yaml holds no mapping; copy it from the origin again")
        return recipe

    def write_environment(self, data_path: str | None = None) -> None:
        """Writes ``environment.json``: versions and kinds of hardware, no names of machines or users."""
        found = json.dumps(environment() | ({"data": data_path} if data_path else {}), indent=2)
        write_text(self.path / "environment.json", found + "\n", "environment")

    def metrics(self) -> list[dict[str, Any]]:
        """All rows logged so far; an unfinished last line is left out."""
        from ssl_domains.trainer.logging import read_rows

        return read_rows(self.metrics_path)

    def checkpoints(self) -> list[Path]:
        """All checkpoint directories, newest first, damaged ones included."""
        return sorted(self.checkpoints_path.glob("step-*"), reverse=True)

    def latest(self) -> Path:
        """The newest intact checkpoint; warns about damaged ones that it passes over.

        Raises:
            RunError: there is none, or the newest was written in another format.
        """
        passed: list[str] = []
        for path in self.checkpoints():
            problem = damage(path)
            if problem is None:
                if passed:
                    skipped = "; ".join(passed)
                    warnings.warn(f"{skipped}: going back to the intact checkpoint {path.name}", stacklevel=2)
                return path
            passed.append(f"checkpoint {path.name} is damaged ({problem})")
        detail = f" ({'; '.join(passed)})" if passed else ""
        raise RunError(f"run {self.path} has no intact checkpoint{detail}; start anew with another run=DIR")


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None.

    Raises:
        RunError: it is intact but of another format.
    """
    state = checkpoint / "state.json"
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "state.json is missing or truncated"
    check_format(state, content)
    for name in ("method.safetensors", "state.safetensors"):
        if not is_whole(checkpoint / name):
            return f"{name} is missing or truncated"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping.

    Raises:
        RunError: missing, truncated, or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is missing or truncated ({error}); restore it or start a new run") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object; restore it or start a new run")
    return content


def check_format(path: Path, content: Any) -> None:
    """Raises RunError, with both versions, when ``content`` was written in another format."""
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        version = content.get("version", "unknown") if isinstance(content, dict) else "unknown"
        raise RunError(
            f"{path} was written by ssl_domains {version} in format {found}; this is "
            f"{ssl_domains.__version__}, which reads format {FORMAT}: "
            f"install ssl_domains {version}, or run again with this version"
        )


def environment() -> dict[str, Any]:
    """Python, packages and kinds of hardware."""
    import torch

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "ssl_domains": ssl_domains.__version__,
        "python": sys.version.split()[0],
        "system": platform.system(),
        "machine": platform.machine(),
        "accelerators": accelerators,
        "threads": torch.get_num_threads(),
        "packages": versions,
    }
