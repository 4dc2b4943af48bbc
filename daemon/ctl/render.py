"""How things read: numbers with units, the reader's times, intervals as a line of glyphs, tables without colour.

Owns: formatting beyond what `policies.words` has. Refuses to query. Called by the modules of `daemon.ctl`.
"""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from policies import words

DAY = 86400.0
METHODS = {
    "lora": "LoRA",
    "full": "full fine-tuning",
    "distill": "re-distillation",
    "echo": "echo",
    "adopted": "adopted as it was",
    "": "unknown",
}
SIGNALS = {"correction": "corrections", "pair": "pairs", "positive": "good ratings", "negative": "bad ratings"}
WIDE = 200  # columns where nobody's terminal says how many there are
GLYPHS = 25


def say(text: str = "") -> None:
    """One line on standard output."""
    typer.echo(text)


def dump(value: Any) -> None:
    """JSON for machines: two spaces, real characters, and never NaN or Infinity."""
    typer.echo(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str))


def when(at: float | None, now: float) -> str:
    """A unix time in the reader's zone: 14:02 today, Thu 14:02 within six days, else 2026-11-20 03:12."""
    if not at:
        return "never"
    told, today = datetime.fromtimestamp(at).astimezone(), datetime.fromtimestamp(now).astimezone()
    if told.date() == today.date():
        return told.strftime("%H:%M")
    return told.strftime("%a %H:%M" if abs(at - now) < 6 * DAY else "%Y-%m-%d %H:%M")


def made_of(version: dict[str, Any]) -> str:
    """How a version came to be: `LoRA on 412 corrections`."""
    method = METHODS.get(version.get("method") or "", str(version.get("method")))
    signals = {name: n for name, n in (version.get("data") or {}).get("signals", {}).items() if n}
    if not signals:
        return method
    first, *others = sorted(signals, key=lambda name: (-signals[name], name))
    rest = f" and {words.count(sum(signals[name] for name in others))} others" if others else ""
    return f"{method} on {words.count(signals[first])} {SIGNALS.get(first, first)}{rest}"


def kind(version: dict[str, Any], *, whole: bool = False) -> str:
    """What its files are: `base`, or `adapter, depth 2`; with `whole` also what an adapter lies on."""
    if version["kind"] != "adapter":
        return "base: full weights, no adapter on them" if whole else str(version["kind"])
    over = f" of {version['base']}" if whole else ""
    return f"adapter{over}, depth {version['depth']}"


def interval(low: float, high: float, estimate: float | None, limit: float | None) -> str:
    """[low, high] on a line from the least to the most of what matters: ├ ● ┤ the interval, ┃ the limit, ┊ zero."""
    marks = [value for value in (low, high, estimate, limit, 0.0) if value is not None and math.isfinite(value)]
    least, most = min(marks), max(marks)
    if most <= least or not (math.isfinite(low) and math.isfinite(high)):
        return ""

    def place(value: float) -> int:
        return round((value - least) / (most - least) * (GLYPHS - 1))

    line = ["─" if place(low) < at < place(high) else "·" for at in range(GLYPHS)]
    for value, glyph in ((0.0, "┊"), (low, "├"), (high, "┤"), (estimate, "●"), (limit, "┃")):
        if value is not None and math.isfinite(value):
            line[place(value)] = glyph
    return "".join(line)


def number(value: Any) -> str:
    """A measured number, short: four digits that matter."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return words.count(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def amount(value: float | None, unit: float) -> str:
    """A quantity in a larger unit, to a hundredth below ten; blank where it isn't known."""
    if value is None:
        return ""
    told = value / unit
    return "<0.01" if 0 < told < 0.01 else f"{told:.2f}" if 0 < told < 10 else f"{told:,.1f}"


def money(by_currency: dict[str, float]) -> str:
    """`12.40 EUR`, each currency by itself; blank where nothing has a price."""
    return " + ".join(f"{value:,.2f} {currency}" for currency, value in sorted(by_currency.items()))


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """A plain table, or what it means that there is nothing."""
    grid = Table(*heads, box=None, pad_edge=False, header_style="bold" if sys.stdout.isatty() else "")
    for head in grid.columns[:1]:
        head.no_wrap = True
    lines = [[str(cell) for cell in row] for row in rows]
    if not lines:
        say(empty)
        return
    for line in lines:
        grid.add_row(*line)
    drawn = console()
    with drawn.capture() as captured:
        drawn.print(grid)
    say("\n".join(line.rstrip() for line in captured.get().splitlines()))


def console() -> Console:
    """Where tables go: as wide as the terminal, without colour codes where there is none."""
    tty = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if tty else WIDE, no_color=not tty, highlight=False, markup=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
