"""Views of rows of texts: what two tables that speak of the same thing may write differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.tabular.integration import equivalents as eq
from ssl_domains.tabular.integration import perturb
from ssl_domains.tabular.views import partners

OPERATIONS = (
    "remove_cell", "replace_cell", "drop_words", "move_words",
    "shorten_words", "initials", "change_signs", "equivalents", "typos",
)  # fmt: skip
_PLANES = 5
"""Uniform numbers for each character of a cell: four for the operation, one for what is drawn once a cell."""


@views("text_perturbations")
class TextPerturbations(Views):
    """A clean row, and the row with some cells written differently (arXiv 2412.00324, SSACL's positives).

    In each perturbed view every present cell is changed with probability ``strength``, at least
    one a row, by one operation drawn for it:

    - missing cells: ``remove_cell`` (never the last one of a row), ``replace_cell`` (by the
      cell of another row of the batch: a conflict);
    - other wording: ``drop_words``, ``move_words``, ``shorten_words`` (a word's first 1 to 4
      letters), ``initials`` of all words, ``change_signs`` (punctuation goes or becomes a
      space), ``equivalents`` (street, st);
    - ``typos``: a neighbour on the keyboard, a stray or lost character, two in the wrong order. It also
      takes the place of an operation that could do nothing (the initials of one word).

    The paper also translates texts there and back, and takes synonyms from WordNet; the first
    needs a translation model and is not here, for the second give ``wordnet``.
    Replaced cells depend on who is in the batch, and a cell that fills the width of its batch
    loses what an inserted character pushes out; all else depends on seed, step and row alone.
    ``params["corrupted"]``: ``[B, m]`` bool, cells that differ from the clean ones.

    Args:
        positives: perturbed views. Default 6 (the paper's).
        strength: see above; also the share of words that an operation changes. Default 0.3 (the paper's).
        operations: those to draw from, with equal chances. Default: all.
        synonyms: a text file of equivalent words, one group a line, separated by commas; beside the
            built-in list of common short forms.
        wordnet: folder of a WordNet database, whose synonyms are added (Debian: /usr/share/wordnet).
    """

    def __init__(
        self,
        positives: int = 6,
        strength: float = 0.3,
        operations: Sequence[str] = OPERATIONS,
        synonyms: str | None = None,
        wordnet: str | None = None,
    ) -> None:
        if positives < 1:
            raise ValueError(f"views.positives must be at least 1, got {positives}")
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"views.strength is a share and must lie in [0, 1], got {strength}")
        unknown = [name for name in operations if name not in OPERATIONS]
        if unknown or not operations:
            what = f"{unknown[0]!r} is none" if unknown else "the list is empty"
            raise ValueError(f"views.operations: {what}; choose from {', '.join(OPERATIONS)}")
        self.n_views, self.strength, self.operations = positives + 1, strength, tuple(operations)
        groups: list[Iterator[list[str]]] = [eq.built_in()]
        groups += [eq.from_file(synonyms)] if synonyms else []
        groups += [eq.from_wordnet(wordnet)] if wordnet else []
        self.known = eq.Equivalents.of(chain(*groups))

    def target_width(self, name: str, spec: Any) -> int:
        """m, the number of columns, for ``corrupted``.

        Raises:
            KeyError: another name.
        """
        if name != "corrupted":
            raise KeyError(f"these views record 'corrupted', not {name!r}")
        return int(spec.n_columns)

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """The clean view, then the perturbed ones."""
        missing = batch.x["missing"]
        clean = View(batch.x, "clean", {"corrupted": torch.zeros_like(missing)})
        return [clean, *(self._perturbed(batch.x, draw) for _ in range(self.n_views - 1))]

    def _perturbed(self, x: dict[str, Tensor], draw: Draw) -> View:
        chars, missing = x["chars"], x["missing"]
        _, m, length = chars.shape
        if self.strength == 0:
            return View(x, "positive", {"corrupted": torch.zeros_like(missing)})
        score = torch.where(missing, 2.0, draw.uniform(m))
        chosen = ((score < self.strength) | (score == score.amin(dim=1, keepdim=True))) & ~missing
        operation = draw.randint(len(self.operations), m).masked_fill(~chosen, -1)
        partner = partners(draw)
        # By character first: so a cell's numbers do not depend on the longest cell of its batch.
        planes = draw.uniform(length, _PLANES, m).permute(0, 3, 2, 1)
        out, gone = chars.flatten(0, 1), missing
        for i, name in enumerate(self.operations):
            where = operation == i
            if name == "remove_cell":
                gone = gone | (where & ((~missing).sum(dim=1, keepdim=True) > where.sum(dim=1, keepdim=True)))
            elif name == "replace_cell":
                where = where & ~missing[partner]
                out = torch.where(where.flatten()[:, None], chars[partner].flatten(0, 1), out)
            else:
                out = _where(where.flatten(), out, planes.flatten(0, 1), self._rewrite(name))
        if "typos" in self.operations:  # where an operation could do nothing: one word has no other order
            left = (chosen & ~gone).flatten() & (out == chars.flatten(0, 1)).all(dim=1)
            out = _where(left, out, planes.flatten(0, 1), self._rewrite("typos"))
        new = out.view_as(chars).masked_fill(gone[..., None], 0)
        changed = (new != chars).any(dim=2)
        return View({"chars": new, "missing": gone}, "positive", {"corrupted": changed})

    def _rewrite(self, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        """An operation from cells ``[C, L]`` and uniform numbers ``[C, 5, L]``."""
        rate = self.strength
        calls: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "drop_words": lambda c, u: perturb.drop_words(c, u[:, 0], rate),
            "move_words": lambda c, u: perturb.move_words(c, u[:, 4, :1]),
            "shorten_words": lambda c, u: perturb.shorten_words(
                c, u[:, 0], rate, 1 + (u[:, 4, :1] * 4).long()
            ),
            "initials": lambda c, u: perturb.initials(c),
            "change_signs": lambda c, u: perturb.change_signs(c, u[:, 4, :1]),
            "equivalents": lambda c, u: perturb.equivalents(c, u[:, :2], rate, self.known),
            "typos": lambda c, u: perturb.typos(c, u[:, :4], rate),
        }
        return calls[name]


def _where(
    where: Tensor, chars: Tensor, uniform: Tensor, rewrite: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``rewrite`` of the cells ``where [C]``. On the CPU only those are computed; elsewhere all are, which
    costs less than the synchronisation that picking them would need."""
    if chars.device.type == "cpu":
        picked = where.nonzero().squeeze(1)
        return chars.index_copy(0, picked, rewrite(chars[picked], uniform[picked])) if len(picked) else chars
    return torch.where(where[:, None], rewrite(chars, uniform), chars)
