"""One seed per purpose: randomness is a pure function of (seed, purpose, epoch, batch)."""

import hashlib


def derive(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed for a random number generator; different arguments give unrelated seeds."""
    text = ",".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
