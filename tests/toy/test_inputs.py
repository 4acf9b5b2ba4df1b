import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin import AbsInputs


def test_density_range_and_repetition():
    inputs = AbsInputs(10, density=0.3, repeat_frac=0.2, n_ones=3, batch_size=20_000)
    x = next(inputs)
    repeated = (x == inputs.point).all(-1)
    assert inputs.point.tolist() == [1.0] * 3 + [0.0] * 7
    assert repeated.float().mean().item() == pytest.approx(0.2, abs=0.015)
    rest = x[~repeated]
    assert (rest != 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    values = rest[rest != 0]
    assert values.min() >= -1
    assert values.max() < 1
    assert values.mean().item() == pytest.approx(0, abs=0.02)
    assert values.square().mean().item() == pytest.approx(1 / 3, abs=0.01)


def test_the_extremes():
    assert not next(AbsInputs(4, density=0.0)).any()
    assert (next(AbsInputs(4, density=1.0)) != 0).all()
    x = next(AbsInputs(4, repeat_frac=1.0))
    assert (x == torch.tensor([1.0, 1, 1, 0])).all()


@pytest.mark.exact("draws from generators in one state")
@given(seed=st.integers(0, 2**31), skip=st.integers(0, 3))
def test_seeded_endless_and_resumable(seed, skip):
    a, b = (AbsInputs(5, density=0.5, repeat_frac=0.1, batch_size=8, seed=seed) for _ in range(2))
    for _ in range(skip):
        assert torch.equal(next(a), next(b))
    state = a.state_dict()
    following = [next(a) for _ in range(3)]
    resumed = AbsInputs(5, density=0.5, repeat_frac=0.1, batch_size=8, seed=seed + 1)
    resumed.load_state_dict(state)
    assert all(torch.equal(x, y) for x, y in zip(following, resumed, strict=False))
    assert iter(a) is a


def test_a_position_in_other_data_is_refused():
    with pytest.raises(ValueError, match=r"other data \(density 1\.0, not 0\.5\): use the same settings"):
        AbsInputs(5, density=0.5).load_state_dict(AbsInputs(5).state_dict())


@pytest.mark.exact("random states")
def test_it_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    next(AbsInputs(5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"density": 1.5}, r"density=1.5 is a probability: choose it in \[0, 1\]"),
        ({"density": float("nan")}, "density=nan"),
        ({"repeat_frac": -0.1}, "repeat_frac=-0.1"),
        ({"n_ones": 5}, "n_ones=5 ones do not fit in d_in=4 coordinates: choose 1 to 4"),
        ({"n_ones": 0}, "n_ones=0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_arguments_say_what_is_wanted(fields, message):
    with pytest.raises(ValueError, match=message):
        AbsInputs(4, **fields)
