import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from faithfulness_plugin.inspection.top_rows import TopRows


def found(acts: torch.Tensor, groups: torch.Tensor, most: int, chunk: int) -> TopRows:
    tops = TopRows(groups, acts.shape[1], most)
    for start in range(0, len(acts), chunk):
        tops.add(csr_array(acts[start : start + chunk].numpy()), start)
    return tops


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 4), st.integers(1, 31))
def test_as_by_sorting_each_feature(seed, n, most, chunk):
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randint(-6, 7, (n, 5), generator=generator).clamp_min(0).float()  # with ties
    groups = torch.randint(max(1, n // 2), (n,), generator=generator)
    tops = found(acts, groups, most, chunk)
    for i in range(5):
        order = sorted((row for row in range(n) if acts[row, i] > 0), key=lambda row: (-acts[row, i].item(), row))
        distinct, seen = [], set()
        for row in order:
            if groups[row].item() not in seen:
                seen.add(groups[row].item())
                distinct.append(row)
        expected = [*distinct[:most], *[-1] * most][:most]
        assert tops.rows[i].tolist() == expected
        assert tops.values[i].tolist() == [acts[row, i].item() if row >= 0 else 0.0 for row in expected]
