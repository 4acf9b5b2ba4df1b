"""On which tokens features of several layers fire, a bit for each."""

import numpy as np
from jaxtyping import Bool, Float, Int

from faithfulness_plugin.display import line

ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)
"""How many bits of a byte are 1."""
PAIRS_AT_A_TIME = 65_536


class FiringBits:
    """Remembers where features fire, and counts where two of them do.

    Args:
        n_layers: the number of transcoders.
    """

    def __init__(self, n_layers: int) -> None:
        self._parts: list[list[np.ndarray]] = [[] for _ in range(n_layers)]
        self._whole: dict[int, np.ndarray] = {}

    def __repr__(self) -> str:
        return line("FiringBits", {"n_layers": len(self._parts)})

    def add(self, place: int, fires: Bool[np.ndarray, "rows d_sae"]) -> None:
        """Add further rows of one transcoder.

        Args:
            place: which one.
            fires: which of its features fire there.
        """
        self._parts[place].append(np.packbits(fires.T, axis=1))

    def _bits(self, place: int) -> np.ndarray:
        """Return the bits of one transcoder's features, [d_sae, bytes]."""
        if place not in self._whole:
            self._whole[place] = np.concatenate(self._parts[place], axis=1)
            self._parts[place] = []
        return self._whole[place]

    def together(
        self, place: int, places: Int[np.ndarray, "d_sae most"], features: Int[np.ndarray, "d_sae most"], *, of: str
    ) -> Float[np.ndarray, "d_sae most"]:
        """Compute on which share of the downstream feature's firings the upstream one fires as well.

        Args:
            place: the transcoder whose features have partners.
            places: which transcoder each partner is of; -1 for none.
            features: the partners.
            of: "up" where partners are upstream, "down" where they are downstream.

        Returns:
            The shares; 0 where the downstream feature does not fire on these tokens.
        """
        shares, own = np.zeros(places.shape), self._bits(place)
        for other in np.unique(places[places >= 0]).tolist():
            rows, k = np.nonzero(places == other)
            theirs, bits = features[rows, k], self._bits(other)
            for start in range(0, len(rows), PAIRS_AT_A_TIME):
                part = slice(start, start + PAIRS_AT_A_TIME)
                one, two = own[rows[part]], bits[theirs[part]]
                both, downstream = ONES[one & two].sum(1), ONES[one if of == "up" else two].sum(1)
                shares[rows[part], k[part]] = both / np.maximum(downstream, 1)
        return shares
