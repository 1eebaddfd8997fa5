"""Seeds as pure functions of (seed, purpose, position): no generator state is ever saved."""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose at one place, independent of all others.

    Args:
        seed: The run's seed.
        parts: What the numbers are for and where on the clock, such as `("latents", 51200)`.
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in parts)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
