"""Measure one transcoder: a number a feature, and what it does with first letters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, vstack

from faithfulness_plugin.benchmarks.readability.config import ReadabilityConfig
from faithfulness_plugin.benchmarks.readability.layer_rows import LayerRows, probed_words
from faithfulness_plugin.benchmarks.readability.schema import FeatureNumbers, LetterRecord, Numbers
from faithfulness_plugin.benchmarks.real_layers.config import Run
from faithfulness_plugin.display import short_repr
from faithfulness_plugin.inspection.duplicate_features import duplicate_features, largest_cosines
from faithfulness_plugin.inspection.hooked_reading import acts_and_output, acts_at
from faithfulness_plugin.inspection.hooked_transcoder import hooked
from faithfulness_plugin.inspection.top_rows import TopRows
from faithfulness_plugin.metrics.readability.absorption import absorption
from faithfulness_plugin.metrics.readability.context_coherence import top_cosines
from faithfulness_plugin.metrics.readability.firing_rates import firing_rates
from faithfulness_plugin.metrics.readability.main_features import main_features
from faithfulness_plugin.metrics.readability.prediction import prediction
from faithfulness_plugin.metrics.readability.skip_share import SkipShare, skip_share

AT_A_TIME = 2048  # rows


@dataclass(frozen=True)
class Encoded:
    """A transcoder on the rows of a text."""

    acts: Any
    """A sparse matrix [rows, d_sae] of scipy."""
    skip: SkipShare | None

    __repr__ = short_repr


@torch.no_grad()
def encoded(transcoder: Any, rows: LayerRows) -> Encoded:
    """Run a transcoder on the rows of a text.

    Args:
        transcoder: with SAELens's hooks, in `eval` mode.
        rows: the text.

    Returns:
        The activations, and what a skip connection carries.
    """
    parts, outputs, skips = [], [], []
    W_skip = getattr(transcoder, "W_skip", None)
    for x in rows.x.to(transcoder.W_dec).split(AT_A_TIME):
        acts, output = acts_and_output(transcoder, x)
        parts.append(csr_array(acts.double().numpy()))
        if W_skip is not None:
            outputs.append(output)
            skips.append(x @ W_skip.T)
    if W_skip is None:
        return Encoded(vstack(parts, format="csr"), None)
    share = skip_share(torch.cat(skips).numpy(), torch.cat(outputs).numpy(), rows.y.numpy())
    return Encoded(vstack(parts, format="csr"), share)


def measured(transcoder: Any, run: Run, rows: LayerRows, config: ReadabilityConfig) -> FeatureNumbers:
    """Measure one transcoder.

    Args:
        transcoder: any that `load_transcoder` returns, in `eval` mode.
        run: which one it is.
        rows: its layer on text and words.
        config: thresholds.

    Returns:
        The record.
    """
    inspected = hooked(transcoder, rows.x[:1])
    on_text, n_rows = encoded(inspected, rows), len(rows.x)
    acts = on_text.acts
    fires = np.diff(acts.tocsc().indptr)
    often = fires >= config.least_firings
    predicted = prediction(acts.tocsc()[:, np.flatnonzero(often)], rows.halves)
    top = TopRows(torch.from_numpy(rows.prompts), acts.shape[1], config.top)
    top.add(acts, 0)
    coherence = top_cosines(rows.unit, top.rows) - rows.record.random_cosine
    W_enc, W_dec = (of.detach().double().numpy() for of in (inspected.W_enc, inspected.W_dec))
    live = np.flatnonzero(fires)
    duplicates = duplicate_features(W_enc[:, live], W_dec[live], config.duplicate_radius)
    nearest = largest_cosines(W_dec[live]) if len(live) > 1 else np.full(len(live), np.nan)
    # E[a^2] ||W_dec||^2, [d_sae]
    energy = np.asarray(acts.multiply(acts).sum(0)).ravel() / n_rows * (W_dec**2).sum(1)
    skip = on_text.skip
    return FeatureNumbers(
        block=run.block,
        kind=run.kind,
        arm=run.arm,
        seed=run.seed,
        n_rows=n_rows,
        fires=fires.tolist(),
        duplicate=live[duplicates].tolist(),
        nearest=_numbers(_spread(nearest, fires > 0)),
        r2_token=_numbers(_spread(predicted.token, often)),
        r2_neighbours=_numbers(_spread(predicted.neighbours, often)),
        coherence=_numbers(np.where(often, coherence, np.nan)),
        energy=[float(f"{value:.3g}") for value in energy],
        log10_rate_quantiles=list(firing_rates(fires, n_rows).quantiles),
        skip_carried=None if skip is None else skip.carried,
        skip_of_output=None if skip is None else skip.of_output,
        letters=letter_records(inspected, rows, config),
    )


@torch.no_grad()
def letter_records(transcoder: Any, rows: LayerRows, config: ReadabilityConfig) -> list[LetterRecord] | None:
    """Find each letter's main features, and count the words at which another feature takes their place.

    Args:
        transcoder: with SAELens's hooks, in `eval` mode.
        rows: its layer, at words too.
        config: which letters count.

    Returns:
        A record for each letter that can be read off the layer; None where too few are.
    """
    letters, spelling = rows.record.letters(config), rows.spelling
    if len(letters) < config.least_letters:
        return None
    acts = csr_array(acts_at(transcoder, spelling.x.to(transcoder.W_dec)).double().numpy())
    n, W_dec = spelling.n_fit, transcoder.W_dec.double().numpy()
    fit, test, actual = acts[:n], acts[n:], spelling.letters
    beyond, found = spelling.y[n:] - spelling.probes.center, []
    for letter in letters:
        main = main_features(fit, actual[:n] == letter, test, actual[n:] == letter)
        probed = probed_words(spelling, letter)
        direction = spelling.probes.directions[letter]
        counted = absorption(test[probed].toarray(), W_dec, beyond[probed], direction, main.features)
        name = chr(ord("a") + letter)
        found.append(LetterRecord(letter=name, main=list(main.features), f1=list(main.f1), **counted.to_dict()))
    return found


def _spread(values: Float[np.ndarray, " some"], at: Bool[np.ndarray, " d_sae"]) -> Float[np.ndarray, " d_sae"]:
    """Put values of some features at their places, and NaN at the others."""
    spread = np.full(len(at), np.nan)
    spread[at] = values
    return spread


def _numbers(values: Float[np.ndarray, " d_sae"]) -> Numbers:
    """Return values as a result keeps them: None for NaN, and few digits."""
    return [None if np.isnan(value) else round(float(value), 3) for value in values]
