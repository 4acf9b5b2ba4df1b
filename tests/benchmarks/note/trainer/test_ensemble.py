"""The ensemble against its slow twin, `train_transcoder`, member by member and step by step."""

import dataclasses
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithfulness_plugin import (
    AbsInputs,
    AbsNetwork,
    BatchTopKTrainingTranscoderConfig,
    JumpReLUTrainingTranscoderConfig,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    TopKTrainingTranscoderConfig,
    metrics,
    train_transcoder,
)
from faithfulness_plugin.benchmarks.methods.controls import augmented
from faithfulness_plugin.benchmarks.note.trainer.augmentation import Augmentation
from faithfulness_plugin.benchmarks.note.trainer.ensemble import learning_rates, train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.program import Program
from faithfulness_plugin.transcoders.base import NonFiniteError
from faithfulness_plugin.transcoders.seeded import made_with_seed

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
ARCHITECTURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "tanh": (StandardTrainingTranscoderConfig, {}),
    "l1, skip": (StandardTrainingTranscoderConfig, {"sparsity": "l1", "skip": True}),
    "tanh, skip": (StandardTrainingTranscoderConfig, {"skip": True}),
    "topk": (TopKTrainingTranscoderConfig, {"k": 3}),
    "topk, skip, by activation": (
        TopKTrainingTranscoderConfig,
        {"k": 2, "skip": True, "rescale_acts_by_decoder_norm": False, "aux_loss_coefficient": 0.3},
    ),
    "topk, many, none revived": (TopKTrainingTranscoderConfig, {"k": 8, "aux_loss_coefficient": 0.0}),
    "batch_topk": (BatchTopKTrainingTranscoderConfig, {"k": 1.7}),
    "batch_topk, skip": (BatchTopKTrainingTranscoderConfig, {"k": 2.3, "skip": True, "topk_threshold_lr": 0.2}),
    "jumprelu": (
        JumpReLUTrainingTranscoderConfig,
        {"jumprelu_sparsity_loss_mode": "step", "l0_coefficient": 0.3, "l0_warm_up_steps": 4},
    ),
    "jumprelu by tanh, skip": (
        JumpReLUTrainingTranscoderConfig,
        {"jumprelu_sparsity_loss_mode": "tanh", "jumprelu_tanh_scale": 2.0, "l0_coefficient": 0.2, "skip": True},
    ),
    "jumprelu, quadratic, to the input, dead ones opened": (
        JumpReLUTrainingTranscoderConfig,
        {
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": 2.0,
            "jumprelu_ste_to_input": True,
            "pre_act_loss_coefficient": 0.1,
        },
    ),
}
"""JumpReLU's rectangles are wide here, for thresholds to have gradients."""
JUMPRELU = {"jumprelu_bandwidth": 0.4, "jumprelu_init_threshold": 0.1, "normalize_activations": "none"}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def member(
    kind: str = "none",
    seed: int = 0,
    augmentation: Augmentation | None = None,
    architecture: str = "tanh",
    **fields: Any,
) -> ToyMember:
    config_class, own = ARCHITECTURES[architecture]
    fields = {**(JUMPRELU if config_class is JumpReLUTrainingTranscoderConfig else {}), **own, **fields}
    data: dict[str, Any] = {name: fields.pop(name) for name in ("density", "repeat_frac", "n_ones") if name in fields}
    jacobian = {"jacobian": {**JACOBIANS[kind], "seed": seed}} if kind != "none" else {}
    config = config_class(
        **{
            "d_in": 8,
            "d_sae": 16,
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
    config = of.transcoder
    if of.augmentation:
        config = augmented(config, of.augmentation)
    transcoder: Any = made_with_seed(deepcopy(config), of.seed)
    if of.transcoder.architecture() == "faithful_jumprelu_transcoder":
        transcoder.threshold.data = transcoder.threshold.data.to(transcoder.dtype)  # SAELens keeps them in float32
    return train_transcoder(transcoder, layer, InDoublePrecision(of), log_every=1, progress=False, **schedule)


def assert_same(ensemble, i: int, single) -> None:
    for here, there in zip(ensemble.history[i], single.history, strict=True):
        assert here == pytest.approx(there, rel=1e-10, abs=1e-12)
    extracted = ensemble.transcoder(i)
    for name, weight in extracted.named_parameters():
        there = single.transcoder.get_parameter(name)
        loose = name == "threshold"  # whose optimizer SAELens runs in float32
        torch.testing.assert_close(
            weight, there.to(weight.dtype), rtol=1e-6 if loose else 1e-9, atol=1e-8 if loose else 1e-11
        )
    for name, value in extracted.named_buffers():
        torch.testing.assert_close(value, single.transcoder.get_buffer(name), rtol=1e-9, atol=1e-11)


def assert_equal_to_the_bit(here, there) -> None:
    assert here.present().keys() == there.present().keys()
    for name, weight in here.present().items():
        assert torch.equal(weight, there.present()[name])


@pytest.mark.parametrize("kind", JACOBIANS)
@pytest.mark.parametrize("sparsity", ["tanh", "l1"])
def test_every_member_is_the_transcoder_trained_alone_step_by_step(kind, sparsity):
    fields = {"sparsity": sparsity, "gradient_masking_coefficient": 0.05 if kind != "none" else 0.0}
    members = [
        member(kind, seed=1, **fields),
        member(kind, seed=2, sparsity_coefficient=0.05, tanh_scale=3.0, density=0.9, **fields),
        member(kind, seed=1, repeat_frac=0.3, n_ones=2, sparsity_warm_up_steps=4, **fields),
    ]
    layer = AbsNetwork(8).double()
    ensemble = train_ensemble(members, layer, log_every=1, progress=False, **SCHEDULE)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, layer, **SCHEDULE))


