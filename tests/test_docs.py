"""The pages: code blocks run, links lead somewhere, tables say what the code says.

In ``README.md`` and ``docs/**/*.md``

- every ```` ```python ```` block runs, in order, in one namespace a page and one folder a page;
- ``<!-- file: NAME -->`` before a block writes it as a file into that folder, ``<!-- file+: NAME -->``
  adds to that file;
- ``<!-- test -->`` before a ``bash`` block runs its ``ssl-domains`` lines (``pretrain`` with few steps);
  ``<!-- test: exit 2 -->`` expects that exit code, ``<!-- test: steps 300 -->`` takes so many steps;
- ``<!-- output -->`` before a block says what the command before it must have printed, line by line;
- ``<!-- test -->`` before a ``yaml`` block checks it as a recipe.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
GENERATED = {"claims.md", "design.md"}
BLOCK = re.compile(
    r"(?:^<!-- (?P<note>(?:file|test|output)[^>]*?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
SMALL = [
    *("train.steps=4", "train.batch_size=32", "train.log_every=2"),
    *("evaluate.seeds=1", "evaluate.max_rows=80", "evaluate.map_rows=30", "evaluate.diagnostic_rows=60"),
]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the note in the comment before it, its text."""

    language: str
    note: str
    code: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(m["language"], (m["note"] or "").strip(), m["code"]) for m in found]


def small(given: Sequence[str], steps: int | None = None) -> list[str]:
    """Overrides that make a run short, without those that the page sets itself."""
    keys = {text.split("=")[0] for text in given}
    keys |= {"train.steps"} if "train.epochs" in keys else set()
    ours = [text for text in SMALL if text.split("=")[0] not in keys]
    return ours if steps is None else [*ours, f"train.steps={steps}"]


def runs(block: Block) -> bool:
    return block.language == "python" or bool(block.note)


RUN = [page for page in PAGES if any(runs(block) for block in blocks(page))]


def write_data(folder: Path) -> None:
    """The files that the pages speak of: a table, new rows of it, a graph."""
    rng = np.random.default_rng(0)
    n = 240
    area, town = rng.gamma(4, 25, n).round(1), rng.choice(["Ulm", "Kiel", "Bonn"], n)
    price = (area * 3.1 + 40 * (town == "Bonn") + rng.normal(0, 20, n)).round()
    built = rng.integers(1900, 2024, n)
    lines = [f"{a},{t},{b},{p}" for a, t, b, p in zip(area, town, built, price, strict=True)]
    (folder / "my.csv").write_text("\n".join(["area,town,built,price", *lines]) + "\n")
    new = [line.rsplit(",", 1)[0] for line in lines[:40]]
    (folder / "new.csv").write_text("\n".join(["area,town,built", *new]) + "\n")
    group = np.arange(90) % 3
    words = [["red", "blue", "green"][g] + f" {rng.integers(4)}" for g in group]
    nodes = [f"n{i},{rng.normal(g):.3f},{w},g{g}" for i, (g, w) in enumerate(zip(group, words, strict=True))]
    (folder / "nodes.csv").write_text("\n".join(["id,size,colour,group", *nodes]) + "\n")
    ends = [(i, int(rng.choice(np.flatnonzero(group == group[i])))) for i in range(90) for _ in range(3)]
    (folder / "edges.csv").write_text("\n".join(["source,target", *(f"n{a},n{b}" for a, b in ends)]) + "\n")


