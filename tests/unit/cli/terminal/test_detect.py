"""What a terminal shows is found out without waiting for one that says nothing."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import termios
import threading
import time

import pytest

from distgen.cli.terminal.detect import by_environment, detect, read_answer

KITTY = b"\x1b_Gi=31;OK\x1b\\"
PLAIN, SIXELS = b"\x1b[?62;22c", b"\x1b[?62;4;22c"


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, "none"),
        ({"TERM": "dumb"}, "none"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "screen", "TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/x"}, None),
    ],
)
def test_the_environment_names_a_terminal_unless_another_stands_between(environment, found):
    assert by_environment(environment) == found


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", (None, False)),
        (KITTY, ("kitty", False)),
        (KITTY + PLAIN, ("kitty", True)),
        (b"\x1b_Gi=31;ENOTSUPPORTED:no\x1b\\" + SIXELS, ("sixel", True)),
        (PLAIN, (None, True)),
        (SIXELS, ("sixel", True)),
        (b"\x1b[?4c", (None, True)),  # a VT132: its own number is no attribute
        (b"\x1b[?64;44c", (None, True)),
        (b"typed" + SIXELS[:5], (None, False)),
    ],
)
def test_answers_are_read_as_they_come(data, found):
    assert read_answer(data) == found


def test_what_is_no_terminal_is_asked_nothing(monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("this opened a terminal")

    monkeypatch.setattr("distgen.cli.terminal.detect.ask", never)
    assert detect(io.StringIO(), {"TERM": "xterm-kitty"}) == "none"


PROGRAM = """
import os, sys, time
from distgen.cli.terminal.detect import detect
begin = time.monotonic()
found = detect(sys.stdout, dict(TERM="xterm-256color", **eval(sys.argv[1])))
os.write(int(sys.argv[2]), f"{found} {time.monotonic() - begin}".encode())
"""


def asked_on_terminal(answer: bytes, extra: dict[str, str] | None = None) -> tuple[str, bytes]:
    """What a process on a terminal that answers so finds, and what the terminal was sent."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    told, tell = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, repr(extra or {}), str(tell)],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        pass_fds=[tell],
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(tell)
    sent = bytearray()

    def terminal() -> None:
        try:
            while data := os.read(ours, 1024):
                sent.extend(data)
                if answer and sent.endswith(b"\x1b[c"):
                    for part in (answer[:4], answer[4:]):
                        os.write(ours, part)
                        time.sleep(0.01)
        except OSError:
            pass  # all have closed it

    reader = threading.Thread(target=terminal, daemon=True)
    reader.start()
    found = os.read(told, 1024).decode()
    assert process.wait() == 0
    after = termios.tcgetattr(theirs)
    assert after == before, "the terminal is left as it was"
    os.close(theirs)
    reader.join(5)
    os.close(ours)
    os.close(told)
    return found.split()[0], bytes(sent)


@pytest.mark.parametrize(
    ("answer", "extra", "found"),
    [
        (KITTY + PLAIN, None, "kitty"),
        (SIXELS, None, "sixel"),
        (PLAIN, None, "blocks"),
        (b"", None, "blocks"),
        (PLAIN, {"NO_COLOR": "1"}, "none"),
    ],
)
def test_a_terminal_is_asked_and_left_as_it_was(answer, extra, found):
    what, sent = asked_on_terminal(answer, extra)
    assert what == found
    assert sent == b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c", "asked once, nothing echoed"
