"""The ensemble against its slow twin, `train_transcoder`, member by member and step by step."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithfulness_plugin import (
    AbsInputs,
    AbsNetwork,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    metrics,
    train_transcoder,
)
from faithfulness_plugin.benchmarks.controls import NoiseAugmentedTranscoder, NoiseAugmentedTranscoderConfig
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.ensemble import learning_rates, train_ensemble
from faithfulness_plugin.toy.member import Augmentation, ToyMember
from faithfulness_plugin.toy.program import Program
from faithfulness_plugin.transcoders.base import NonFiniteError

SCHEDULE = {"n_steps": 12, "lr": 3e-3, "lr_warm_up_steps": 3, "lr_decay_steps": 4}
JACOBIANS: dict[str, dict[str, Any]] = {
    "none": {},
    "jvp": {"estimator": "jvp"},
    "jittered jvp": {"estimator": "jvp", "jitter": 0.5},
    "jvp, several probes": {"estimator": "jvp", "n_probes": 3, "jitter": 0.2, "probe": "gaussian"},
    "jvp, differences, no unit": {"estimator": "jvp", "probe": "difference", "normalize": False},
    "jvp, straight-through gates": {"estimator": "jvp", "gate_bandwidth": 0.4, "n_probes": 2, "jitter": 0.3},
    "jvp, straight-through gates at the rows": {"estimator": "jvp", "gate_bandwidth": 0.4},
    "vjp": {"estimator": "vjp", "probe": "sphere"},
    "vjp, straight-through gates": {"estimator": "vjp", "jitter": 0.4, "gate_bandwidth": 0.3, "n_probes": 2},
    "exact": {"estimator": "exact"},
    "exact, pairs": {"estimator": "exact", "probe": "pair"},
    "exact, differences": {"estimator": "exact", "probe": "difference", "jitter": 0.1},
    "secant": {"estimator": "secant"},
    "jittered secant": {"estimator": "secant", "jitter": 0.3, "n_probes": 2},
    "central secant": {"estimator": "secant", "central": True, "n_probes": 2},
    "jittered central secant, pairs": {"estimator": "secant", "central": True, "jitter": 0.3, "probe": "pair"},
}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def member(kind: str = "none", seed: int = 0, augmentation: Augmentation | None = None, **fields: Any) -> ToyMember:
    data = {name: fields.pop(name) for name in ("density", "repeat_frac", "n_ones") if name in fields}
    jacobian = {"jacobian": {**JACOBIANS[kind], "seed": seed}} if kind != "none" else {}
    config = StandardTrainingTranscoderConfig(
        **{
            "d_in": 5,
            "d_sae": 12,
            "dtype": "float64",
            "jacobian_coefficient": 0.7 if jacobian else 0.0,
            "jacobian_warm_up_steps": 5,
            **jacobian,
            **fields,
        }
    )
    data = {"density": 0.4, "repeat_frac": 0.1, **data}
    return ToyMember(transcoder=config, seed=seed, batch_size=16, augmentation=augmentation, **data)


class InDoublePrecision:
    """The member's rows, in its transcoder's dtype."""

    def __init__(self, of: ToyMember) -> None:
        self.inputs, self.batch_size, self.dtype = of.inputs(), of.batch_size, getattr(torch, of.transcoder.dtype)

    def __next__(self) -> torch.Tensor:
        return next(self.inputs).to(self.dtype)

    def __iter__(self):
        return self


def alone(of: ToyMember, layer: Any, **schedule: Any):
    """What the member is, by the public single-model path."""
    config, fields = of.transcoder, dict(vars(of.transcoder))
    transcoder_class: Any = StandardTrainingTranscoder
    if of.augmentation:
        transcoder_class = NoiseAugmentedTranscoder
        added = {f"augmentation_{name}": value for name, value in vars(of.augmentation).items()}
        config = NoiseAugmentedTranscoderConfig(**fields, **added)
    torch.manual_seed(derived_seed(of.seed, "weights"))
    transcoder = transcoder_class(config)
    return train_transcoder(transcoder, layer, InDoublePrecision(of), log_every=1, progress=False, **schedule)


def assert_same(ensemble, i: int, single) -> None:
    for here, there in zip(ensemble.history[i], single.history, strict=True):
        assert here == pytest.approx(there, rel=1e-10, abs=1e-12)
    taken_out = ensemble.transcoder(i)
    for name, weight in taken_out.named_parameters():
        torch.testing.assert_close(weight, single.transcoder.get_parameter(name), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", JACOBIANS)
@pytest.mark.parametrize("sparsity", ["tanh", "l1"])
def test_every_member_is_the_transcoder_trained_alone_step_by_step(kind, sparsity):
    fields = {"sparsity": sparsity, "gradient_masking_coefficient": 0.05 if kind != "none" else 0.0}
    members = [
        member(kind, seed=1, **fields),
        member(kind, seed=2, sparsity_coefficient=0.05, tanh_scale=3.0, density=0.9, **fields),
        member(kind, seed=1, repeat_frac=0.3, n_ones=2, sparsity_warm_up_steps=4, **fields),
    ]
    layer = AbsNetwork(5).double()
    ensemble = train_ensemble(members, layer, log_every=1, progress=False, **SCHEDULE)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, layer, **SCHEDULE))


@pytest.mark.parametrize("kind", ["none", "jittered jvp", "secant"])
@pytest.mark.parametrize("augmentation", [Augmentation("noise", 1.3, 0.4), Augmentation("interpolation", 0.7)])
def test_so_is_a_member_with_augmentation(kind, augmentation):
    members = [member(kind, seed, augmentation) for seed in (3, 4)]
    layer = AbsNetwork(5).double()
    ensemble = train_ensemble(members, layer, log_every=1, progress=False, **SCHEDULE)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, layer, **SCHEDULE))


def test_any_layer_will_do_of_any_output_width(mlp):
    members = [member("jvp", 1, d_out=4), member("exact", 2, d_out=4)]
    ensemble = train_ensemble(members, mlp, log_every=1, progress=False, **SCHEDULE)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, mlp, **SCHEDULE))


def test_in_single_precision_the_rows_the_weights_and_the_metrics_are_the_same():
    of = member("jittered jvp", seed=5, dtype="float32", d_in=6, d_sae=16)
    layer = AbsNetwork(6)
    schedule = {**SCHEDULE, "n_steps": 300}
    ensemble = train_ensemble([of, member("secant", seed=6, dtype="float32", d_in=6, d_sae=16)], layer, **schedule)
    single, taken_out = alone(of, layer, **schedule).transcoder, ensemble.transcoder(0)
    x = next(AbsInputs(6, density=0.5, batch_size=2000))
    for here, there in (
        (metrics.reconstruction(taken_out, layer, x), metrics.reconstruction(single, layer, x)),
        (metrics.jacobian_error(taken_out, layer, x), metrics.jacobian_error(single, layer, x)),
    ):
        numbers = {k: v for k, v in here.to_dict().items() if not isinstance(v, str)}
        assert numbers == pytest.approx({k: there.to_dict()[k] for k in numbers}, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", ["none", "jittered jvp", "secant"])
@pytest.mark.parametrize(("d_in", "d_sae"), [(8, 32), (5, 13)])
def test_a_member_does_not_depend_on_its_neighbours_to_the_bit(kind, d_in, d_sae, one_thread):
    members = [
        member(kind, seed, dtype="float32", d_in=d_in, d_sae=d_sae, density=0.1 * (1 + seed % 3)) for seed in range(7)
    ]
    layer, schedule = AbsNetwork(d_in), {**SCHEDULE, "n_steps": 60}
    together = train_ensemble(members, layer, **schedule)
    for numbers in ([3], [6, 3], [5, 0, 3, 2]):
        some = train_ensemble([members[i] for i in numbers], layer, **schedule)
        for n, i in enumerate(numbers):
            for here, there in zip(some.weights[n], together.weights[i], strict=True):
                assert torch.equal(here, there)


@settings(max_examples=8)
@given(stop=st.integers(1, 29), every=st.integers(1, 9))
def test_resumed_after_a_kill_at_any_step_it_is_the_uninterrupted_run(tmp_path_factory, stop, every):
    members = [member("jittered jvp", 1), member("secant", 2), member("none", 3, Augmentation())]
    layer, schedule = AbsNetwork(5).double(), {**SCHEDULE, "n_steps": 30, "log_every": 4}
    path = tmp_path_factory.mktemp("killed") / "shard.pt"
    calls = 0

    def killed(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 4 * stop:
            raise KeyboardInterrupt
        return layer(x)

    with pytest.raises(KeyboardInterrupt):
        train_ensemble(members, killed, checkpoint=path, checkpoint_every=every, progress=False, **schedule)
    resumed = train_ensemble(members, layer, checkpoint=path, checkpoint_every=every, progress=False, **schedule)
    whole = train_ensemble(members, layer, progress=False, **schedule)
    assert resumed.history == whole.history
    for here, there in zip(resumed.weights, whole.weights, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    again = train_ensemble(members, layer, checkpoint=path, progress=False, **schedule)
    assert again.history == whole.history  # complete: nothing is trained


def test_a_checkpoint_of_other_members_or_settings_is_refused_and_kept(tmp_path):
    path, layer = tmp_path / "shard.pt", AbsNetwork(5).double()
    train_ensemble([member()], layer, checkpoint=path, **SCHEDULE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="n_steps 12, not 13"):
        train_ensemble([member()], layer, checkpoint=path, **{**SCHEDULE, "n_steps": 13})
    with pytest.raises(ValueError, match=r"other settings \(members"):
        train_ensemble([member(seed=1)], layer, checkpoint=path, **SCHEDULE)
    assert path.read_bytes() == before
    path.write_bytes(before[:100])
    with pytest.raises(ValueError, match="may be corrupt: move it away"):
        train_ensemble([member()], layer, checkpoint=path, **SCHEDULE)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path, layer = tmp_path / "shard.pt", AbsNetwork(5).double()
    written = []

    def save(state, file):
        if written:
            file.write_bytes(b"torn")
            raise OSError(28, "No space left on device")
        written.append(state["done"])
        original(state, file)

    original = torch.save
    monkeypatch.setattr("faithfulness_plugin.toy.ensemble.torch.save", save)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\): make room"):
        train_ensemble([member()], layer, checkpoint=path, checkpoint_every=5, **SCHEDULE)
    assert torch.load(path, weights_only=True)["done"] == 5
    assert [p.name for p in tmp_path.iterdir()] == ["shard.pt"]


def test_records_hold_what_the_caller_measures():
    seen = []

    def evaluate(i, transcoder):
        assert isinstance(transcoder, StandardTrainingTranscoder)
        assert not transcoder.training
        seen.append(i)
        return {"norm": transcoder.W_dec.norm().item()}

    members = [member(seed=0), member("jvp", seed=1), member(seed=2)]
    result = train_ensemble(members, AbsNetwork(5).double(), log_every=5, evaluate=evaluate, **SCHEDULE)
    assert [[r["step"] for r in records] for records in result.history] == [[5, 10, 12]] * 3
    assert sorted(seen) == sorted([0, 1, 2] * 3)
    for i in range(3):
        assert result.history[i][-1]["norm"] == pytest.approx(result.transcoder(i).W_dec.norm().item())


def test_members_that_differ_in_numbers_alone_are_one_program():
    of = member("jittered jvp", 1)
    assert Program.of(of) == Program.of(member("jittered jvp", 7, density=0.8, sparsity_coefficient=3.0))
    assert Program.of(of) != Program.of(member("jvp", 1))
    assert Program.of(of) != Program.of(member("jittered jvp", 1, d_sae=13))
    off = dataclasses.replace(of, transcoder=dataclasses.replace(of.transcoder, jacobian_coefficient=0.0))
    assert Program.of(off) == Program.of(member())


def test_learning_rates_are_those_of_the_trainer():
    rates = learning_rates(10, 2.0, 4, 3)
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[5:7] == pytest.approx([2.0, 2.0])
    assert rates[7:] == sorted(rates[7:], reverse=True)
    assert 0 < rates[-1] < 1


def test_bad_arguments_say_what_to_do(as_installed):
    layer = AbsNetwork(5).double()
    for match, members, changed in (
        ("at least one", [], {}),
        ("several kinds of dtype", [member(), member(dtype="float32")], {}),
        ("n_steps must be", [member()], {"n_steps": 0}),
        ("lr positive", [member()], {"lr": 0.0}),
        ("must hold the learning rate's", [member()], {"lr_warm_up_steps": 11}),
        ("count steps", [member()], {"log_every": -1}),
        ("needs a file", [member()], {"checkpoint_every": 3}),
    ):
        with pytest.raises(ValueError, match=match):
            train_ensemble(members, layer, **{**SCHEDULE, **changed})
    with pytest.raises(ValueError, match="without a skip connection"):
        member(skip=True)
    with pytest.raises(ValueError, match="choose 'noise' or 'interpolation'"):
        Augmentation("blur")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scale=0"):
        Augmentation(scale=0.0)


def test_a_member_that_diverges_is_named():
    def broken(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.abs().sum(-1, keepdim=True) > 0, x.abs(), torch.nan)

    with pytest.raises(NonFiniteError, match=r"step 12 .* member 1 \(seed 4\)"):
        train_ensemble([member(seed=3, density=1.0), member(seed=4, density=0.1)], broken, **SCHEDULE)
