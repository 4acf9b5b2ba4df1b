"""One seed, many independent random streams."""

import hashlib


def derived_seed(seed: int, use: str) -> int:
    """Derive the seed for one use of randomness: the first 63 bits of SHA-256 of "use:seed".

    Two generators with the same seed draw the same numbers: weights, data and probes that share a user's seed would
    be correlated. Hashing the seed with the use's name sets them apart, and stays the same on every machine.

    Args:
        seed: the user's seed.
        use: what is drawn, such as "probes".

    Returns:
        A seed in [0, 2^63).
    """
    return int.from_bytes(hashlib.sha256(f"{use}:{seed}".encode()).digest()[:8], "big") >> 1
