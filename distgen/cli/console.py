"""The two consoles, and how machines are answered."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

console = Console(highlight=False)
"""What was asked for."""
err_console = Console(stderr=True, highlight=False)
"""What is said about it: progress, warnings, errors."""


def print_json(value: Any) -> None:
    """One JSON object on stdout, unwrapped and uncoloured."""
    print(json.dumps(value, ensure_ascii=False, default=str))
