"""A run as a person watches it: one live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distgen.cli.console import err_console
from distgen.training.run import Tick

PLAIN_EVERY_S = 10.0


class TrainingDisplay:
    """Shows ticks as they come; use it as a context manager and give it to `on_tick`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._live: Live | None = None
        self._last_plain = 0.0
        self._last_stage = ""
        if err_console.is_terminal:
            self._live = Live(console=err_console, refresh_per_second=4, transient=False)

    def __enter__(self) -> TrainingDisplay:
        if self._live:
            self._live.start()
            self._live.update(Text(f"{self._title}  starting ...", style="dim"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, tick: Tick) -> bool:
        """Show one tick; never asks for a stop."""
        if self._live:
            self._live.update(_panel(self._title, tick))
            return False
        # Without a terminal each line stays: one per interval, and each change of stage.
        due = time.monotonic() - self._last_plain >= PLAIN_EVERY_S
        if due or tick.stage != self._last_stage:
            err_console.print(f"{self._title}  {describe(tick)}", soft_wrap=True)
            self._last_plain, self._last_stage = time.monotonic(), tick.stage
        return False

    def say(self, message: str) -> None:
        """Show a message that stays, above the live line."""
        err_console.print(f"{self._title}  {message}", soft_wrap=True, markup=False)


def describe(tick: Tick) -> str:
    """A tick as one line of text."""
    share = min(100.0, 100 * tick.images_seen / tick.images)  # the last batch may overshoot
    parts = [f"{tick.images_seen:,}/{tick.images:,} images ({share:.0f} %)"]
    if tick.stage == "train":
        parts += [f"{tick.images_per_s:,.0f} img/s", f"ETA {_clock(tick.eta_s)}"]
        totals = {k: v for k, v in tick.losses.items() if k.endswith("/loss")}
        parts += [f"{k.removesuffix('/loss')} loss {v:.3f}" for k, v in totals.items()]
        parts += [f"data wait {100 * tick.data_wait:.0f} %", f"{tick.memory_gib:.2f} GiB"]
    elif tick.stage == "evaluate":
        parts.append(f"evaluating {tick.detail}".rstrip())
    else:
        parts.append(tick.stage)
    if tick.headline:
        parts.append(tick.headline)
    return " · ".join(parts)


def _panel(title: str, tick: Tick) -> Table:
    table = Table.grid(padding=(0, 1))
    head = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=tick.images, completed=min(tick.images_seen, tick.images), width=30)
    head.add_row(Text(title, style="bold"), bar, Text(describe(_short(tick))))
    table.add_row(head)
    if tick.losses:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in tick.losses.items())
        table.add_row(Text(f"  {losses}", style="dim"))
    return table


def _short(tick: Tick) -> Tick:
    """The tick without its losses, which the live display shows in a line of their own."""
    return Tick(**{**tick.__dict__, "losses": {}})


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
