"""The report: valid, self-contained, escaped, and with the numbers in it."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from ssl_domains.evaluation import Evaluation, Row, write_model_card, write_report
from ssl_domains.evaluation.plots import embedding_map, learning_curves, series
from ssl_domains.evaluation.results import MapSample

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "br", "img", "input", "hr", "link"}


class Checker(HTMLParser):
    """Every element is closed in order; ids are unique; collects text, tags and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(path) -> Checker:
    parser = Checker()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert all(link.startswith(("#", "data:")) for link in parser.links)
    assert "script" not in parser.tags
    assert path.stat().st_size < 5_000_000
    return parser


def evaluation(task: str | None = "classification", n: int = 40) -> Evaluation:
    rng = np.random.default_rng(0)
    rows = [
        Row(
            features,
            probe,
            metric,
            mean + 0.001 * len(probe),
            0.0123,
            3,
            "encoder initialisations",
            metric == "accuracy",
        )
        for features, mean in (
            ("pretrained", 0.8412),
            ("random", 0.7331),
            ("raw", 0.8099),
            ("raw:degree", 0.5),
        )
        for probe in ("linear", "knn", "few_shot(shots=5)")
        for metric in ("accuracy", "macro_f1")
    ]
    rows.append(Row("trees", "trees", "accuracy", 0.8271, math.nan, 1, "", True))
    labels = {"classification": rng.integers(-1, 13, n), "regression": rng.normal(size=n), None: None}
    labels["multilabel"] = rng.random((n, 3)) < 0.5
    sample = MapSample(
        np.arange(n), {k: rng.normal(size=(n, 8)) for k in ("pretrained", "random")}, labels[task]
    )
    return Evaluation(
        task, {"train": 60, "valid": 20, "test": 20}, rows if task else [],
        {"pretrained": {"rankme": 41.37, "odd": math.nan}, "random": {"rankme": 12.5}},
        [{"id": EVIL, "text": EVIL, "near": [{"id": "b", "text": "", "cosine": 0.987}]}],
        [f"A note {EVIL}."], [EVIL, *"bcdefghijklm"], 64, {}, sample,
    )  # fmt: skip


ROWS = [
    {"step": s, "loss": 5 / (1 + s), "alignment": 0.1 * s, "lr": 1e-3, "guard/encoder/rank": 30.0 + s,
     "guard/<b>/rankme": 3.0, "guard/encoder/cosine": 0.25, "probe/linear": 0.5, "time/seconds": 1.0,
     "gone": None}
    for s in range(100)
]  # fmt: skip


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel", None])
def test_report_holds_everything(tmp_path, task: str | None) -> None:
    path = write_report(
        tmp_path, evaluation(task), title=f"run {EVIL}", subtitle=["tabular", EVIL], metrics_rows=ROWS,
        card={"rows": 20190, EVIL: {EVIL: [EVIL], "deep": {"er": 1}}},
        recipe_yaml=f"train: 1  # {EVIL}\nname: '#x'",
        findings=[f"loss is ln K {EVIL}", {"step": 1200, "message": "rank fell"}],
        expect={"linear": ">= 0.8", "knn": "> raw", "rankme": "0..10"}, environment={"torch": "2.14"},
        seconds=3725,
        label_name=EVIL,
    )  # fmt: skip
    page = checked(path)
    for text in ("41.37", "20,190", "run time 1 h 2 min", "loss is ln K", "Step 1,200: rank fell", "0.987",
                 "train: 1", "RankMe", "2.14", "missed", "trees" if task else "No labels",
                 f"A note {EVIL}.", f"run {EVIL}"):  # fmt: skip
        assert text in page.text, text
    if task:
        for text in (
            "0.847",
            "± 0.012",
            "0.739",
            "0.816",
            "0.827",
            "raw features (degree)",
            "+0.108",
            "Pretraining helped",
        ):
            assert text in page.text, text
    if task == "classification":
        assert "4 other classes" in page.text
        assert "unlabelled" in page.text
    assert EVIL not in path.read_text()
    assert page.tags >= {"svg", "table", "pre"}
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_best_of_each_column_is_bold(tmp_path) -> None:
    text = write_report(tmp_path, evaluation(), title="t").read_text()
    bold = re.findall(r'<td class="n best">([\d.]+)', text)
    assert bold[:3] == ["0.847", "0.844", "0.858"]


def test_report_of_almost_nothing(tmp_path) -> None:
    page = checked(write_report(tmp_path / "new", Evaluation(None), title="t"))
    assert "nothing to judge" in page.text


def test_collapsed_and_single_rows_draw_no_map(tmp_path) -> None:
    z = {"pretrained": np.ones((30, 4))}
    page = checked(
        write_report(tmp_path, Evaluation("classification"), title="t", embeddings=z, labels=np.zeros(30))
    )
    assert "do not vary" in page.text
    assert embedding_map({"a": np.ones((1, 4))}, None, continuous=False, titles={}) == ""


def test_series_leaves_out_what_is_no_number() -> None:
    rows = [
        {"step": 1, "a": 2.0},
        {"step": 2, "a": None},
        {"step": 3, "a": "x"},
        {"step": 4, "a": math.inf},
        {"step": 5},
    ]
    x, y = series(rows, "a")
    assert (x.tolist(), y.tolist()) == ([1.0], [2.0])
    assert learning_curves([{"step": 1, "time/seconds": 3.0}]) == ""


def test_figures_are_the_same_every_time() -> None:
    assert learning_curves(ROWS) == learning_curves(ROWS)


def test_model_card(tmp_path) -> None:
    text = write_model_card(
        tmp_path, evaluation(), title=f"run {EVIL}", domain="tabular", method="t_jepa",
        card={"rows": 5, "x": {"y": [1, 2]}},
        recipe_yaml="a: 1", environment={"torch": "2.14"},
    ).read_text()  # fmt: skip
    for part in ("license: \"unknown\"", "## Data", "## Method", "## Numbers", "## Intended use", "## Limits",
                 "## Licence",
                 "| pretrained encoder | linear | accuracy | 0.8472 | 0.012 over 3 encoder initialisations |",
                 "- rows: 5", "  - y: 1, 2", "a: 1", "rankme 41.37"):  # fmt: skip
        assert part in text, part
    assert "<script>" not in text


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, ssl_domains.evaluation as e; e.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_names_can_be_imported() -> None:
    import ssl_domains.evaluation as package

    assert all(callable(getattr(package, name)) for name in package.__all__)
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018
