"""Self-supervised learning for tables, graphs and more.

Everything here is imported on first use: ``import ssl_domains`` does not import torch.

==================================  ==================================================================
``pretrain(recipe, *overrides)``    pretrain, evaluate, report: a :class:`Run`
``evaluate(run)``                   measure a run's encoder again
``embed(run, data, out)``           embed new raw data into a file
``integrate(table, out)``           join the rows of a table that speak of the same thing
``load(run)``                       the encoder: ``load(run).embed("new.csv") -> [n, D]``
``inspect(source)``                 what is in a file, and the recipe lines that use it
``profile(recipe)``                 where a step's time goes
``report(run)``                     write ``report.html`` and ``card.md`` again
``export(run, out)``                copy the encoder into a folder of its own
``show(recipe)``, ``list_recipes``  a recipe resolved, with the origin of each value; those that ship
``doctor()``, ``quickstart()``      check this machine; see it work
``register``                        decorator that names a class of your own for recipes
``UserError``                       base of all errors that bad input ends in
==================================  ==================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Run": "api",
    "LoadedEncoder": "encoders",
    "pretrain": "api",
    "fork": "api",
    "evaluate": "api",
    "integrate": "integration",
    "embed": "api",
    "load": "encoders",
    "inspect": "api",
    "curate": "preparing",
    "profile": "api",
    "report": "api",
    "export": "encoders",
    "list_recipes": "api",
    "show": "api",
    "doctor": "checks",
    "quickstart": "_quickstart",
    "register": "core.registry",
    "UserError": "core.errors",
}

__all__ = [
    "LoadedEncoder",
    "Run",
    "UserError",
    "__version__",
    "curate",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "inspect",
    "integrate",
    "list_recipes",
    "load",
    "pretrain",
    "profile",
    "quickstart",
    "register",
    "report",
    "show",
]

if TYPE_CHECKING:
    from ssl_domains._quickstart import quickstart
    from ssl_domains.api import Run, embed, evaluate, inspect, list_recipes, pretrain, profile, report, show
    from ssl_domains.checks import doctor
    from ssl_domains.core.errors import UserError
    from ssl_domains.core.registry import register
    from ssl_domains.encoders import LoadedEncoder, export, load
    from ssl_domains.integration import integrate
    from ssl_domains.preparing import curate


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
