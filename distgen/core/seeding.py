"""Seeds as pure functions of (seed, purpose, position): no generator state is ever saved."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose at one place, independent of all others.

    Args:
        seed: The run's seed.
        parts: What the numbers are for and where on the clock, such as `("latents", 51200)`.
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in parts)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Stream:
    """Random numbers of one key after another, as a new `Philox(key=...)` for each would give them.

    A new one asks the operating system for entropy that a key makes needless, which takes longer
    than a picture's latents.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self.generator = np.random.Generator(self._bits)
        """At what the key gives first, after `restart`."""

    def restart(self, key: int) -> None:
        """Begin with a key, from 0 to 2^64 - 1."""
        self._state["state"]["key"][0] = key
        self._bits.state = self._state
