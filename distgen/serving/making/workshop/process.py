"""What runs in the process that draws: `python -m` this module; see `workshop.apart`."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, cast

from distgen.serving.making.loading import Outline, open_hands
from distgen.serving.making.workshop.apart import Loaded
from distgen.serving.making.workshop.hands import Draft, HandsHere
from distgen.serving.making.workshop.orders import Order


class Bench:
    """The models of this process, and the threads that work for them.

    One thread draws, as there is one device; edits, which take many rounds, have another, and so
    has what is loaded beside all that.

    Args:
        connection: To the owner.
        device: Where networks run.
        encoder_threads: See `apart.Workshop`.
    """

    def __init__(self, connection: Connection, device: str, encoder_threads: int) -> None:
        self._connection = connection
        self._device = device
        self._sending = threading.Lock()
        self._models: dict[int, HandsHere] = {}
        self._threads = {
            what: ThreadPoolExecutor(1, thread_name_prefix=what)
            for what in ("load", "draw", "redraw")
        }
        self._encoder_threads = encoder_threads
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._encoders = ThreadPoolExecutor(encoder_threads, thread_name_prefix="encode")

    def serve(self) -> None:
        """Work until the owner has gone."""
        while True:
            try:
                number, what, model, load = self._connection.recv()
            except (EOFError, OSError):
                return
            if what == "drop":
                self._models.pop(model, None)
                self._answer(number, "done", None)
            elif what == "load":
                self._threads[what].submit(self._told, number, self._load, model, load)
            else:
                self._threads[what].submit(
                    self._told, number, self._make, number, what, model, load
                )

    def _told(self, number: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Do something, and answer with what came of it; None: the answer comes from elsewhere."""
        try:
            value = work(*arguments)
        except Exception as error:
            self._answer(number, "failed", _portable(error))
        else:
            if value is not None:
                self._answer(number, "done", value)

    def _load(self, model: int, wanted: Outline) -> Loaded:
        hands = open_hands(wanted, self._device)
        self._models[model] = hands
        return Loaded(hands.largest_batch, hands.can_remake)

    def _make(
        self, number: int, what: str, model: int, orders: Sequence[Order]
    ) -> list[bytes] | None:
        """The files; or None where other threads write them and answer."""
        hands = self._models[model]
        drafts, seconds = hands.draw(orders) if what == "draw" else hands.redraw(orders)
        self._answer(number, "drawn", seconds)
        if self._encoder_threads == 1:
            return hands.write(orders, drafts)
        self._writing.submit(self._told, number, self._write, hands, orders, drafts)
        return None

    def _write(
        self, hands: HandsHere, orders: Sequence[Order], drafts: Sequence[Draft]
    ) -> list[bytes]:
        size = -(-len(orders) // self._encoder_threads)
        parts = [slice(start, start + size) for start in range(0, len(orders), size)]
        writing = [self._encoders.submit(hands.write, orders[p], drafts[p]) for p in parts]
        return [file for written in writing for file in written.result()]

    def _answer(self, number: int, state: str, value: Any) -> None:
        with self._sending:
            self._connection.send((number, state, value))


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot travel."""
    try:
        return cast("Exception", pickle.loads(pickle.dumps(error)))  # noqa: S301
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def main() -> None:
    """Work for the owner of the socket that was inherited."""
    # A terminal's Ctrl-C is for the owner, who lets what has begun end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, device, encoder_threads = sys.argv[1:]
    with Connection(int(descriptor)) as connection:
        Bench(connection, device, int(encoder_threads)).serve()
    os._exit(0)  # threads may be in the middle of something that nobody waits for


if __name__ == "__main__":
    main()
