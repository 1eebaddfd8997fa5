"""Which pictures a terminal shows: by what it says of itself, or else by asking it.

It is asked as kitty's specification has it: a query of kitty's own, and behind it the question that
every terminal answers (primary device attributes). A terminal that knows nothing of the first stays
silent about it, and the second says whether there are sixels. One that answers neither is waited
for no longer than a fraction of a second.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TextIO, get_args

Graphics = Literal["kitty", "iterm", "sixel", "blocks", "none"]
GRAPHICS: tuple[str, ...] = get_args(Graphics)
PATIENCE_S = 0.3
"""For a terminal to answer; one far away needs a tenth."""
_QUERY = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c"
_KITTY_OK = re.compile(rb"\x1b_G[^\x1b]*i=31[^\x1b]*;OK\x1b\\")
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_SIXELS = b"4"
_CELL_PIXELS = 8, 16
"""Width and height of a cell where the terminal does not say."""
_ITERM = ("iTerm.app", "WezTerm", "mintty")
_KITTY = ("ghostty",)


@dataclass(frozen=True)
class Screen:
    """What of a terminal a picture may take."""

    columns: int
    rows: int
    cell_width: int
    """Pixels."""
    cell_height: int


def by_environment(environment: Mapping[str, str]) -> Graphics | None:
    """What the environment says; None where only the terminal itself can tell."""
    term = environment.get("TERM", "")
    if not term or term in ("dumb", "unknown", "linux"):
        # A console has no colours that pictures could be seen in.
        return "none"
    program = environment.get("TERM_PROGRAM", "")
    if environment.get("TMUX") or term.startswith(("screen", "tmux")):
        return None  # it stands between, whatever else the environment has inherited
    if environment.get("KITTY_WINDOW_ID") or term == "xterm-kitty" or program in _KITTY:
        return "kitty"
    if program in _ITERM or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return None


def detect(out: TextIO, environment: Mapping[str, str] | None = None) -> Graphics:
    """What the terminal at `out` shows; `none` where it is no terminal.

    Args:
        out: Where pictures would go.
        environment: In place of this process's.
    """
    environment = os.environ if environment is None else environment
    if not out.isatty():
        return "none"
    known = by_environment(environment)
    if known is not None:
        return known
    answer = ask(PATIENCE_S)
    if answer is not None:
        return answer
    # https://no-color.org: half blocks are nothing but colours.
    return "none" if environment.get("NO_COLOR") else "blocks"


def read_answer(data: bytes) -> tuple[Graphics | None, bool]:
    """What an answer says, and whether it is complete."""
    attributes = _ATTRIBUTES.search(data)
    if _KITTY_OK.search(data):
        return "kitty", attributes is not None
    if attributes is None:
        return None, False
    return ("sixel" if _SIXELS in attributes[1].split(b";")[1:] else None), True


def ask(patience_s: float, path: str = "/dev/tty") -> Graphics | None:
    """What the terminal answers; None where it has no pictures, or nobody can be asked.

    Never hangs, and leaves the terminal as it was. Keys that are typed meanwhile are lost.

    Args:
        patience_s: Seconds until it is taken for silent.
        path: The terminal's device.
    """
    try:
        import termios
        import tty

        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    except (ImportError, OSError):  # no POSIX, or no terminal of ours
        return None
    try:
        # In the background the system would stop a process that changes the terminal.
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return None
        before = termios.tcgetattr(terminal)
        try:
            tty.setcbreak(terminal, termios.TCSANOW)
            os.write(terminal, _QUERY)
            return _listen(terminal, time.monotonic() + patience_s)
        finally:
            # What comes too late must not be taken for keys.
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    except (OSError, termios.error):
        return None
    finally:
        os.close(terminal)


def _listen(terminal: int, deadline: float) -> Graphics | None:
    data, found = b"", None
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([terminal], [], [], left)
        if not ready:
            break
        data += os.read(terminal, 1024)
        found, complete = read_answer(data)
        if complete:
            break
    return found


def screen_of(out: TextIO) -> Screen:
    """The size of the terminal at `out`, in cells, and of a cell in pixels."""
    width, height = _CELL_PIXELS
    columns, rows = 80, 24
    try:
        import fcntl
        import struct
        import termios

        packed = fcntl.ioctl(out.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        seen_rows, seen_columns, across, down = struct.unpack("HHHH", packed)
    except (ImportError, OSError, ValueError):
        return Screen(columns, rows, width, height)
    columns, rows = seen_columns or columns, seen_rows or rows
    if across >= columns and down >= rows:
        width, height = across // columns, down // rows
    return Screen(columns, rows, width, height)
