"""Which rows of a text count: the settings, and the record of what they came to."""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import say
from faithfulness_plugin.results.schema import Record

if TYPE_CHECKING:  # settings are read and refused before torch is loaded
    from faithfulness_plugin.metrics.variance_concentration import VarianceConcentration
    from faithfulness_plugin.store.left_out import LeftOut, LeftOutCounts

ADVICE = "--skip-first N or --exclude-norms-above FACTOR leaves such rows out"


class RowSettings(Record):
    """The rows of a text that are measured and trained on; the others are left to the layer."""

    skip_first: int = Field(default=0, ge=0, description="the first positions of every prompt that are left out")
    special_tokens: bool = Field(default=False, description="whether special tokens count; by default they do not")
    norms_above: float | None = Field(
        default=None,
        gt=1,
        description="leaves out rows whose input or output norm is above this factor times the median over the rows "
        "that positions and tokens leave (of the held-out prompts; in a store, of its first shard)",
    )

    def left_out(self, tokenizer: Any) -> "LeftOut":
        """Build the rule by which tokens of a model are left out.

        Args:
            tokenizer: names the special tokens.

        Returns:
            The rule.
        """
        from sae_lens.util import get_special_token_ids

        from faithfulness_plugin.store.left_out import LeftOut

        special = () if self.special_tokens else tuple(int(token) for token in get_special_token_ids(tokenizer))
        return LeftOut(special, self.skip_first, self.norms_above)

    def per_prompt(self, context_size: int, tokenizer: Any) -> int:
        """Compute how many rows a prompt has at most: each begins with a special token, where there is one.

        Args:
            context_size: tokens a prompt.
            tokenizer: says whether prompts begin with a special token.

        Returns:
            Rows.
        """
        starts_special = tokenizer.bos_token_id is not None and not self.special_tokens
        return context_size - max(self.skip_first, int(starts_special))

    @property
    def seqpos_slice(self) -> tuple[int | None, ...]:
        """The positions that count, as SAELens says it."""
        return (self.skip_first, None) if self.skip_first else (None,)


EVERY_ROW = RowSettings()
"""All rows but those of special tokens."""


def require_rows(rows: RowSettings, context_size: int) -> None:
    """Refuse settings under which no position of a prompt counts.

    Args:
        rows: which rows count.
        context_size: tokens a prompt.

    Raises:
        UsageError: no position is left.
    """
    if rows.skip_first >= context_size - 1:
        raise UsageError(
            f"rows: skip_first={rows.skip_first} leaves too little of {context_size} positions: skip fewer, or raise "
            "context_size"
        )


class RowsRecord(Record):
    """The rows of held-out prompts that counted, for one layer."""

    hook_in: str
    tokens: int
    rows: int = Field(description="tokens that counted")
    positions: int = Field(description="tokens left out at the first positions")
    special: int = Field(description="special tokens, at later positions")
    norms: int = Field(description="tokens of extreme norm")
    rows_for_half: float | None = Field(
        description="the least share of the rows that makes more than half of the variance that FVU divides by; None "
        "in earlier results, where the layer puts out the same everywhere"
    )


def say_rows(where: str, counts: "LeftOutCounts | None", spread: "VarianceConcentration | None") -> None:
    """Say on stderr what was left out, and warn where a few rows make most of the variance.

    Args:
        where: what is said of which rows.
        counts: how many rows were left out, and why; None says nothing.
        spread: how the output's variance is spread over rows; None says nothing.
    """
    if counts is not None:
        say(f"{where}: {counts}")
    if spread is not None and spread.warning:
        say(f"warning: {where}: {spread.warning}; {ADVICE}")
