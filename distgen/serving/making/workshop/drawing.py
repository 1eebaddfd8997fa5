"""What runs in the process that draws: `python -m` this module; see `workshop.apart`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import numpy as np

from distgen.serving.making.batching import Drawn
from distgen.serving.making.encode import UInt8Images
from distgen.serving.making.loading import Outline, open_hands
from distgen.serving.making.workshop.answers import Answers
from distgen.serving.making.workshop.apart import Loaded
from distgen.serving.making.workshop.hands import HandsHere
from distgen.serving.making.workshop.orders import Order


class Bench:
    """The models of this process, and the threads that work for them.

    One thread draws, as there is one device; edits, which take many rounds, have another, and so
    has what is loaded beside all that.

    Args:
        owner: Who asks.
        pictures: Where drawn pictures go, to be written.
        device: Where networks run.
        may_write: Whether pictures are written here while nothing waits to be drawn. To hand them
            on wakes another process, which single pictures would pay for and get nothing.
    """

    def __init__(
        self, owner: Connection, pictures: Connection, device: str, may_write: bool
    ) -> None:
        self._owner = owner
        self._answers = Answers(owner)
        self._pictures = pictures
        self._handing_on = threading.Lock()
        self._may_write = may_write
        self._asked = self._begun = 0
        """Batches to draw; each count is one thread's."""
        self._device = device
        self._models: dict[int, HandsHere] = {}
        self._threads = {
            what: ThreadPoolExecutor(1, thread_name_prefix=what)
            for what in ("load", "draw", "redraw")
        }

    def serve(self) -> None:
        """Work until the owner has gone."""
        work: dict[str, Callable[..., Loaded | list[bytes] | None]] = {
            "load": self._load,
            "draw": self._draw,
            "redraw": self._redraw,
        }
        while True:
            try:
                number, what, model, load = self._owner.recv()
            except (EOFError, OSError):
                return
            if what == "drop":
                self._models.pop(model, None)
                self._answers.give(number, "done", None)
            else:
                self._asked += what == "draw"
                asked = (number, model, load)
                self._threads[what].submit(self._answers.of, number, work[what], *asked)

    def _load(self, _: int, model: int, wanted: Outline) -> Loaded:
        hands = open_hands(wanted, self._device)
        self._models[model] = hands
        return Loaded(hands.largest_batch, hands.can_remake)

    def _draw(self, number: int, model: int, orders: Sequence[Order]) -> list[bytes] | None:
        self._begun += 1
        hands = self._models[model]
        drawn = hands.draw(orders)
        self._answers.give(number, "drawn", drawn.seconds)
        if self._may_write and self._begun == self._asked:
            return hands.write(orders, drawn.drafts)
        self._hand_on(number, orders, drawn)
        return None

    def _redraw(self, number: int, model: int, orders: Sequence[Order]) -> None:
        drawn = self._models[model].redraw(orders)
        self._answers.give(number, "drawn", drawn.seconds)
        self._hand_on(number, orders, drawn)

    def _hand_on(self, number: int, orders: Sequence[Order], drawn: Drawn[UInt8Images]) -> None:
        """Pictures whose files come from where they are written."""
        encodings = [order.encoding for order in orders]
        with self._handing_on:
            self._pictures.send((number, encodings, np.stack(drawn.drafts)))


def main() -> None:
    """Work for the owner of the socket that was inherited."""
    # A terminal's Ctrl-C is for the owner, who lets what has begun end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner, pictures, device, may_write = sys.argv[1:]
    Bench(
        Connection(int(owner)), Connection(int(pictures)), device, may_write == "may-write"
    ).serve()
    os._exit(0)  # threads may be in the middle of something that nobody waits for


if __name__ == "__main__":
    main()
