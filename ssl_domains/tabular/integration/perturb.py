"""What happens to texts between two tables: typos, lost and moved words, short forms. Batched over all cells.

All functions take code points ``[C, L]`` (0 after the end, single spaces between words) and return
the same shape. Where a cell cannot be changed in the wanted way it stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_domains.tabular.integration.chars import SPACE
from ssl_domains.tabular.integration.equivalents import Equivalents

_KEYBOARD = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
N_NEIGHBOURS = 8


def _keyboard() -> Tensor:
    """``[128, 8]`` int64: letters beside a letter and digits beside a digit on a keyboard, repeated to 8;
    other
    signs stand beside themselves."""
    table = torch.arange(128)[:, None].repeat(1, N_NEIGHBOURS)
    for y, row in enumerate(_KEYBOARD):
        for x, key in enumerate(row):
            near = [
                other
                for v, line in enumerate(_KEYBOARD)
                for u, other in enumerate(line)
                if other != key and abs(v - y) <= 1 and abs(u - x) <= 1 and other.isdigit() == key.isdigit()
            ]
            table[ord(key)] = torch.tensor([ord(near[i % len(near)]) for i in range(N_NEIGHBOURS)])
    return table


KEYBOARD = _keyboard()


@dataclass(frozen=True)
class Words:
    """Where the words of cells are.

    Attributes:
        chars: ``[C, L]``.
        real: ``[C, L]`` bool, before the end of the cell.
        number: ``[C, L]`` the word that a character belongs to; a space belongs to the word before it.
        place: ``[C, L]`` place of a character in its word; a space comes last.
        count: ``[C, 1]`` number of words; 0 for an empty cell.
    """

    chars: Tensor
    real: Tensor
    number: Tensor
    place: Tensor
    count: Tensor

    @classmethod
    def of(cls, chars: Tensor) -> Words:
        """Finds the words."""
        real, space = chars > 0, chars == SPACE
        after = space.cumsum(dim=1)
        number = after - space.to(after.dtype)
        index = torch.arange(chars.shape[1], device=chars.device).expand_as(chars)
        begins = torch.cat([torch.zeros_like(space[:, :1]), space[:, :-1]], dim=1)
        first = torch.where(begins, index, 0).cummax(dim=1).values
        count = (after[:, -1:] + 1) * real.any(dim=1, keepdim=True)
        return cls(chars, real, number, index - first, count)

    @property
    def letters(self) -> Tensor:
        """``[C, L]`` bool: characters of words, without the spaces."""
        return self.real & (self.chars != SPACE)

    def per_word(self, values: Tensor, how: str) -> Tensor:
        """``[C, L]``: ``values [C, L]`` of letters reduced over each word (``amax``, ``sum``), by word
        number."""
        low = torch.full_like(values, -1) if how == "amax" else torch.zeros_like(values)
        out = low.scatter_reduce(1, self.number, torch.where(self.letters, values, low), how)
        return out

    def chosen(self, score: Tensor, rate: Tensor | float) -> Tensor:
        """``[C, L]`` bool by WORD NUMBER: words whose score (``[C, L]`` uniform, by word number) is below
        ``rate``,
        and always the one with the lowest."""
        n = torch.arange(score.shape[1], device=score.device)
        score = torch.where(n < self.count, score, 2.0)
        return ((score < rate) | (score == score.amin(dim=1, keepdim=True))) & (n < self.count)


def is_number(chars: Tensor) -> Tensor:
    """``[C]`` bool: a sign or none, digits, at most one point or comma: must stay readable as a number."""
    digit = (chars >= 48) & (chars <= 57)
    point = (chars == 46) | (chars == 44)
    sign = (chars == 43) | (chars == 45)
    leading = torch.zeros_like(sign)
    leading[:, 0] = sign[:, 0]
    known = (chars == 0) | digit | point | leading
    return known.all(dim=1) & digit.any(dim=1) & (point.sum(dim=1) <= 1)


def compact(chars: Tensor, keep: Tensor) -> Tensor:
    """The kept characters moved together; spaces at the ends and in a row vanish."""
    packed = _pack(chars, keep & (chars > 0))
    space = packed == SPACE
    doubled = space & torch.cat([torch.ones_like(space[:, :1]), space[:, :-1]], dim=1)
    packed = _pack(packed, (packed > 0) & ~doubled)
    last = (packed > 0).sum(dim=1, keepdim=True) - 1
    index = torch.arange(packed.shape[1], device=packed.device)
    return torch.where((index == last) & (packed == SPACE), 0, packed)


def _pack(chars: Tensor, keep: Tensor) -> Tensor:
    width = chars.shape[1]
    place = torch.where(keep, keep.cumsum(dim=1) - 1, width)  # what goes, goes into a column that is cut off
    return chars.new_zeros(len(chars), width + 1).scatter_(1, place, chars)[:, :width]


def drop_words(chars: Tensor, uniform: Tensor, rate: float) -> Tensor:
    """Each word goes with probability ``rate``, at least one, never all. ``uniform``: ``[C, L]``."""
    words = Words.of(chars)
    gone = words.chosen(uniform, rate).gather(1, words.number) & words.real
    kept = compact(chars, ~gone)
    fewer = (words.count > 1) & (kept > 0).any(dim=1, keepdim=True)
    return torch.where(fewer, kept, chars)


def move_words(chars: Tensor, uniform: Tensor) -> Tensor:
    """One word changes places with the next one. ``uniform``: ``[C, 1]``."""
    words = Words.of(chars)
    at = (uniform * (words.count - 1).clamp_min(0)).floor().to(torch.int64)
    number = words.number
    number = torch.where(words.number == at, at + 1, torch.where(words.number == at + 1, at, number))
    # The last word has no space behind it: give it one, sort whole words, and cut the end.
    width = chars.shape[1]
    longer = torch.cat([chars, torch.zeros_like(chars[:, :1])], dim=1)
    end = words.real.sum(dim=1, keepdim=True)
    longer = longer.scatter(1, end, SPACE)
    final = torch.where(words.count - 1 == at + 1, at, words.count - 1).clamp_min(0)
    number = torch.cat([torch.where(words.real, number, width), number.new_full((len(chars), 1), width)], 1)
    number = number.scatter(1, end, final)
    moved = longer.gather(1, number.argsort(dim=1, stable=True))
    return torch.where(words.count > 1, compact(moved, moved > 0)[:, :width], chars)


def shorten_words(chars: Tensor, uniform: Tensor, rate: float, letters: Tensor) -> Tensor:
    """Each word is cut to its first ``letters [C, 1]`` with probability ``rate``, at least one: ``j`` for
    john."""
    words = Words.of(chars)
    digits = words.per_word(((chars >= 48) & (chars <= 57)).to(uniform.dtype), "amax")
    chosen = words.chosen(torch.where(digits > 0, 1.5, uniform), rate) & (digits <= 0)  # 12b stays 12b
    cut = chosen.gather(1, words.number) & words.letters
    return compact(chars, ~(cut & (words.place >= letters)))


def initials(chars: Tensor) -> Tensor:
    """``vldb`` for ``very large data bases``; cells of one word, or with digits, stay."""
    words = Words.of(chars)
    kept = compact(chars, words.letters & (words.place == 0))
    digits = ((chars >= 48) & (chars <= 57)).any(dim=1, keepdim=True)
    return torch.where((words.count > 1) & ~digits, kept, chars)


def change_signs(chars: Tensor, uniform: Tensor) -> Tensor:
    """All punctuation of a cell goes (``uniform [C, 1]`` below 0.5) or becomes a space; never of a number."""
    sign = ((chars > 32) & (chars < 48)) | ((chars > 57) & (chars < 65)) | ((chars > 90) & (chars < 97))
    sign = (sign | ((chars > 122) & (chars < 127))) & ~is_number(chars)[:, None]
    gone = compact(chars, ~(sign & (uniform < 0.5)))
    out = torch.where(uniform < 0.5, gone, compact(torch.where(sign, SPACE, chars), chars > 0))
    return torch.where((out > 0).any(dim=1, keepdim=True), out, chars)


def typos(chars: Tensor, draws: Tensor, rate: float) -> Tensor:
    """One typing error in each word with probability ``rate``, in at least one word.

    A neighbour on the keyboard, a doubled or stray neighbour, a lost character, or two characters
    in the wrong order. Digits become digits, and numbers stay readable.

    Args:
        chars: ``[C, L]``.
        draws: ``[C, 4, L]`` uniform: which words, which character, which error, which neighbour.
        rate: share of the words.
    """
    which, where, error, near = draws.unbind(dim=1)
    words = Words.of(chars)
    digit = (chars >= 48) & (chars <= 57)
    allowed = words.letters & (digit | ~is_number(chars)[:, None])
    score = torch.where(allowed, where, -1.0)
    best = words.per_word(score, "amax").gather(1, words.number)
    hit = allowed & (score == best) & words.chosen(which, rate).gather(1, words.number)
    following = torch.cat([chars[:, 1:], torch.zeros_like(chars[:, :1])], dim=1)
    alike = torch.where(digit, (following >= 48) & (following <= 57), following > SPACE)
    # A lone digit or letter must not go, and nothing can change places behind the end.
    lone = (digit & allowed).sum(1, keepdim=True).le(1) & digit
    lone = lone | (words.per_word(words.letters.to(error.dtype), "sum").gather(1, words.number) <= 1)
    kind = (error * 4).floor()
    swap = hit & (kind == 3) & alike
    lose = hit & (kind == 2) & ~lone
    insert = hit & (kind == 1)
    replace = hit & ~(swap | lose | insert)
    table = KEYBOARD.to(chars.device)
    beside = table[chars.clamp(0, 127).long(), (near * N_NEIGHBOURS).floor().long()].to(chars.dtype)
    beside = torch.where(chars < 128, beside, chars)
    swapped_with = torch.cat([torch.zeros_like(chars[:, :1]), torch.where(swap, chars, 0)[:, :-1]], dim=1)
    out = torch.where(swap, following, torch.where(swapped_with > 0, swapped_with, chars))
    out = torch.where(replace, beside, out)
    wide = torch.stack([out, torch.where(insert, beside, 0)], dim=2).flatten(1)
    keep = torch.stack([~lose, insert], dim=2).flatten(1)
    return compact(wide, keep)[:, : chars.shape[1]]


def equivalents(chars: Tensor, draws: Tensor, rate: float, known: Equivalents) -> Tensor:
    """Words replaced by a shorter or equally long equivalent, with probability ``rate``, at least one of
    those
    that have one.

    Since pairs are compared in both directions, the longer form needs no step of its own.

    Args:
        chars: ``[C, L]``.
        draws: ``[C, 2, L]`` uniform: which words, which equivalent.
        rate: share of the words that have one.
        known: the table.
    """
    words = Words.of(chars)
    known = known.to(chars.device)
    key = words.per_word(known.hashes(chars, words.place), "sum")  # [C, L] by word number
    first, n = known.find(key)
    score = torch.where(n > 0, draws[:, 0], 2.0)
    lowest = score == score.amin(dim=1, keepdim=True)
    chosen = (n > 0) & ((score < rate) | lowest)
    entry = first + (draws[:, 1] * n).floor().to(torch.int64)
    entry = torch.where(chosen, entry, -1).gather(1, words.number)  # [C, L] by character
    width = known.texts.shape[1]
    new = known.texts[entry.clamp_min(0), words.place.clamp_max(width - 1)]
    new = torch.where(words.place < width, new, 0)
    replaced = (entry >= 0) & words.letters
    out = torch.where(replaced, new.to(chars.dtype), chars)
    return compact(out, out > 0)
