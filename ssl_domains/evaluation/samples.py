"""What a report shows of single samples: nearest neighbours, and pictures of what the encoder does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_domains.evaluation import page
from ssl_domains.evaluation.page import cell, esc
from ssl_domains.evaluation.results import Evaluation


def neighbours(evaluation: Evaluation) -> str:
    """The table of nearest neighbours; empty when there are none."""
    if not evaluation.neighbours:
        return ""
    width = max(len(entry["near"]) for entry in evaluation.neighbours)
    rows = []
    for entry in evaluation.neighbours:
        cells = [
            cell(f'{_shown(n)}{esc(_named(n))} <span class="sd">{n["cosine"]:.3f}</span>', numeric=False)
            for n in entry["near"]
        ]  # fmt: skip
        rows.append(page.row(_shown(entry) + esc(_named(entry)), cells))
    head = ["sample", *(f"neighbour {i + 1}" for i in range(width))]
    caption = "Nearest samples by cosine of the pretrained embeddings."
    return page.section("Nearest neighbours", page.table(head, rows, caption=caption, numeric_from=99))


def _shown(entry: Mapping[str, Any]) -> str:
    """The picture of a sample above its name, where there is one."""
    if not entry.get("picture"):
        return ""
    return f'<img class="thumb" src="{esc(entry["picture"])}" alt="{esc(entry["id"])}">'


def figures(evaluation: Evaluation) -> list[str]:
    """What the domain draws of a trained encoder."""
    return [
        page.section(
            figure["title"],
            f'<figure><img src="{esc(figure["picture"])}" alt="{esc(figure["title"])}">'
            f"<figcaption>{esc(figure['caption'])}</figcaption></figure>",
        )
        for figure in evaluation.figures
    ]


def _named(entry: Mapping[str, Any]) -> str:
    return f"{entry['id']}: {entry['text']}" if entry.get("text") else str(entry["id"])
