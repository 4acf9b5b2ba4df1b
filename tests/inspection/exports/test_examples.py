"""Examples of features, against what the transcoder does on the text."""

from typing import Any

import inspected
import numpy as np
import pytest
import torch

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.details import AFTER, BEFORE
from faithfulness_plugin.inspection.exports.examples import BANDS, feature_examples, require_text
from faithfulness_plugin.inspection.hooked_reading import acts_at

pytestmark = pytest.mark.usefixtures("as_installed")


def everywhere(of) -> np.ndarray:
    """The activations [prompts, pos, d_sae], 0 where a token is left out."""
    with torch.no_grad():
        acts = acts_at(of.transcoder, of.sample.x).float().numpy()
    dense = np.zeros((*of.sample.origins.tokens.shape, acts.shape[1]), np.float32)
    dense[of.sample.origins.prompt, of.sample.origins.position] = acts
    return dense


def stretches(dense: np.ndarray, feature: int) -> dict[tuple[int, tuple[float, ...]], tuple[int, int]]:
    """All stretches around a position, by its place in them and the activations to four digits: (prompt, position)."""
    found = {}
    for prompt, acts in enumerate(dense[:, :, feature]):
        for position in range(len(acts)):
            start = max(0, position - BEFORE)
            around = tuple(float(f"{a:.4g}") for a in acts[start : position + AFTER + 1])
            found[position - start, around] = (prompt, position)
    return found


def test_examples_lie_in_their_bands_and_show_what_stands_there():
    of: Any = inspected.text(n_prompts=30)
    dense, texts = everywhere(of), [list(map(inspected.token_text, p)) for p in of.sample.origins.tokens.tolist()]
    for found in feature_examples(of, of.sample.origins, inspected.token_text):
        acts = dense[:, :, found.feature]
        positive, places, shown = acts[acts > 0], stretches(dense, found.feature), []
        assert found.top.high == pytest.approx(acts.max())
        for band in (found.top, *found.below):
            for example in band.examples:
                prompt, position = places[example.at, tuple(example.acts)]
                start = max(0, position - BEFORE)
                assert example.tokens == texts[prompt][start : position + AFTER + 1]
                assert band.low * 0.999 <= acts[prompt, position] <= band.high * 1.001
                shown.append((prompt, position))
        assert len(set(shown)) == len(shown)
        expected = np.sort(acts, axis=None)[::-1][: len(found.top.examples)]
        np.testing.assert_allclose([e.acts[e.at] for e in found.top.examples], expected, rtol=1e-3)
        assert [band.high for band in found.below] == pytest.approx([acts.max() * k / BANDS for k in (3, 2, 1)])
        assert sum(band.share for band in found.below) == pytest.approx(1)
        assert all(b.share == pytest.approx(((positive > b.low) & (positive <= b.high)).mean()) for b in found.below)
        np.testing.assert_allclose(found.percentiles, np.quantile(positive, np.arange(1, 101) / 100), rtol=1e-3)


def test_features_come_in_order_however_many_fit_in_memory(monkeypatch):
    of: Any = inspected.text()
    whole = list(feature_examples(of, of.sample.origins, None))
    monkeypatch.setattr("faithfulness_plugin.inspection.exports.examples.ENTRY", 2**24)
    parts = list(feature_examples(of, of.sample.origins, None))
    assert [found.feature for found in parts] == list(range(of.records.d_sae))
    assert [found._replace(top=found.top._replace(share=0)) for found in parts] == [
        found._replace(top=found.top._replace(share=0)) for found in whole
    ]


def test_copies_of_a_row_are_shown_once():
    of: Any = inspected.text()
    of.sample.groups.zero_()  # all rows are near-duplicates
    for found in feature_examples(of, of.sample.origins, None):
        assert not any(band.examples for band in found.below)  # the top rows stand for them


def test_a_feature_that_never_fires_has_no_examples():
    of: Any = inspected.text(dead=7)
    found = list(feature_examples(of, of.sample.origins, None))[7]
    assert found.top.high == 0
    assert not found.percentiles
    assert not any(band.examples for band in (found.top, *found.below))


def test_rows_without_text_are_refused():
    (of,) = inspected.toy()
    with pytest.raises(UsageError, match="Neuronpedia explains features on text, and these rows are of none: inspect"):
        require_text(of.sample, "Neuronpedia")
