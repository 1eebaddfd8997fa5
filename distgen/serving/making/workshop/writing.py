"""What runs in the process that writes pictures: `python -m` this module; see `workshop.apart`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from distgen.serving.making.encode import UInt8Images
from distgen.serving.making.workshop.answers import Answers
from distgen.serving.making.workshop.orders import Encoding, write


class Desk:
    """Threads that write parts of a batch at the same time.

    Args:
        threads: How many.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._encoders = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    def write_until_gone(self, pictures: Connection, owner: Connection) -> None:
        """Write what is drawn, batch after batch, until nobody draws any more.

        Args:
            pictures: Brings a batch's number, encodings and images.
            owner: Where the files go.
        """
        answers = Answers(owner)
        while True:
            try:
                number, encodings, images = pictures.recv()
            except (EOFError, OSError):
                return
            answers.of(number, self._write, encodings, images)

    def _write(self, encodings: Sequence[Encoding], images: UInt8Images) -> list[bytes]:
        if self._threads == 1:
            return write(encodings, images)
        size = -(-len(images) // self._threads)
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        writing = [self._encoders.submit(write, encodings[p], images[p]) for p in parts]
        return [file for written in writing for file in written.result()]


def main() -> None:
    """Write for the owner of one socket what comes through the other."""
    # A terminal's Ctrl-C is for the owner, who lets what has begun end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner, pictures, threads = map(int, sys.argv[1:])
    Desk(threads).write_until_gone(Connection(pictures), Connection(owner))
    os._exit(0)


if __name__ == "__main__":
    main()
