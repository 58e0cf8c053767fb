"""Figures of the report as inline SVG, readable on light and dark pages."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GUARD_PREFIX = "guard/"
"""Keys ``guard/<stage>/<statistic>`` of the metrics rows."""
RANKS = ("rank", "rankme")
"""Statistics of the guard that are drawn as the rank curve."""
PART_PREFIXES = ("parts/", "part/", "loss/")
LOSS_KEYS = ("loss", "train/loss", "loss/total")
NOT_PARTS = {"step", "epoch", "samples", "rank", "lr", *LOSS_KEYS}
"""Keys without a folder are terms of the loss, except for these."""
MOST_PARTS = 8
LR_PREFIX = "lr"
PROBE_PREFIX = "probe/"

INK = "#7f7f81"
"""Stands for the page's text colour; replaced by a CSS variable in the SVG."""
COLOURS = {"pretrained": "#3b6fd4", "random": "#9a9aa2", "raw": "#d08a2e", "trees": "#3f9a63"}
PALETTE = (
    "#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2",
    "#6cc5b0", "#ff8ab7", "#9c6b4e", "#97bbf5", "#c0504d",
)  # fmt: skip
OTHER = "#9a9aa2"
Points = tuple[np.ndarray, np.ndarray]

STYLE: Any = {
    "font.family": "sans-serif", "font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "axes.titlesize": 10.5,
    "axes.titlelocation": "left", "axes.titlecolor": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.8, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": INK, "grid.alpha": 0.18, "grid.linewidth": 0.7, "legend.frameon": False,
    "legend.fontsize": 9, "lines.linewidth": 1.6, "xtick.major.size": 3, "ytick.major.size": 3,
    "axes.prop_cycle": cycler(color=PALETTE),
}  # fmt: skip


