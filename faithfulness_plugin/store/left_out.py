"""The rule by which rows of a text are left out: positions, special tokens, rows of extreme norm."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.errors import UsageError


class NormLimits(NamedTuple):
    """The largest norms of rows that count."""

    x: float
    """The largest ||x||, the norm of what the layer reads."""
    y: float
    """The largest ||f(x)||, the norm of what it writes."""


@dataclass(frozen=True)
class LeftOutCounts:
    """Numbers of tokens that were left out of prompts; each counts once, for the first reason that applies."""

    tokens: int
    """All of them."""
    positions: int
    """Among the first positions."""
    special: int
    """Tokens that are left out, at later positions."""
    norms: int
    """Rows of extreme norm."""

    @property
    def rows(self) -> int:
        """The number of tokens that are left."""
        return self.tokens - self.positions - self.special - self.norms

    def __str__(self) -> str:
        why = {"at the first positions": self.positions, "special tokens": self.special, "of extreme norm": self.norms}
        said = ", ".join(f"{n:,} {reason}" for reason, n in why.items() if n)
        return f"{self.rows:,} of {self.tokens:,} tokens count" + f"; left out: {said}" * bool(said)


@dataclass(frozen=True)
class LeftOut:
    """The rule by which rows are left out of measuring and training, and left to the layer in the spliced model.

    What takes `exclude` takes one of these, or token ids alone.
    """

    token_ids: tuple[int, ...] = ()
    """Tokens whose rows are left out, such as the tokenizer's special ones."""
    skip_first: int = 0
    """The first positions of every prompt that are left out. Many models put a huge activation at the first token,
    whichever it is."""
    norms_above: float | None = None
    """Rows are left out whose input or output norm is above this factor times the median over the rows that tokens
    and positions leave."""
    limits: NormLimits | None = None
    """The limits that the factor gives for one layer, once it was fitted to rows of it."""

    def __post_init__(self) -> None:
        if self.skip_first < 0:
            raise UsageError(f"skip_first={self.skip_first}: pass how many positions are left out, 0 or more")
        if self.norms_above is not None and not self.norms_above > 1:
            raise UsageError(f"norms_above={self.norms_above}: pass a factor above 1 (times the median norm), or None")

    @classmethod
    def of(cls, exclude: "Int[Tensor, ' ids'] | LeftOut | None") -> "LeftOut":
        """Return the rule: token ids alone make one, and so does None, which leaves nothing out.

        Args:
            exclude: a rule, token ids, or None.

        Returns:
            The rule itself, or one of those token ids.
        """
        if isinstance(exclude, LeftOut):
            return exclude
        return cls() if exclude is None else cls(token_ids=tuple(exclude.tolist()))

    def places(self, tokens: Int[Tensor, "prompts pos"]) -> Bool[Tensor, "prompts pos"]:
        """Find the places where token and position count; norms are not asked.

        Args:
            tokens: the prompts.

        Returns:
            True where they count.
        """
        kept = torch.ones_like(tokens, dtype=torch.bool)
        kept[:, : self.skip_first] = False
        return kept & ~torch.isin(tokens, torch.tensor(self.token_ids, dtype=tokens.dtype, device=tokens.device))

    def counts(self, kept: Bool[Tensor, "prompts pos"], n_norms: int = 0) -> LeftOutCounts:
        """Count what was left out of prompts, by reason.

        Args:
            kept: what `places` returned for them.
            n_norms: the number of rows of extreme norm among those.

        Returns:
            The counts, each token once.
        """
        first = min(self.skip_first, kept.shape[1]) * len(kept)
        return LeftOutCounts(kept.numel(), first, kept.numel() - first - int(kept.sum()), n_norms)

    def fitted(self, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d_out"]) -> "LeftOut":
        """Fit the limits of norms to rows of a layer: the factor times the median norm.

        Args:
            x: the rows.
            y: the layer's outputs there.

        Returns:
            The rule with limits; the rule itself where it asks for none, or has them, or there are no rows.
        """
        if self.norms_above is None or self.limits is not None or not len(x):
            return self
        x_limit, y_limit = (self.norms_above * rows.norm(dim=-1).float().median().item() for rows in (x, y))
        return replace(self, limits=NormLimits(x_limit, y_limit))

    def within(self, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d_out"]) -> Bool[Tensor, " rows"]:
        """Find the rows whose norms are within the fitted limits.

        Args:
            x: the rows.
            y: the layer's outputs there.

        Returns:
            True for those rows.

        Raises:
            ValueError: limits that are not fitted.
        """
        if self.norms_above is None:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        if self.limits is None:
            raise ValueError("the limits of norms are not fitted to this layer: use kept_rows, or fitted(x, y)")
        return (x.norm(dim=-1) <= self.limits.x) & (y.norm(dim=-1) <= self.limits.y)
