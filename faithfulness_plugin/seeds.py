"""One seed, many independent random streams."""

import hashlib


def derived_seed(seed: int, use: str) -> int:
    """A seed for one use of randomness, in [0, 2^63).

    Two generators with the same seed draw the same numbers: weights, data and probes that share a user's seed would
    be correlated. Hashing the seed with the use's name sets them apart, and stays the same on every machine.
    """
    return int.from_bytes(hashlib.sha256(f"{use}:{seed}".encode()).digest()[:8], "big") >> 1
