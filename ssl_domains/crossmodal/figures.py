"""Pages of queries with what they found, for the report."""

from __future__ import annotations

import textwrap
from itertools import combinations
from typing import Any

import numpy as np
import torch

from ssl_domains.core.interfaces import Figure
from ssl_domains.core.retrieval import Lists
from ssl_domains.crossmodal.data import PairSource, PartSource
from ssl_domains.crossmodal.encoders import Tower, Towers
from ssl_domains.crossmodal.probes import held_out
from ssl_domains.crossmodal.retrieval import items_of, nearest, ranks
from ssl_domains.evaluation.data import subset
from ssl_domains.evaluation.embeddings import extract

QUERIES, FOUND, GALLERY = 5, 5, 5000


def found_pages(towers: Towers, source: PairSource) -> list[Figure]:
    """For every two modalities a page each way: a few queries of the test split, and their nearest items.

    The gallery is the test split (at most 5,000 pairs). What belongs to a query has a green frame.
    """
    pages = []
    for a, b in combinations(source.parts, 2):
        rows = source.links.rows
        items = items_of(subset(held_out(source, "test"), GALLERY), rows[a], rows[b])
        if len(items.a) < 2 or len(items.b) < 2:
            continue
        z = {}
        for part, own in ((a, items.a), (b, items.b)):
            tower = Tower(towers, part)
            z[part] = torch.from_numpy(extract(tower, source.parts[part], own, batch_size=256))
        for query, key, right, asked, gallery in (
            (a, b, items.a_to_b, items.pair_of_a, items.pair_of_b),
            (b, a, items.b_to_a, items.pair_of_b, items.pair_of_a),
        ):
            chosen = np.unique(np.linspace(0, len(asked) - 1, QUERIES).astype(np.int64))
            found = nearest(z[query][chosen], z[key], FOUND)
            lists = Lists.group(*right.flat(chosen), len(chosen))
            place = ranks(z[query][chosen], z[key], lists)
            page = _page(
                source.part(query), source.part(key), asked[chosen], [gallery[row] for row in found],
                [[int(g) in set(_values(lists, i)) for g in row] for i, row in enumerate(found)], place,
            )  # fmt: skip
            names = source.spec.parts
            caption = (
                f"Queries of part {query} ({names[query].domain}) and the nearest of {len(gallery)} "
                f"items of part {key} "
                f"({names[key].domain}) of the held-out pairs; green: belongs to the query."
            )
            pages.append(Figure(f"Found: {query} to {key}", caption, page))
    return pages


def _values(lists: Lists, row: int) -> list[int]:
    return [int(v) for v in lists.values[lists.offsets[row] : lists.offsets[row + 1]]]


def _page(
    asked: PartSource, given: PartSource, queries: np.ndarray, found: list[np.ndarray],
    right: list[list[bool]], place: np.ndarray,
) -> np.ndarray:  # fmt: skip
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(1.6 * (FOUND + 1), 1.5 * len(queries)), dpi=100)
    axes = canvas.subplots(len(queries), FOUND + 1, squeeze=False)
    for line, query, row, good, rank in zip(axes, queries, found, right, place, strict=True):
        _cell(line[0], asked, int(query), "#444444", f"rank {rank}")
        for k in range(FOUND):
            if k < len(row):
                _cell(line[k + 1], given, int(row[k]), "#2a9d50" if good[k] else "#cccccc", "")
            else:
                line[k + 1].axis("off")
    canvas.tight_layout(pad=0.4)
    surface = FigureCanvasAgg(canvas)
    surface.draw()
    return np.asarray(surface.buffer_rgba())[..., :3].copy()


def _cell(axis: Any, source: PartSource, row: int, colour: str, title: str) -> None:
    """A picture, or words in a box."""
    shown = source.picture(row)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=2.5)
    if shown is not None:
        axis.imshow(shown, aspect="equal")
    else:
        words = source.describe(row) or str(source.ids(np.array([row]))[0])
        words = textwrap.fill(words, 18, max_lines=6, placeholder=" …")
        middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": axis.transAxes}
        axis.text(0.5, 0.5, words, fontsize=7.5, parse_math=False, **middle)
    if title:
        axis.set_title(title, fontsize=7)
