"""A layer at the held-out tokens that count: everything there that no transcoder changes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.rows import RowsRecord, say_rows
from faithfulness_plugin.layers.derivatives import layer_output
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.metrics.variance_concentration import variance_concentration
from faithfulness_plugin.store.fill import rows_kept
from faithfulness_plugin.store.kept_rows import KeptRows, evenly

RELATIVE_TO_NOTHING = "relative errors are undefined: choose another layer, or other text"


def to_digits(values: Sequence[float]) -> list[float]:
    """Round to six digits, as records keep sums.

    Args:
        values: sums.

    Returns:
        The rounded ones.
    """
    return [float(f"{v:.6g}") for v in values]


@dataclass(frozen=True)
class Rows:
    """Inputs of a layer, with the prompt that each is from."""

    x: Float[Tensor, "rows d_in"]
    prompt: Int[Tensor, " rows"]
    n_prompts: int

    __repr__ = short_repr

    def by_prompt(self, values: Float[Tensor, " rows"]) -> list[float]:
        """Sum over the rows of each prompt, to six digits.

        Args:
            values: one a row.

        Returns:
            One sum a prompt.
        """
        sums = torch.zeros(self.n_prompts, dtype=torch.float64, device=values.device)
        return to_digits(sums.index_add(0, self.prompt, values.double()).tolist())

    def spread(self, n: int) -> "Rows":
        """Choose rows, evenly spread over all.

        Args:
            n: how many; all where there are fewer.

        Returns:
            These rows.
        """
        return self._at(evenly(len(self.x), n))

    def spread_by_prompt(self, n: int) -> "Rows":
        """Choose rows of each prompt, evenly spread.

        Args:
            n: how many of each; all where there are fewer.

        Returns:
            These rows.
        """
        places = [(self.prompt == prompt).nonzero().flatten() for prompt in range(self.n_prompts)]
        return self._at(torch.cat([p[evenly(len(p), n)] for p in places]))

    def _at(self, places: Int[Tensor, " some"]) -> "Rows":
        return Rows(self.x[places], self.prompt[places], self.n_prompts)


@dataclass(frozen=True)
class LayerRows:
    """What a layer reads and writes at the tokens that count, read once and kept."""

    hooks: Hooks
    layer: HookedLayer
    tokens: Int[Tensor, "prompts pos"]
    kept: KeptRows
    batch_size: int
    """Prompts that the model is run on at a time."""

    @cached_property
    def rows(self) -> Rows:
        """The layer's inputs."""
        name, mask = self.layer.hook_in, self.kept.mask
        x = rows_kept(self.hooks, {name}, self.tokens, mask, self.batch_size)[name]
        return Rows(x, mask.nonzero()[:, 0].to(x.device), len(mask))

    @cached_property
    def outputs(self) -> Float[Tensor, "rows d_out"]:
        """f at every row. Raises UsageError where it is the same at all of them."""
        y = layer_output(self.layer, self.rows.x)
        if not (y != y[0]).any():
            raise UsageError(f"{self.named} puts out the same at all {len(y):,} rows, so that {RELATIVE_TO_NOTHING}")
        return y

    @property
    def variance(self) -> Float[Tensor, "rows d_out"]:
        """(f - E f)^2, coordinate by coordinate."""
        return (self.outputs - self.outputs.mean(0)).square()

    @property
    def named(self) -> str:
        """What messages call the layer."""
        return f"the layer from {self.layer.hook_in} to {self.layer.hook_out}"

    def record(self) -> RowsRecord:
        """Record which rows count, and say it on stderr; warn where a few of them make most of the variance.

        Returns:
            The record.
        """
        hook_in, counts, spread = self.layer.hook_in, self.kept.counts, variance_concentration(self.outputs)
        say_rows(f"held-out rows at {hook_in}", counts, spread)
        return RowsRecord(hook_in=hook_in, rows=counts.rows, **asdict(counts), rows_for_half=spread.rows_for_half)
