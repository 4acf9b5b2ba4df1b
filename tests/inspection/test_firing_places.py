import numpy as np
import torch

from faithfulness_plugin.inspection import firing_places
from faithfulness_plugin.inspection.firing_places import PlaceCounts
from faithfulness_plugin.inspection.sample import Origins


def counted(acts, origins):
    counts = PlaceCounts(origins, acts.shape[1])
    for part in (slice(0, 50), slice(50, len(acts))):
        row, feature = acts[part].nonzero(as_tuple=True)
        counts.add((row + part.start).numpy(), feature.numpy())
    return counts.places()


def made():
    kept = torch.ones(12, 20, dtype=torch.bool)
    kept[:, 0] = kept[3, 7] = False
    origins = Origins.of_kept(torch.randint(30, kept.shape), kept)
    acts = torch.rand(len(origins.prompt), 7) * (torch.rand(len(origins.prompt), 7) < torch.arange(7) / 8)
    return acts, origins


def test_rates_by_position_and_by_token():
    acts, origins = made()
    found = counted(acts, origins)
    fired, tokens = (acts > 0).numpy(), origins.tokens[origins.prompt, origins.position].numpy()
    ends = [*found.first[1:].tolist(), 20]
    for b, (first, end) in enumerate(zip(found.first, ends, strict=True)):
        here = ((origins.position >= first) & (origins.position < end)).numpy()
        np.testing.assert_allclose(found.by_position[:, b], fired[here].mean(0))
    for i in range(7):
        counts = np.bincount(tokens[fired[:, i]], minlength=30)
        there = found.tokens[i] >= 0
        assert there.sum() == min(6, (counts > 0).sum())
        assert found.counts[i, there].tolist() == sorted(counts[counts > 0].tolist(), reverse=True)[:6]
        for token, count, rate in zip(found.tokens[i][there], found.counts[i], found.rates[i], strict=False):
            assert count == counts[token]
            assert rate == count / (tokens == token).sum()


def test_with_too_many_pairs_the_common_ones_are_kept(monkeypatch):
    acts, origins = made()
    whole = counted(acts, origins)
    monkeypatch.setattr(firing_places, "ENTRIES", 20)
    few = counted(acts, origins)
    assert (few.counts[6] <= whole.counts[6]).all()
    assert few.counts[6, 0] > 1