@dataclass
class Page:
    """Runs one page's blocks."""

    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})
    printed: str = ""

    def run(self, block: Block) -> None:
        if block.note.startswith("file"):
            mark, _, name = block.note.partition(":")
            with Path(name.strip()).open("a" if mark == "file+" else "w") as file:
                file.write(block.code)
        elif block.note == "output":
            self.compare(block.code)
        elif block.language == "python":
            with captured() as out:
                exec(compile(block.code, "<page>", "exec"), self.namespace)
            self.printed = out.getvalue()
        elif block.language == "bash":
            self.shell(block)
        elif block.language == "yaml":
            from ssl_domains.recipe.check import read_recipe

            read_recipe(yaml.safe_load(block.code))
        else:
            pytest.fail(f"nothing runs a {block.language} block with the note {block.note!r}")

    def shell(self, block: Block) -> None:
        from ssl_domains.cli import main

        expected = int(match[1]) if (match := re.search(r"exit (\d+)", block.note)) else 0
        for line in block.code.replace("\\\n", " ").splitlines():
            command = shlex.split(line, comments=True)
            if not command:
                continue
            assert command[0] == "ssl-domains", f"only ssl-domains lines can be tested, not {line!r}"
            steps = re.search(r"steps (\d+)", block.note)
            short = command[1] == "pretrain" and "--resume" not in command and (steps or not expected)
            with captured() as out:
                code = main(
                    [*command[1:], *(small(command, int(steps[1]) if steps else None) if short else [])]
                )
            self.printed = out.getvalue()
            assert code == expected, f"{line}\nexit code {code}, expected {expected}\n{self.printed}"

    def compare(self, text: str) -> None:
        seen = " ".join(self.printed.split())
        for line in filter(None, (" ".join(line.split()) for line in text.splitlines())):
            assert line in seen, f"the page says\n  {line}\nbut this was printed\n  {self.printed}"


@contextlib.contextmanager
def captured() -> Any:
    """Everything that is printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield out


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data; pretraining from Python is made small there."""
    import ssl_domains

    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    real = ssl_domains.pretrain
    monkeypatch.setattr(
        ssl_domains,
        "pretrain",
        lambda recipe, *more, **kw: real(recipe, *more, *small(more), **kw),
        raising=False,
    )
    return tmp_path


def blank_report(run: str | Path, *_: Any, **__: Any) -> Path:
    """In place of the report's plots, which take most of a short run's time."""
    path = Path(run) / "report.html"
    path.write_text("<html></html>")
    return path


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_blocks_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem != "evaluation":  # that page speaks of the report: it gets the real one
        monkeypatch.setattr("ssl_domains.training.write_report", blank_report)
    state = Page()
    for block in filter(runs, blocks(page)):
        state.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", text) + re.findall(
        r'(?:src|href)="([^"]+)"', text
    ):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target} is not there"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {path.name} has no heading #{anchor}"


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in GENERATED], ids=lambda page: page.stem)
def test_named_recipes_exist(page: Path) -> None:
    from ssl_domains.recipe.locate import shipped

    text = page.read_text(encoding="utf-8")
    written = set(re.findall(r"recipes/([\w-]+/[\w-]+)\.yaml", text))
    written |= set(
        re.findall(r"(?:ssl-domains (?:pretrain|show|copy|profile)|pretrain\(\") ?(\w+/\w+)", text)
    )
    missing = {name for name in written - set(shipped()) if name.split("/")[0] not in ("runs", "recipes")}
    assert not missing, f"{page.name} names recipes that do not ship: {missing}"


def tables_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_are_those_of_the_code(page: Path) -> None:
    tables = tables_module()
    text = page.read_text(encoding="utf-8")
    assert tables.refreshed(text) == text, f"{page.name} has stale tables: run python docs/tables.py"


def test_readme_names_every_domain_and_method() -> None:
    """Independent of the generator: the names themselves stand in the README, and no others as rows."""
    from ssl_domains import api

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    tables = tables_module()
    wanted = {*tables.own_names("domain"), *tables.own_names("method")}
    assert rows == wanted
    assert {"tabular", "graph"} <= {name for name, _ in api.list_names("domains")["domains"]}


def test_navigation_has_every_page() -> None:
    class Loader(yaml.SafeLoader):
        """Reads mkdocs' own tags as plain values."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = str(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=Loader)["nav"])
    docs = ROOT / "docs"
    names = [p.relative_to(docs).as_posix() for p in docs.rglob("*.md")]
    missing = [name for name in names if f"'{name}'" not in nav]
    assert not missing, f"mkdocs.yml does not list {missing}"


def test_pages_hold_no_local_paths() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?:^|[\s\"'(=])/(?:work|home|root|tmp)/", text), (
            f"{page.name} names a local path"
        )