@pytest.mark.parametrize("kind", ["none", "jittered jvp", "secant"])
@pytest.mark.parametrize("augmentation", [Augmentation("noise", 1.3, 0.4), Augmentation("interpolation", 0.7)])
def test_so_is_a_member_with_augmentation(kind, augmentation):
    members = [member(kind, seed, augmentation) for seed in (3, 4)]
    layer = AbsNetwork(8).double()
    ensemble = train_ensemble(members, layer, log_every=1, progress=False, **SCHEDULE)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, layer, **SCHEDULE))


@pytest.mark.parametrize("kind", ["none", "jvp", "jittered jvp", "vjp", "exact, pairs", "secant", "jittered secant"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_so_is_a_member_of_any_architecture(kind, architecture):
    more: dict[str, Any] = {"k": 1.0 if "batch" in architecture else 1} if "topk" in architecture else {}
    # rows that come several times would tie for the last place in a batch, and rounding would choose among them
    distinct: dict[str, Any] = {"repeat_frac": 0.0} if "batch" in architecture else {}
    members = [
        member(kind, 1, architecture=architecture, gradient_masking_coefficient=0.02, **distinct),
        member(kind, 2, architecture=architecture, gradient_masking_coefficient=0.02, density=0.9, **more, **distinct),
    ]
    layer = AbsNetwork(8).double()
    schedule = {**SCHEDULE, "n_steps": 25, "dead_feature_window": 3}
    ensemble = train_ensemble(members, layer, log_every=1, progress=False, **schedule)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, layer, **schedule))


@pytest.mark.parametrize("kind", ["jvp, straight-through gates at the rows", "vjp, straight-through gates"])
@pytest.mark.parametrize("architecture", ["topk, skip, by activation", "topk", "batch_topk", "jumprelu"])
def test_so_is_one_of_any_architecture_with_straight_through_gates(kind, architecture):
    # rows that come several times would tie for the last place in a batch, and rounding would choose among them
    members = [member(kind, seed, architecture=architecture, repeat_frac=0.0) for seed in (1, 2)]
    layer = AbsNetwork(8).double()
    ensemble = train_ensemble(members, layer, log_every=1, progress=False, **SCHEDULE)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, layer, **SCHEDULE))


@pytest.mark.parametrize("architecture", ["tanh, skip", "topk", "batch_topk", "jumprelu"])
@pytest.mark.parametrize("augmentation", [Augmentation("noise", 1.3, 0.4), Augmentation("interpolation", 0.7)])
def test_so_is_one_of_any_architecture_with_augmentation(architecture, augmentation):
    members = [member("none", seed, augmentation, architecture) for seed in (3, 4)]
    layer = AbsNetwork(8).double()
    ensemble = train_ensemble(members, layer, log_every=1, progress=False, dead_feature_window=3, **SCHEDULE)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, layer, dead_feature_window=3, **SCHEDULE))


def test_any_layer_will_do_of_any_output_width(mlp):
    members = [member("jvp", 1, d_in=5, d_sae=12, d_out=4), member("exact", 2, d_in=5, d_sae=12, d_out=4)]
    ensemble = train_ensemble(members, mlp, log_every=1, progress=False, **SCHEDULE)
    for i, of in enumerate(members):
        assert_same(ensemble, i, alone(of, mlp, **SCHEDULE))


