"""Pieces of a self-contained HTML page. Every text from outside goes through :func:`esc`."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

CSS = """
:root{--paper:#fff;--ink:#1c1e21;--muted:#6b6f76;--line:#e3e5e8;--soft:#f5f6f8;--accent:#2f5fc4;
--good:#2a7d4f;--bad:#b3402e}
@media (prefers-color-scheme:dark){:root{--paper:#17191c;--ink:#e6e7e9;--muted:#9aa0a8;--line:#2f3338;
--soft:#1f2226;--accent:#8fb0f5;--good:#6cc594;--bad:#ee8a78}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue","Noto Sans","DejaVu Sans",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1020px;margin:0 auto;padding:48px 28px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.012em;overflow-wrap:anywhere}
h2{font-size:20px;margin:52px 0 14px;padding-top:20px;border-top:1px solid var(--line);letter-spacing:-.006em}
h3{font-size:15px;margin:26px 0 8px}
p{margin:8px 0}
.meta,.note,caption,figcaption{color:var(--muted);font-size:14px}
.meta span+span:before{content:"·";margin:0 8px}
.verdict{font-size:20px;line-height:1.45;margin:26px 0 24px;max-width:46em;text-wrap:pretty}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:0}
.tile{background:var(--soft);border-radius:10px;padding:15px 18px 14px}
.tile b{display:block;font-size:27px;line-height:1.2;font-weight:620;letter-spacing:-.01em;
font-variant-numeric:tabular-nums}
.tile small{color:var(--muted);font-size:13.5px;line-height:1.35;display:block;margin-top:3px}
.good{color:var(--good)}.bad{color:var(--bad)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:15px;font-variant-numeric:tabular-nums;margin:6px 0 10px}
caption{text-align:left;padding-bottom:8px;caption-side:top}
th{text-align:left;font-weight:560;color:var(--muted);font-size:13.5px;vertical-align:bottom}
td,th{padding:7px 18px 7px 0;border-bottom:1px solid var(--line);vertical-align:top}
td:last-child,th:last-child{padding-right:0}
thead th{border-bottom:1px solid var(--muted)}
tbody th{color:var(--ink);font-size:15px;font-weight:500;vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap}
td.c{text-align:center}
td .sd{color:var(--muted);font-size:13px;font-weight:400}
td.best{font-weight:680}
.dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:8px;vertical-align:1px}
.kv th{width:15em;color:var(--muted);font-size:14px}
.kv td{overflow-wrap:anywhere}
figure{margin:14px 0 6px}
figure svg{width:100%;height:auto;display:block}
.legend{display:flex;flex-wrap:wrap;gap:5px 20px;font-size:14px;margin:2px 0 10px;padding:0;list-style:none}
pre{background:var(--soft);border-radius:10px;padding:16px 18px;overflow-x:auto;font:13.5px/1.55 ui-monospace,
SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;tab-size:2;margin:8px 0}
pre i{color:var(--muted);font-style:normal}
details{margin:8px 0}
summary{cursor:pointer;color:var(--accent);font-size:15px}
ul.plain{margin:8px 0;padding-left:20px}
.finding{border-left:3px solid var(--bad);padding:5px 0 5px 14px;margin:10px 0}
.near{white-space:nowrap}
img.thumb{display:block;max-width:288px;border-radius:6px;margin-bottom:5px;image-rendering:pixelated}
figure img{max-width:100%;height:auto;border-radius:8px}
@media print{main{padding:0}h2{break-after:avoid}figure,table,.tile{break-inside:avoid}}
"""


def esc(text: Any) -> str:
    """Text as HTML, safe in elements and attributes."""
    return html.escape(str(text), quote=True)


def page(title: str, body: str) -> str:
    """The whole document. It asks for nothing from outside, and says so to the browser."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{esc(title)}</title>\n<style>{CSS}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A headed section; "" when it would be empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{esc(title)}</h2>\n{body}\n</section>" if body else ""


def table(
    head: Sequence[str], rows: Sequence[str], *, caption: str = "", numeric_from: int = 1, classes: str = ""
) -> str:
    """A table of ready ``<tr>`` rows; headers from ``numeric_from`` on are right-aligned."""
    cells = "".join(
        f'<th scope="col"{" class=n" if i >= numeric_from else ""}>{esc(text)}</th>'
        for i, text in enumerate(head)
    )
    top = f"<caption>{esc(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="{classes}">{top}<thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(label: str, cells: Sequence[str]) -> str:
    """A row with a ready label and ready ``<td>`` cells."""
    return f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>'


def cell(text: str, *, best: bool = False, numeric: bool = True) -> str:
    """A ``<td>`` of ready HTML."""
    names = [name for name, wanted in (("n", numeric), ("best", best)) if wanted]
    return f'<td class="{" ".join(names)}">{text}</td>'


def dot(colour: str) -> str:
    """A coloured dot before a name."""
    return f'<span class="dot" style="background:{esc(colour)}"></span>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Colours and what they stand for."""
    items = "".join(f"<li>{dot(colour)}{esc(name)}</li>" for colour, name in entries)
    return f'<ul class="legend">{items}</ul>' if items else ""


def figure(svg: str, caption: str = "", label: str = "") -> str:
    """An inline SVG with a caption; ``label`` is read out by screen readers."""
    if not svg:
        return ""
    named = svg.replace("<svg", f'<svg role="img" aria-label="{esc(label or caption)}"', 1)
    return f"<figure>{named}{f'<figcaption>{esc(caption)}</figcaption>' if caption else ''}</figure>"


def number(value: Any) -> str:
    """A number for readers: thousands separated, four significant digits otherwise."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value != value:
            return "–"
        whole = math.isfinite(value) and value == int(value) and abs(value) < 1e15
        return (f"{value:,.0f}" if whole else f"{value:,.4g}").replace("-", "−", value < 0)
    return str(value)


def key_values(values: Mapping[str, Any]) -> str:
    """A two-column table of any nested mapping."""
    rows = [
        f'<tr><th scope="row">{esc(_words(key))}</th><td>{_value(v)}</td></tr>' for key, v in values.items()
    ]
    return f'<table class="kv"><tbody>{"".join(rows)}</tbody></table>' if rows else ""


def _words(key: Any) -> str:
    return str(key).replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list | tuple | set):
        return _items([_plain(v) for v in value])
    return esc(_plain(value))


def _mapping(value: Mapping[Any, Any]) -> str:
    nested = any(isinstance(v, Mapping) for v in value.values())
    if nested:
        inner = key_values({str(k): v for k, v in value.items()})
        return (
            f"<details><summary>{len(value)} entries</summary>{inner}</details>" if len(value) > 3 else inner
        )
    return _items([f"{_words(k)}: {_plain(v)}" for k, v in value.items()])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(k)} {_plain(v)}" for k, v in value.items())
    return ", ".join(_plain(v) for v in value) if isinstance(value, list | tuple | set) else number(value)


def _items(items: Sequence[str]) -> str:
    if len(items) <= 14:
        return esc(", ".join(items)) if items else "–"
    rest = f"<details><summary>and {len(items) - 10} more</summary>{esc(', '.join(items[10:]))}</details>"
    return f"{esc(', '.join(items[:10]))} {rest}"


def code(text: str) -> str:
    """Preformatted text; what follows ``#`` on a line is muted (origins in a recipe)."""
    lines = [re.sub(r"((?:^|\s)#.*)$", r"<i>\1</i>", esc(line)) for line in text.rstrip().splitlines()]
    return f"<pre>{chr(10).join(lines)}</pre>" if lines else ""


def disclosure(summary: str, body: str) -> str:
    """Something to unfold."""
    return f"<details><summary>{esc(summary)}</summary>{body}</details>" if body else ""
