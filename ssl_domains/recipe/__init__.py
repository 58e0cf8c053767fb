"""YAML to objects: loading and merging, schemas from signatures, building.

=================  ==========================================================================
``locate``         where recipes are
``loading``        files, ``extends`` and overrides to one tree with the origin of each value
``signatures``     pydantic models from constructors, and their errors as sentences
``check``          the whole recipe checked, all problems at once: a ``schema.Recipe``
``build``          source, encoder, views, masker, objective and method from a checked recipe
=================  ==========================================================================
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Experiment": "build",
    "build": "build",
    "Recipe": "schema",
    "read_recipe": "check",
    "load_plugin": "check",
    "find_recipe": "locate",
    "recipe_folder": "locate",
    "shipped": "locate",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
