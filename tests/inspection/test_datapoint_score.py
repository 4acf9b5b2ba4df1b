import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from faithfulness_plugin.inspection.datapoint_score import LEAST_ROWS, DatapointSums


def scored(acts, along, energy, groups, chunk=1000):
    sums = DatapointSums(groups, acts.shape[1])
    for start in range(0, len(acts), chunk):
        part = slice(start, min(start + chunk, len(acts)))
        written = csr_array((acts * along)[part].numpy())
        sums.add(csr_array(acts[part].numpy()), written, energy[part].numpy(), part)
    return sums.scores()


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_as_over_all_pairs_of_rows(seed, chunk):
    generator = torch.Generator().manual_seed(seed)
    n = 24
    acts = torch.randn(n, 3, generator=generator, dtype=torch.float64).clamp_min(0)
    along = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    energy = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
    groups = torch.randint(9, (n,), generator=generator)
    groups = groups.unique(return_inverse=True)[1]
    found = scored(acts, along, energy, groups, chunk)
    for i in range(3):
        pairs = [(a, b) for a in range(n) for b in range(n) if a != b]
        weight = sum((acts[a, i] * acts[b, i]).item() for a, b in pairs)
        same = sum((acts[a, i] * acts[b, i]).item() for a, b in pairs if groups[a] == groups[b])
        concentration = same / weight if weight else 0.0
        assert found.concentration[i] == pytest.approx(concentration, abs=1e-9)
        mass = {g: acts[groups == g, i].sum().item() for g in groups.unique().tolist() if (groups == g).sum() > 1}
        mass = {g: m for g, m in mass.items() if m > 0}
        if not mass:
            assert found.group[i] == -1
            continue
        most = max(mass, key=lambda g: mass[g])
        here = groups == most
        alone = ((acts[:, i] * along[:, i])[here].sum() / energy[here].sum()).item()
        assert found.group[i] == most
        assert found.alone[i] == pytest.approx(alone)
        enough = (acts[:, i] > 0).sum() >= LEAST_ROWS
        expected = np.clip(concentration, 0, 1) * np.clip(alone, 0, 1) if enough else 0.0
        assert found.score[i] == pytest.approx(expected, abs=1e-9)


def test_copies_alone_give_one_single_rows_none_and_a_feature_that_fires_both_ways_something_between():
    groups = torch.tensor([0] * 10 + list(range(1, 11)))
    acts = torch.zeros(20, 3, dtype=torch.float64)
    acts[:10, 0] = 1.0
    acts[10:, 1] = 1.0
    acts[:, 2] = 1.0
    found = scored(acts, torch.ones(20, 3).double(), torch.ones(20).double(), groups)
    assert found.score[:2].tolist() == [1.0, 0.0]
    assert found.score[2] == pytest.approx(90 / 380)


def test_what_fires_too_rarely_is_not_judged():
    groups = torch.zeros(4, dtype=torch.long)
    found = scored(torch.ones(4, 1).double(), torch.ones(4, 1).double(), torch.ones(4).double(), groups)
    assert (found.concentration[0], found.alone[0], found.score[0]) == (1.0, 1.0, 0.0)