def test_in_single_precision_the_rows_the_weights_and_the_metrics_are_the_same():
    of = member("jittered jvp", seed=5, dtype="float32", d_in=6, d_sae=16)
    layer = AbsNetwork(6)
    schedule = {**SCHEDULE, "n_steps": 300}
    ensemble = train_ensemble([of, member("secant", seed=6, dtype="float32", d_in=6, d_sae=16)], layer, **schedule)
    single, extracted = alone(of, layer, **schedule).transcoder, ensemble.transcoder(0)
    x = next(AbsInputs(6, density=0.5, batch_size=2000))
    for here, there in (
        (metrics.reconstruction(extracted, layer, x), metrics.reconstruction(single, layer, x)),
        (metrics.jacobian_error(extracted, layer, x), metrics.jacobian_error(single, layer, x)),
    ):
        numbers = {k: v for k, v in here.to_dict().items() if not isinstance(v, str)}
        assert numbers == pytest.approx({k: there.to_dict()[k] for k in numbers}, rel=1e-3, abs=1e-4)


@pytest.mark.bitwise("torch multiplies the matrices of a batch one by one, each as if it stood alone")
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
            assert_equal_to_the_bit(some.weights[n], together.weights[i])


@pytest.fixture(scope="module")
def uninterrupted():
    """Members, layer and schedule of a run, and its result."""
    members = [member("jittered jvp", 1), member("secant", 2), member("none", 3, Augmentation())]
    layer, schedule = AbsNetwork(8).double(), {**SCHEDULE, "n_steps": 30, "log_every": 4}
    return members, layer, schedule, train_ensemble(members, layer, progress=False, **schedule)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@settings(max_examples=8)
@given(stop=st.integers(1, 29), every=st.integers(1, 9))
def test_resumed_after_a_kill_at_any_step_it_is_the_uninterrupted_run(uninterrupted, tmp_path_factory, stop, every):
    members, layer, schedule, whole = uninterrupted
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
    assert resumed.history == whole.history
    for here, there in zip(resumed.weights, whole.weights, strict=True):
        assert_equal_to_the_bit(here, there)
    again = train_ensemble(members, layer, checkpoint=path, progress=False, **schedule)
    assert again.history == whole.history  # complete: nothing is trained


def test_a_checkpoint_of_other_members_or_settings_is_refused_and_kept(tmp_path):
    path, layer = tmp_path / "shard.pt", AbsNetwork(8).double()
    train_ensemble([member()], layer, checkpoint=path, **SCHEDULE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="n_steps 12, not 13"):
        train_ensemble([member()], layer, checkpoint=path, **{**SCHEDULE, "n_steps": 13})
    with pytest.raises(ValueError, match=r"other settings \(members"):
        train_ensemble([member(seed=1)], layer, checkpoint=path, **SCHEDULE)
    assert path.read_bytes() == before
    older = torch.load(path, weights_only=True)
    del older["layout"]
    torch.save(older, path)
    with pytest.raises(ValueError, match="made by another version: move it away"):
        train_ensemble([member()], layer, checkpoint=path, **SCHEDULE)
    path.write_bytes(before[:100])
    with pytest.raises(ValueError, match="may be corrupt: move it away"):
        train_ensemble([member()], layer, checkpoint=path, **SCHEDULE)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path, layer = tmp_path / "shard.pt", AbsNetwork(8).double()
    written = []

    def save(state, file):
        if written:
            file.write_bytes(b"torn")
            raise OSError(28, "No space left on device")
        written.append(state["done"])
        original(state, file)

    original = torch.save
    monkeypatch.setattr("faithfulness_plugin.benchmarks.note.trainer.checkpoint.torch.save", save)
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
    result = train_ensemble(members, AbsNetwork(8).double(), log_every=5, evaluate=evaluate, **SCHEDULE)
    assert [[r["step"] for r in records] for records in result.history] == [[5, 10, 12]] * 3
    assert sorted(seen) == sorted([0, 1, 2] * 3)
    for i in range(3):
        assert result.history[i][-1]["norm"] == pytest.approx(result.transcoder(i).W_dec.norm().item())


def test_members_that_differ_in_numbers_alone_are_one_program():
    of = member("jittered jvp", 1)
    assert Program.of(of).aligned  # so that these tests train several together
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
    layer = AbsNetwork(8).double()
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
    with pytest.raises(ValueError, match="choose 'noise' or 'interpolation'"):
        Augmentation("blur")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scale=0"):
        Augmentation(scale=0.0)


def test_a_member_that_diverges_is_named():
    def broken(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.abs().sum(-1, keepdim=True) > 0, x.abs(), torch.nan)

    with pytest.raises(NonFiniteError, match=r"step 12 .* member 1 \(seed 4\)"):
        train_ensemble([member(seed=3, density=1.0), member(seed=4, density=0.1)], broken, **SCHEDULE)
