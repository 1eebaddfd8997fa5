"""What two machines are to each other: how far their clocks are apart, and what passes between."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from distgen.core.finding import Finding, ok, problem, warning

NOTABLE_SKEW_S = 1.0
"""From here on the events of several nodes can no longer be read as one story."""
HARMFUL_SKEW_S = 60.0
"""From here on something refuses: stores sign requests by the clock, and give up at minutes."""
DIAL_TIMEOUT_S = 3.0
SEND_S = 0.3
SEND_BYTES = 64 * 2**20
"""A transfer ends at whichever comes first."""
SLOW_BYTES_PER_S = 50e6
_PIECE = bytes(2**20)
_DIALS = 16
"""Connections that are tried at the same time."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, by two clocks, in seconds since the epoch."""

    asked: float
    answered: float
    """By the other's clock."""
    heard: float


def clock_skew(exchanges: Sequence[Exchange]) -> tuple[float, float]:
    """How far another clock is ahead, and how wrong that may be, in seconds.

    The answer was given somewhere between question and hearing; the quickest exchange leaves the
    least doubt (Cristian 1989).
    """
    best = min(exchanges, key=lambda each: each.heard - each.asked)
    doubt = (best.heard - best.asked) / 2
    return best.answered - (best.asked + doubt), doubt


def clock(exchanges: Sequence[Exchange]) -> Finding:
    """Whether a node's clock goes with that of the machine that asks."""
    skew_s, doubt_s = clock_skew(exchanges)
    certain = abs(skew_s) - doubt_s
    way = "ahead" if skew_s > 0 else "behind"
    if certain < NOTABLE_SKEW_S:
        return ok("clock", f"{_seconds(abs(skew_s))} {way}, give or take {_seconds(doubt_s)}")
    seen = f"{_seconds(abs(skew_s))} {way} of the machine that asks"
    remedy = "set it by the network: systemctl enable --now chrony (or systemd-timesyncd)"
    return (problem if certain >= HARMFUL_SKEW_S else warning)("clock", seen, remedy)


def unreachable(
    targets: Sequence[tuple[str, str, int]], timeout_s: float = DIAL_TIMEOUT_S
) -> list[str]:
    """Which of these could not be dialled, with the reason.

    Args:
        targets: What it is, host and port of each.
        timeout_s: For one of them; several are dialled at the same time.
    """

    def dial(target: tuple[str, str, int]) -> str | None:
        name, host, port = target
        try:
            socket.create_connection((host, port), timeout=timeout_s).close()
        except OSError as error:
            return f"{name} at {host}:{port} ({error.strerror or error})"
        return None

    with ThreadPoolExecutor(_DIALS) as pool:
        return [answer for answer in pool.map(dial, targets) if answer]


class Listener:
    """Takes what one peer sends, on a free port of `host`, and says when all has come.

    Args:
        host: The address to listen on.
        word: 16 bytes that the peer sends first; others are sent away.
        timeout_s: For the peer to come, and for each piece to arrive.
    """

    def __init__(self, host: str, word: bytes, timeout_s: float = 10.0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self._socket.settimeout(timeout_s)
        self._word = word
        self._timeout_s = timeout_s
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, name="distgen-listen", daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                peer, _ = self._socket.accept()
                with peer:
                    peer.settimeout(self._timeout_s)
                    if _receive(peer, len(self._word)) != self._word:
                        continue
                    while peer.recv(2**20):
                        pass
                    peer.sendall(b".")
                    return
        except OSError:
            return  # nobody came
        finally:
            self._socket.close()


def send_for(
    host: str, port: int, word: bytes, seconds: float = SEND_S, limit_bytes: int = SEND_BYTES
) -> float:
    """Send zeros to a `Listener` for a while; bytes that arrived per second.

    Raises:
        OSError: It cannot be reached, or does not confirm.
    """
    with socket.create_connection((host, port), timeout=DIAL_TIMEOUT_S) as peer:
        peer.settimeout(seconds + 10 * DIAL_TIMEOUT_S)
        peer.sendall(word)
        sent, begin = 0, time.perf_counter()
        while sent < limit_bytes and time.perf_counter() - begin < seconds:
            peer.sendall(_PIECE)
            sent += len(_PIECE)
        peer.shutdown(socket.SHUT_WR)
        if peer.recv(1) != b".":
            raise ConnectionError("what was sent did not arrive")
        return sent / (time.perf_counter() - begin)


def bandwidth(peer: str, bytes_per_s: float) -> Finding:
    """Whether gradients would pass quickly enough to the next node."""
    seen = f"{_rate(bytes_per_s)} to {peer}"
    if bytes_per_s >= SLOW_BYTES_PER_S:
        return ok("bandwidth", seen)
    return warning(
        "bandwidth",
        f"{seen}: each step would wait for its gradients",
        "nodes in one place or on a faster network; else larger batches on fewer nodes",
    )


def _receive(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := peer.recv(size - len(data))):
        data += more
    return data


def _seconds(value: float) -> str:
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:,.1f} s"


def _rate(bytes_per_s: float) -> str:
    if bytes_per_s >= 1e9:
        return f"{bytes_per_s / 1e9:.1f} GB/s"
    return f"{bytes_per_s / 1e6:.{0 if bytes_per_s >= 10e6 else 1}f} MB/s"
