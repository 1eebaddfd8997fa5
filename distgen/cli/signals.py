"""What ends a command that cleans up behind itself."""

from __future__ import annotations

import signal


def end_on_signals() -> None:
    """SIGTERM, and SIGHUP from a terminal that closes, end as cleanly as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, signal.default_int_handler)