def series(rows: Sequence[Mapping[str, Any]], key: str) -> Points:
    """Steps and values of the rows that have a number under ``key``."""
    kept = [(r.get("step", i), r[key]) for i, r in enumerate(rows) if _is_number(r.get(key))]
    array = np.array(kept, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def keys_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All keys, in order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def learning_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Loss, its parts, and the learning rate against steps; "" when nothing was logged."""
    keys = keys_of(rows)
    loss = next((key for key in LOSS_KEYS if key in keys), None)
    parts = {k: _stem(k) for k in keys if k.startswith(PART_PREFIXES) or "/" not in k}
    parts = {k: name for k, name in parts.items() if k not in NOT_PARTS and len(series(rows, k)[0])}
    parts = dict(list(parts.items())[:MOST_PARTS])
    rates = {
        k: k.removeprefix(LR_PREFIX).lstrip("/")
        for k in keys
        if k == LR_PREFIX or k.startswith(LR_PREFIX + "/")
    }
    panels = [("Loss", {loss: ""} if loss else {}), ("Parts of the loss", parts), ("Learning rate", rates)]
    return _panels(panels, rows, "curves")


def progress_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """RankMe of every stage of the guard, and online probes; "" when there are neither."""
    keys = keys_of(rows)
    ranks = {k: k.removeprefix(GUARD_PREFIX).rpartition("/")[0] for k in keys if _is_rank(k)}
    probes = {k: k.removeprefix(PROBE_PREFIX) for k in keys if k.startswith(PROBE_PREFIX)}
    probes = {k: name for k, name in probes.items() if name not in RANKS}  # another scale
    return _panels([("RankMe by stage", ranks), ("Probes during pretraining", probes)], rows, "progress")


def _is_rank(key: str) -> bool:
    return key.startswith(GUARD_PREFIX) and key.rpartition("/")[2] in RANKS


def _stem(key: str) -> str:
    return key.partition("/")[2] or key


def _panels(
    panels: Sequence[tuple[str, dict[str, str]]], rows: Sequence[Mapping[str, Any]], name: str
) -> str:
    panels = [(t, {k: n for k, n in lines.items() if len(series(rows, k)[0])}) for t, lines in panels]
    panels = [(title, lines) for title, lines in panels if lines]
    if not panels:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.2, 2.7), layout="constrained")
        for axes, (title, lines) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels):
            for key, label in lines.items():
                _curve(axes, *series(rows, key), label=label)
            axes.set_title(title)
            axes.set_xlabel("step")
            if any(lines.values()):
                axes.legend(loc="best", ncols=1 + (len(lines) > 4))
        return to_svg(figure, name)


def _curve(axes: Axes, x: np.ndarray, y: np.ndarray, *, label: str) -> None:
    """The values; a noisy long curve is drawn pale under its running mean."""
    if len(x) <= 60:
        axes.plot(x, y, label=label or None, marker="o" if len(x) < 12 else None, markersize=3)
        return
    window = max(3, len(x) // 50)
    padded = np.pad(y, (window // 2, window - 1 - window // 2), mode="edge")
    smooth = np.convolve(padded, np.ones(window) / window, mode="valid")
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), 800)).astype(int))
    line = axes.plot(x[keep], smooth[keep], label=label or None)[0]
    axes.plot(x[keep], y[keep], color=line.get_color(), alpha=0.25, linewidth=0.8, zorder=1)


def score_chart(
    columns: Sequence[tuple[str, Sequence[tuple[str, float, float]]]], titles: Mapping[str, str]
) -> str:
    """Scores as points with one standard deviation, a panel for each probe, at most three in a row.

    Args:
        columns: ``(title of the panel, [(features, mean, std), ...])``.
        titles: what features are called.
    """
    order = list(dict.fromkeys(name for _, points in columns for name, *_ in points))
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        across = min(len(columns), 3) if len(columns) > 4 else len(columns)
        down = -(-len(columns) // across)
        figure = Figure(figsize=(10.2, down * (0.75 + 0.3 * len(order))), layout="constrained")
        every = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes in every[len(columns) :]:
            axes.set_axis_off()
        for axes, (title, points) in zip(every, columns):
            for name, mean, std in points:
                error = std if np.isfinite(std) else 0.0
                look: Any = {"fmt": "o", "color": colour(name), "markersize": 6.5, "capsize": 3}
                axes.errorbar(mean, order.index(name), xerr=error, **look)
            axes.set_title(textwrap.fill(title, 90 // across))
            axes.set_ylim(len(order) - 0.5, -0.5)
            axes.set_yticks(range(len(order)), [titles.get(name, name) for name in order])
            axes.margins(x=0.12)
            axes.tick_params(axis="y", length=0)
            axes.locator_params(axis="x", nbins=5)
        return to_svg(figure, "scores")


def colour(features: str) -> str:
    """Of a kind of features."""
    return COLOURS.get(features.split(":")[0], OTHER)


def label_curve(
    fractions: Sequence[float],
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    titles: Mapping[str, str],
    metric: str,
    name: str,
) -> str:
    """Scores over the share of labels (logarithmic): a line and its deviation for each kind of features.

    Args:
        fractions: shares of the labels, rising.
        lines: ``(features, [(mean, std), ...])``, a pair for each fraction.
        titles: what features are called.
        metric: what the score is called.
        name: of the figure; unique on the page.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.2), layout="constrained")
        axes = figure.subplots()
        for features, points in lines:
            mean, std = (np.array(values, dtype=float) for values in zip(*points, strict=True))
            std = np.nan_to_num(std)
            hue = colour(features)
            axes.plot(
                fractions, mean, color=hue, marker="o", markersize=4, label=titles.get(features, features)
            )
            axes.fill_between(fractions, mean - std, mean + std, color=hue, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(list(fractions), [f"{100 * share:g} %" for share in fractions])
        axes.minorticks_off()
        axes.set_xlabel("training labels")
        axes.set_ylabel(metric)
        axes.legend(loc="best")
        return to_svg(figure, name)


def project(z: np.ndarray) -> dict[str, np.ndarray] | None:
    """``{"PCA": [n, 2], "t-SNE": [n, 2]}``; None when the embeddings do not vary or are too few."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    z = np.asarray(z, dtype=np.float64)
    if len(z) < 5 or z.shape[1] < 2 or not np.isfinite(z).all() or float(z.std(0).max()) < 1e-12:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reduced = PCA(min(50, *z.shape), random_state=0).fit_transform(z)
        reduced /= max(float(reduced.std(0).max()), 1e-12)
        perplexity = min(30.0, (len(z) - 1) / 3)
        flat = TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(reduced)
    return {"PCA": reduced[:, :2], "t-SNE": flat}


def embedding_map(
    embeddings: Mapping[str, np.ndarray],
    colour: np.ndarray | None,
    *,
    continuous: bool,
    titles: Mapping[str, str],
) -> str:
    """PCA (top) and t-SNE (bottom) of each kind of features; "" when none can be drawn.

    Args:
        embeddings: ``{name: [n, D]}``.
        colour: ``[n]`` hex colours (classes), or numbers (``continuous``; NaN: unknown), or None.
        continuous: draw a colour bar.
        titles: what the names are called.
    """
    projected = {name: project(z) for name, z in embeddings.items()}
    drawn = {name: points for name, points in projected.items() if points is not None}
    if not drawn:
        return ""
    with mpl.rc_context(
        {**STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}
    ):
        figure = Figure(figsize=(4.6 * len(drawn) + 0.6 * continuous, 8.6), layout="constrained")
        grid = figure.subplots(2, len(drawn), squeeze=False)
        for column, (name, points) in enumerate(drawn.items()):
            for row, kind in enumerate(points):
                axes = grid[row, column]
                artist = _scatter(axes, points[kind], colour, continuous)
                axes.set_title(f"{titles.get(name, name)}, {kind}")
        if continuous and colour is not None:
            bar = figure.colorbar(artist, ax=grid, shrink=0.5, aspect=30, pad=0.02)
            bar.outline.set_visible(False)  # type: ignore[operator]
        return to_svg(figure, "map")


def _scatter(axes: Axes, points: np.ndarray, colour: np.ndarray | None, continuous: bool) -> Any:
    options: dict[str, Any] = {"s": 13, "linewidths": 0, "alpha": 0.8, "rasterized": True}
    if colour is None:
        options["c"] = COLOURS["pretrained"]
    elif continuous:
        known = colour[np.isfinite(colour)]
        low, high = np.percentile(known, [2, 98]) if len(known) else (0.0, 1.0)
        options.update(c=colour, cmap="viridis", vmin=low, vmax=max(high, low + 1e-12), plotnonfinite=False)
    else:
        options["c"] = list(colour)
    artist = axes.scatter(points[:, 0], points[:, 1], **options)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.03)
    axes.set_box_aspect(1)
    return artist


def to_svg(figure: Figure, name: str) -> str:
    """An ``<svg>`` element; ids are unique by ``name``, text takes the page's colour."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(
            buffer, format="svg", transparent=True, dpi=150, metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "var(--muted)")
    # Glyphs and groups have the same ids in each figure; a page must not hold an id twice.
    for reference in ('id="', 'href="#', "url(#"):
        text = text.replace(reference, f"{reference}{name}-")
    return text
