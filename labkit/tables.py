"""Bundles as tables: aligned text, accessible HTML, and the Markdown ledger of many runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from labkit.bundle import VERDICTS

# A symbol and the word stand beside each colour, so that nobody has to tell colours apart (Okabe
# and Ito's palette, darkened where white text needs it to reach a contrast of 4.5).
_BADGES = {
    "reproduced": ("✓", "#0072b2", "#fff"),
    "corrected": ("≈", "#e69f00", "#000"),
    "not supported": ("✗", "#b34700", "#fff"),
    "not testable here": ("○", "#595959", "#fff"),
}
_CLAIM_HEAD = ["claim", "paper", "ours", "verdict"]
_METRIC_HEAD = ["metric", "value", "± sd", "unit", "seeds"]
MANY = 40  # rows of metrics beyond which they are folded


def text(bundle: Mapping[str, Any]) -> str:
    """Return claims and metrics as text without date, time or address: equal runs print alike."""
    claims = [[c["text"], *_values(c)] for c in bundle["claims"]]
    parts = [(_CLAIM_HEAD, claims), (_METRIC_HEAD, _metrics(bundle))]
    tables = [aligned(head, rows) for head, rows in parts if rows]
    return "\n\n".join([*_caution(bundle), *tables])


def html(bundle: Mapping[str, Any]) -> str:
    """Return claims and metrics as an HTML fragment that takes its text colours from the page."""
    p = bundle["provenance"]
    where = escape(f"{p['notebook']}, {p['preset']}, {p['source']}")
    claims = []
    for c in bundle["claims"]:
        note = f"<br><small>{escape(c['note'])}</small>" if c["note"] else ""
        said = f"{escape(c['text'])}<br><small>{escape(c['source'])}</small>{note}"
        paper, ours, _ = map(escape, _values(c))
        claims.append([said, paper, ours, _badge(c["verdict"])])
    metrics = [list(map(escape, row)) for row in _metrics(bundle)]
    parts = [("Claims", _CLAIM_HEAD, claims), ("Metrics", _METRIC_HEAD, metrics)]
    tables = [_html(f"{title} ({where})", head, rows) for title, head, rows in parts if rows]
    if len(metrics) > MANY:
        tables[-1] = f"<details>{_summary(metrics)}{tables[-1]}</details>"
    return "".join([*(f"<p>{escape(line)}</p>" for line in _caution(bundle)), *tables])


def markdown(bundles: Sequence[Mapping[str, Any]]) -> str:
    """Return the ledger page: verdict counts first, then each run under its notebook."""
    lines = [
        "# Ledger",
        "",
        "Made by `labkit reproduce` from `results/*.json`; do not edit. Each claim stands beside "
        "its source and what a run here found.",
        "",
        *_counts(bundles),
    ]
    notebook = None
    for bundle in bundles:
        p = bundle["provenance"]
        if p["notebook"] != notebook:
            notebook = p["notebook"]
            lines += ["", f"## {notebook}"]
        lines += ["", f"### {p['preset']}, {p['source']}", "", *_run(bundle)]
    return "\n".join(lines) + "\n"


def show(value: Any) -> str:
    """Return one value as tables show it: four digits, a dash for nothing."""
    if isinstance(value, list):
        return ", ".join(map(show, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value) if value else "–"


def aligned(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return rows of text in columns, under a ruled head."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, ["-" * width for width in widths], *rows]
    )


def _caution(bundle: Mapping[str, Any]) -> list[str]:
    """Return what must be said before the verdicts of a run with fewer than three seeds."""
    seeds = len(bundle["provenance"]["seeds"])
    if seeds >= 3 or not bundle["claims"]:
        return []
    return [
        f"{seeds} seed{'s' if seeds > 1 else ''}: these verdicts are indications. "
        "A verdict of record needs three seeds or more (preset full)."
    ]


def _values(claim: Mapping[str, Any]) -> list[str]:
    """Return the cells that claims have in every form of the table."""
    symbol, _, _ = _BADGES[claim["verdict"]]
    return [show(claim["paper"]), show(claim["ours"]), f"{symbol} {claim['verdict']}"]


def _metrics(bundle: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, show(m["value"]), show(m["spread"]), show(m["unit"]), str(len(m["seeds"]))]
        for name, m in bundle["metrics"].items()
    ]


def _badge(verdict: str) -> str:
    symbol, back, fore = _BADGES[verdict]
    style = f"background:{back};color:{fore};border-radius:3px;padding:1px 6px;white-space:nowrap"
    return f'<span style="{style}"><span aria-hidden="true">{symbol}</span> {verdict}</span>'


def _html(caption: str, head: list[str], rows: Iterable[list[str]]) -> str:
    style = "text-align:left;vertical-align:top;padding:3px 10px"
    columns = "".join(f'<th scope="col" style="{style}">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row" style="{style};font-weight:normal">{first}</th>'
        + "".join(f'<td style="{style}">{cell}</td>' for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<table><caption style="text-align:left;font-weight:bold">{caption}</caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"
    )


def _run(bundle: Mapping[str, Any]) -> list[str]:
    """Return one run as Markdown: claims, metrics, and where it ran."""
    p = bundle["provenance"]
    lines = []
    if bundle["claims"]:
        rows = [
            [c["text"] + (f" *({c['note']})*" if c["note"] else ""), c["source"], *_values(c)]
            for c in bundle["claims"]
        ]
        lines += [*_markdown(["claim", "source", *_CLAIM_HEAD[1:]], rows), ""]
    if bundle["metrics"]:
        metrics = _metrics(bundle)
        table = [*_markdown(_METRIC_HEAD, metrics), ""]
        folded = ["<details>", _summary(metrics), "", *table, "</details>", ""]
        lines += folded if len(metrics) > MANY else table
    commit = p["git"]["commit"][:10] + ("+" if p["git"]["dirty"] else "") if p["git"] else "–"
    versions = ", ".join(f"{name} {version}" for name, version in p["versions"].items())
    seeds = ", ".join(map(str, p["seeds"]))
    lines.append(
        f"Seeds {seeds}; {p['device']}, {p['cpu_capability']}, threads: {p['threads']}; "
        f"{p['wall_s']:.0f} s; {versions}; commit {commit}; {p['date'][:10]}."
    )
    return lines


def _summary(metrics: Sequence[Sequence[str]]) -> str:
    return f"<summary>{len(metrics)} metrics</summary>"


def _markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def _counts(bundles: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return how often each run came to each verdict."""
    rows = []
    for bundle in bundles:
        p, counts = bundle["provenance"], Counter(c["verdict"] for c in bundle["claims"])
        run = [p["notebook"], p["preset"], p["source"]]
        rows.append(run + [str(counts[verdict]) for verdict in VERDICTS])
    head = [f"{_BADGES[verdict][0]} {verdict}" for verdict in VERDICTS]
    return _markdown(["notebook", "preset", "source", *head], rows)
