"""Errors that are the user's to mend: one clear sentence each, exit code 2."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message names the file, row or field, what was expected and what to do."""


class DataError(UserError):
    """A data source cannot be used as it is."""


class RecipeError(UserError):
    """A recipe has one or more errors; all of them are in ``problems``."""

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RunError(UserError):
    """A run directory is missing, truncated, taken, or from another version."""


class CollapseError(UserError):
    """The guard stopped a run (``on_collapse: stop``)."""
