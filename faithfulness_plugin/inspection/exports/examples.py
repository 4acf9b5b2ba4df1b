"""What dashboards show of a feature: tokens and activations where it is most active, and where it is less so."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.sparse import csc_array, vstack

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.details import AFTER, BEFORE
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.sample import GIB, Origins, RowSample
from faithfulness_plugin.inspection.token_text import token_texts
from faithfulness_plugin.store.kept_rows import evenly

BANDS = 3
"""Equal parts of (0, maximum]."""
PER_BAND = 5
ENTRY = 32
"""Bytes that an activation takes while those of all rows are put together."""


class Example(NamedTuple):
    """A stretch of a prompt."""

    tokens: list[str]
    acts: list[float]
    """The feature's activation at each, to four digits."""
    at: int
    """Which of the tokens the example is shown for."""


class Band(NamedTuple):
    """Examples in which the activation lies in (low, high]; of the top band low is the least of its examples."""

    low: float
    high: float
    share: float
    """How many of the feature's activations lie there; NaN for the top band."""
    examples: list[Example]


class FeatureExamples(NamedTuple):
    """One feature's."""

    feature: int
    top: Band
    below: list[Band]
    """From the largest activations to the smallest."""
    percentiles: list[float]
    """Of its activations, the 1st to the 100th; none for a feature that never fires."""


def require_text(sample: RowSample, reader: str) -> Origins:
    """Return where the rows of a sample come from.

    Args:
        sample: what was inspected.
        reader: the tool that an export is for.

    Returns:
        Their prompts and positions.

    Raises:
        UsageError: they come from no text.
    """
    if sample.origins is None:
        raise UsageError(
            f"{reader} explains features on text, and these rows are of none: inspect a language model's layer"
        )
    return sample.origins


def feature_examples(
    of: Inspection, origins: Origins, token_text: Callable[[int], str] | None, per_band: int = PER_BAND
) -> Iterator[FeatureExamples]:
    """Find examples of every feature.

    Rows that are near-duplicates of each other are shown once. Within a band examples are spread evenly over the text.

    Args:
        of: what was inspected.
        origins: where its rows come from (`require_text`).
        token_text: as in `token_texts`.
        per_band: how many examples at most in each band below the top.

    Yields:
        The examples of feature 0, 1, ...
    """
    text = _Text(origins, token_text)
    groups = of.sample.groups.numpy()
    for first, acts in _by_feature(of):
        for column in range(acts.shape[1]):
            span = slice(acts.indptr[column], acts.indptr[column + 1])
            rows, values, feature = acts.indices[span], acts.data[span], first + column
            positive = values > 0
            rows, values = rows[positive], values[positive]
            top = of.records.top_rows[feature]
            top = top[top >= 0]
            shown = text.around(top, rows, values)
            least = shown[-1].acts[shown[-1].at] if shown else 0.0
            largest = float(values.max(initial=0.0))
            below = []
            taken = groups[top]
            for low, high in ((largest * k / BANDS, largest * (k + 1) / BANDS) for k in reversed(range(BANDS))):
                inside = rows[(values > low) & (values <= high)]
                chosen = _spread(inside, groups, taken, per_band)
                taken = np.concatenate([taken, groups[chosen]])
                below.append(Band(low, high, len(inside) / max(1, len(rows)), text.around(chosen, rows, values)))
            percentiles = np.quantile(values, np.arange(1, 101) / 100).tolist() if len(values) else []
            yield FeatureExamples(feature, Band(least, largest, float("nan"), shown), below, rounded(percentiles))


def rounded(values: Sequence[float]) -> list[float]:
    """Round to four digits, which files show.

    Args:
        values: any numbers.

    Returns:
        Them, rounded.

    Example:
        >>> rounded([0.123456, 98765.4321, 0.0])
        [0.1235, 98770.0, 0.0]
    """
    return [float(f"{value:.4g}") for value in values]


def _by_feature(of: Inspection) -> Iterator[tuple[int, Any]]:
    """Yield the activations [rows, some features] by column, with the first of these features; as many features at a
    time as a quarter of the sample's memory holds."""
    entries = np.rint(of.records.firing_rate * len(of.sample)).cumsum()
    part = (entries * ENTRY // (of.sample.memory * GIB / 4)).astype(int)
    for features in np.split(np.arange(len(part)), np.flatnonzero(np.diff(part)) + 1):
        here = slice(int(features[0]), int(features[-1]) + 1)
        parts = of.activations.parts(of.sample.memory)
        yield here.start, csc_array(vstack([of.activations.part(rows)[:, here] for rows in parts]))


def _spread(
    rows: Int[np.ndarray, " some"], groups: Int[np.ndarray, " rows"], taken: Int[np.ndarray, " shown"], n: int
) -> Int[np.ndarray, " chosen"]:
    """Choose n rows of different groups that are not taken, spread evenly."""
    _, first = np.unique(groups[rows], return_index=True)
    fresh = np.sort(rows[first])
    fresh = fresh[~np.isin(groups[fresh], taken)]
    return fresh[evenly(len(fresh), n).numpy()] if len(fresh) else fresh


class _Text:
    """The tokens of a sample, and where its rows stand among them."""

    def __init__(self, origins: Origins, token_text: Callable[[int], str] | None) -> None:
        self.tokens = [token_texts(token_text, prompt) for prompt in origins.tokens.tolist()]
        self.prompt, self.position = origins.prompt.numpy(), origins.position.numpy()
        self.row_at = origins.row_at.numpy()

    def around(
        self, chosen: Int[np.ndarray, " chosen"], rows: Int[np.ndarray, " active"], values: np.ndarray
    ) -> list[Example]:
        """Return the tokens around rows, with the activations of a feature that is active at `rows`."""
        examples = []
        for prompt, position in zip(self.prompt[chosen].tolist(), self.position[chosen].tolist(), strict=True):
            start, stop = max(0, position - BEFORE), position + AFTER + 1
            at = self.row_at[prompt, start:stop]  # rows of these tokens; -1 where one is left out
            place = np.searchsorted(rows, at).clip(max=len(rows) - 1)
            acts = np.where(rows[place] == at, values[place], 0.0)
            examples.append(Example(self.tokens[prompt][start:stop], rounded(acts.tolist()), position - start))
        return examples
