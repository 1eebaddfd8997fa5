"""The two consoles, and how machines are answered."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def _console(**options: Any) -> Console:
    """Prints text as it is, never broken: a path may hold `[x]` or `:x:`, and scripts read lines.

    What is to stand out is a `Text` (see `strong`).
    """
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)


console = _console()
"""What was asked for."""
err_console = _console(stderr=True)
"""What is said about it: progress, warnings, errors."""

_NO_LIMIT = 100_000
"""Columns; more than any table takes."""


def strong(text: str, rest: str = "", style: str = "bold") -> Text:
    """A line whose beginning stands out."""
    return Text.assemble((text, style), rest)


def print_table(table: Table) -> None:
    """A table on stdout: fitted to a terminal, uncut elsewhere, where a script may read it."""
    shown = console if console.is_terminal else _console(width=_NO_LIMIT)
    shown.print(table, soft_wrap=False)


def print_json(value: Any) -> None:
    """One JSON object on stdout, unwrapped and uncoloured."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def bytes_text(size: float) -> str:
    """A number of bytes in the largest unit that it fills."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} PiB"
