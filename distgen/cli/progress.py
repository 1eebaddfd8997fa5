"""Long work as a person watches it: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distgen.cli.console import err_console

if TYPE_CHECKING:
    from distgen.training.run import Tick


class LiveDisplay:
    """What changes in place in a terminal, and plain lines now and then where there is none."""

    def __init__(self, title: str, *, plain_every_s: float = 10.0, transient: bool = False) -> None:
        self.title = title
        self._plain_every_s = plain_every_s
        self._last_plain = 0.0
        self._last_stage = ""
        self._live: Live | None = None
        if err_console.is_terminal:
            self._live = Live(console=err_console, refresh_per_second=4, transient=transient)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._live.update(Text(f"{self.title}  starting ...", style="dim"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, picture: RenderableType, line: str, stage: str = "") -> None:
        """Show how things stand.

        Args:
            picture: For a terminal, in place of the last one.
            line: For elsewhere, after an interval or when the stage changes; each line stays.
            stage: What is being done.
        """
        if self._live:
            self._live.update(picture)
            return
        now = time.monotonic()
        if stage != self._last_stage or now - self._last_plain >= self._plain_every_s:
            err_console.print(f"{self.title}  {line}")
            self._last_plain, self._last_stage = now, stage

    def say(self, message: str) -> None:
        """Show a message that stays, above what changes."""
        err_console.print(f"{self.title}  {message}")


class TrainingDisplay(LiveDisplay):
    """Shows a run's ticks as they come."""

    def __call__(self, tick: Tick) -> bool:
        """Show one tick; never asks for a stop."""
        self.update(_panel(self.title, tick), describe(tick), tick.stage)
        return False


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
    return replace(tick, losses={})


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
