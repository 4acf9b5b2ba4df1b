"""The rows of an attribution graph: what every feature, error and token adds to a target."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.attribution.features import PromptFeatures, by_position
from faithfulness_plugin.attribution.local import EMBEDDING, Local
from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers
from faithfulness_plugin.display import line

PREFIXES = 8
"""What comes after a target's token adds nothing to it: rows are computed on as many lengths of the prompt."""


class EdgeRows:
    """Computes rows of A, by backward passes of many targets through the model with patterns, scales and gates held.

    A[t, s] = <what t reads, (attention branches, norms and skip connections) what s writes>. A row costs as much as
    a backward pass through the blocks below the target, without MLPs, over the tokens up to its own.

    Args:
        replaced: the layers.
        features: those that fire on the prompt.
        batch_size: targets that pass a block at the same time.
    """

    def __init__(self, replaced: ReplacedLayers, features: PromptFeatures, batch_size: int) -> None:
        self.replaced, self.features, self.batch_size = replaced, features, batch_size
        self.table = features.table
        self.n_pos = features.tokens.shape[1]
        self.starts = features.starts
        self.n_active, n_blocks = self.starts[-1], len(features.blocks)
        self.n_sources = self.n_active + (n_blocks + 1) * self.n_pos
        # of each block that is written to, by the block of the features: [pos, most at one position, d_out]
        self._writes: list[dict[int, Tensor]] = [{} for _ in features.blocks]
        self._slots: list[Tensor] = []  # each feature's place at its position
        for source, of in enumerate(features.blocks):
            self._writes[source][source], slots = by_position(of.positions, of.writes(), self.n_pos)
            self._slots.append(slots)
            for to in of.later:
                self._writes[to][source], _ = by_position(of.positions, of.writes(to=to), self.n_pos)
        self._locals: dict[int, Local] = {}
        self.whole.require_linear()

    def __repr__(self) -> str:
        return line("EdgeRows", {"n_active": self.n_active, "n_sources": self.n_sources})

    @property
    def whole(self) -> Local:
        """The model on the whole prompt."""
        return self._local(self.n_pos)

    def of_logits(self, tokens: Int[Tensor, " targets"]) -> Float[Tensor, "targets sources"]:
        """Compute the rows of logits at the last position, less the mean over the vocabulary.

        Args:
            tokens: whose logits.

        Returns:
            What each source adds.
        """
        local = self.whole
        none = tokens[:0]
        pulled = local.pull(none, none, local.logits.new_zeros(0, 0), from_above=local.from_logits(tokens))
        return self._rows(len(tokens), self.n_pos, pulled)

    def of_features(self, which: Int[Tensor, " targets"]) -> Float[Tensor, "targets sources"]:
        """Compute the rows of features, of what adds to their pre-activations.

        Args:
            which: indices into the table of features.

        Returns:
            What each source adds.
        """
        rows = self.features.logits.new_zeros(len(which), self.n_sources)
        blocks, positions, _ = self.table[which].T
        step = -(-self.n_pos // PREFIXES)
        prefixes = torch.clamp((positions // step + 1) * step, max=self.n_pos)
        for length in prefixes.unique().tolist():
            here = (prefixes == length).nonzero()[:, 0]
            here = here[blocks[here].argsort(descending=True, stable=True)]
            for part in here.split(self.batch_size):
                ids, at = which[part], blocks[part]
                pulled = self._local(length).pull(at, positions[part], self.features.reads(ids))
                rows[part] = self._rows(len(part), length, pulled)
        return rows

    def _rows(self, n: int, length: int, pulled: Iterator[tuple[int, Tensor]]) -> Tensor:
        rows = self.features.logits.new_zeros(n, self.n_sources)
        for block, g in pulled:  # g [targets so far, length, d]
            if block == EMBEDDING:
                rows[:, -self.n_pos :][:, :length] = (g * self.whole.embedding[0, :length]).sum(-1)
                continue
            of = self.features.blocks[block]
            errors = self.n_active + block * self.n_pos
            rows[: len(g), errors : errors + length] = (g * of.error[:length]).sum(-1)
            for source, writes in self._writes[block].items():
                positions = self.features.blocks[source].positions
                m = int((positions < length).sum())
                if m:
                    # [length, targets, d] @ [length, d, slots] -> [length, targets, slots]
                    each = g.transpose(0, 1) @ writes[:length].to(g.dtype).mT
                    start = self.starts[source]
                    rows[: len(g), start : start + m] += each[positions[:m], :, self._slots[source][:m]].T
        return rows

    def _local(self, length: int) -> Local:
        if length not in self._locals:
            skips = [of.up_to(length).skip for of in self.features.blocks]
            self._locals[length] = Local.of(self.replaced, self.features.tokens[:, :length], skips)
        return self._locals[length]
