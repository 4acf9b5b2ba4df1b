import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ARCHITECTURES, GatedMlp, random_transcoder
from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from faithfulness_plugin import (
    AbsInputs,
    AbsNetwork,
    NonFiniteError,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    load_transcoder,
    metrics,
    train_transcoder,
)
from faithfulness_plugin.training.batches import Inputs
from faithfulness_plugin.training.fused import fuse

D = 6


def new(seed: int = 0, **fields: Any) -> StandardTrainingTranscoder:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"d_sae": 24, "jacobian": {"jitter": 0.3}, "jacobian_coefficient": 1.0}
    return StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=D, d_out=D, **{**defaults, **fields}))


def inputs(seed: int = 0) -> AbsInputs:
    return AbsInputs(D, density=0.3, repeat_frac=0.1, batch_size=32, seed=seed)


def train(
    transcoder: Any,
    data: Inputs | None = None,
    layer: torch.nn.Module | None = None,
    **options: Any,
):
    schedule = {"n_steps": 60, "lr_warm_up_steps": 5, "lr_decay_steps": 20, "log_every": 10, **options}
    data = inputs() if data is None else data
    return train_transcoder(transcoder, layer or AbsNetwork(D), data, progress=False, **schedule)


def weights(transcoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in transcoder.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_it_is_saelenss_fit():
    ours = train(new()).transcoder
    theirs = new().set_layer(AbsNetwork(D))
    config = SAETrainerConfig(
        total_training_samples=60 * 32,
        train_batch_size_samples=32,
        lr=3e-3,
        lr_end=3e-3,
        lr_warm_up_steps=5,
        lr_decay_steps=20,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, theirs, inputs())
    fuse(trainer.optimizer)
    trainer.fit()
    assert same(weights(ours), weights(theirs))
    assert ours.cfg.metadata.l0 == theirs.cfg.metadata.l0
    as_it_is = new().set_layer(AbsNetwork(D))
    SAETrainer(config, as_it_is, inputs()).fit()  # Adam in a dozen passes
    for name, weight in weights(as_it_is).items():
        torch.testing.assert_close(weights(ours)[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("as_installed")  # for speed; other tests check the shapes of the same calls
def test_it_learns_the_layer():
    transcoder = new(jacobian_coefficient=0.0, sparsity_coefficient=0.01)
    x = next(inputs(seed=5))
    before = metrics.reconstruction(transcoder, AbsNetwork(D), x).fvu
    result = train(transcoder, n_steps=1500)
    after = metrics.reconstruction(transcoder, AbsNetwork(D), x).fvu
    assert after < 0.05 < before
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_the_jacobian_term_changes_training():
    without = weights(train(new(jacobian_coefficient=0.0)).transcoder)
    with_it = weights(train(new()).transcoder)
    for name in ("W_enc", "W_dec"):
        assert (without[name] - with_it[name]).abs().max() > 1e-3


@pytest.mark.exact("copies of the same numbers")
def test_the_layer_is_not_trained():
    layer = AbsNetwork(D)
    for p in layer.parameters():
        p.requires_grad_(True)
    train_transcoder(new(), layer, inputs(), n_steps=5, progress=False)
    assert same(weights(layer), weights(AbsNetwork(D)))


def test_the_history_names_every_loss_and_the_evaluators_entries():
    def evaluator(transcoder, data, scaler) -> dict[str, float]:
        assert not transcoder.training
        assert not torch.is_grad_enabled()
        return {"m": metrics.memorization(transcoder, inputs().point, layer=AbsNetwork(D)).m}

    transcoder = new()
    history = train(transcoder, evaluator=evaluator, evaluate_every=25).history
    assert [record["step"] for record in history] == [10, 20, 25, 30, 40, 50, 60]
    assert set(history[0]) == {"step", "loss", "mse_loss", "sparsity_loss", "jacobian_loss", "l0"}
    assert set(history[2]) == {"step", "m"}
    assert set(history[4]) == {"step", "loss", "mse_loss", "sparsity_loss", "jacobian_loss", "l0"}
    assert set(history[5]) == {"step", "loss", "mse_loss", "sparsity_loss", "jacobian_loss", "l0", "m"}
    assert not transcoder.training  # what is returned is the function that is exported


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_every_architecture_trains_and_a_resumed_run_is_the_uninterrupted_one(tmp_path, architecture, skip):
    fields = {
        "d_in": D,
        "d_out": D,
        "d_sae": 24,
        "dtype": "float32",
        "skip": skip,
        "jacobian": {"n_probes": 2},
        "jacobian_coefficient": 1.0,
        "gradient_masking_coefficient": 0.01,
    }
    options: dict[str, Any] = {"checkpoint_every": 20, "resume": True, "dead_feature_window": 15}
    torch.manual_seed(0)
    first, second = random_transcoder(architecture, **fields), random_transcoder(architecture, **fields)
    second.load_state_dict(first.state_dict())
    layer = GatedMlp(D, 7, D).float()
    x = next(inputs(seed=5))
    before = metrics.reconstruction(first, layer, x).fvu
    straight = train(first, layer=layer, checkpoint=tmp_path / "straight", **options)
    with pytest.raises(KeyboardInterrupt):
        train(second, Interrupted(inputs(), 50), layer=layer, checkpoint=tmp_path / "cut", **options)
    torch.manual_seed(9)
    third = random_transcoder(architecture, **fields)
    resumed = train(third, inputs(seed=9), layer=layer, checkpoint=tmp_path / "cut", **options)
    assert same(straight.transcoder.state_dict(), resumed.transcoder.state_dict())
    assert straight.history == resumed.history
    assert metrics.reconstruction(first, layer, x).fvu < before
    assert straight.history[-1]["l0"] <= 24
    names = {"step", "loss", "mse_loss", "jacobian_loss", "gradient_masking_loss", "l0"}
    assert names < set(straight.history[-1])


@pytest.mark.parametrize(("value", "kept"), [(np.float64(0.5), 0.5), (torch.tensor(3), 3), (np.int64(2), 2), (1, 1)])
def test_an_evaluators_numbers_of_any_kind_are_kept_and_resumed(tmp_path, value, kept):
    def evaluator(*_: Any) -> dict[str, Any]:
        return {"value": value}

    options: dict[str, Any] = {"evaluator": evaluator, "evaluate_every": 20, "checkpoint_every": 20}
    with pytest.raises(KeyboardInterrupt):
        train(new(), Interrupted(inputs(), 45), checkpoint=tmp_path, **options)
    history = train(new(), checkpoint=tmp_path, resume=True, **options).history
    assert [record["value"] for record in history if "value" in record] == [kept] * 3


@pytest.mark.parametrize("value", ["high", {"a": 1.0}, None])
def test_an_evaluator_that_returns_anything_else_is_named(value):
    with pytest.raises(ValueError, match=r"the evaluator's 'value' is a .*: return one number per name"):
        train(new(), evaluator=lambda *_: {"value": value}, evaluate_every=5)


def test_inputs_whose_state_cannot_be_read_back_are_named_before_the_last_checkpoint_goes(tmp_path):
    class Picky(Interrupted):
        def state_dict(self) -> dict[str, Any]:
            return {"rng": np.random.default_rng(0)} if self.left < 20 else super().state_dict()

    with pytest.raises(ValueError, match="state_dict cannot be read back safely"):
        train(new(), Picky(inputs(), 55), checkpoint=tmp_path, checkpoint_every=20)
    assert (tmp_path / "step_20").exists()


def test_other_data_are_not_resumed_with(tmp_path):
    train(new(), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"position is of other data \(density 0\.3, not 0\.9\)"):
        train(new(), AbsInputs(D, density=0.9, repeat_frac=0.1, batch_size=32), checkpoint=tmp_path, resume=True)


class Interrupted(Iterator[torch.Tensor]):
    """Stops the run as Ctrl-C would, after so many batches."""

    def __init__(self, data: AbsInputs, batches: int) -> None:
        self.data, self.left, self.batch_size = data, batches, data.batch_size

    def __next__(self) -> torch.Tensor:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return next(self.data)

    def state_dict(self) -> dict[str, Any]:
        return self.data.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.data.load_state_dict(state)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.parametrize("fields", [{}, {"jacobian": {"estimator": "secant", "probe": "pair"}}])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, fields):
    options = {"checkpoint_every": 20, "resume": True}
    straight = train(new(**fields), checkpoint=tmp_path / "straight", **options)
    with pytest.raises(KeyboardInterrupt):
        train(new(**fields), Interrupted(inputs(), 47), checkpoint=tmp_path / "cut", **options)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step_40"]
    resumed = train(new(seed=9, **fields), inputs(seed=9), checkpoint=tmp_path / "cut", **options)
    assert same(weights(straight.transcoder), weights(resumed.transcoder))
    assert straight.history == resumed.history
    assert resumed.checkpoint == tmp_path / "cut" / "step_60"
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step_60"]


@pytest.mark.exact("copies of the same numbers")
def test_resuming_what_is_done_changes_nothing(tmp_path):
    done = train(new(), checkpoint=tmp_path)
    again = train(new(seed=4), checkpoint=tmp_path, resume=True)
    assert same(weights(done.transcoder), weights(again.transcoder))
    assert done.history == again.history


@pytest.mark.exact("copies of the same numbers")
def test_checkpoints_are_saelenss_and_hold_no_layer(tmp_path):
    result = train(new(), checkpoint=tmp_path)
    assert result.checkpoint is not None
    loaded = StandardTrainingTranscoder.load_from_disk(result.checkpoint)
    assert same(weights(loaded), weights(result.transcoder))
    assert json.loads((result.checkpoint / "cfg.json").read_text())["jacobian"]["jitter"] == 0.3


def test_existing_checkpoints_are_not_overwritten(tmp_path):
    train(new(), checkpoint=tmp_path)
    with pytest.raises(FileExistsError, match=r"holds step_60 already: pass resume=True"):
        train(new(), checkpoint=tmp_path)


def test_after_nan_the_last_good_checkpoint_stays(tmp_path):
    class Poisoned(AbsInputs):
        count = 0

        def __next__(self) -> torch.Tensor:
            self.count += 1
            return super().__next__() * (float("nan") if self.count == 35 else 1.0)

    data = Poisoned(D, batch_size=32)
    with pytest.raises(NonFiniteError, match="step 34: NaN or Inf in the inputs"):
        train(new(), data, checkpoint=tmp_path, checkpoint_every=10)
    assert [path.name for path in tmp_path.iterdir()] == ["step_30"]
    assert all(
        torch.isfinite(w).all() for w in StandardTrainingTranscoder.load_from_disk(tmp_path / "step_30").parameters()
    )


def test_weights_that_just_broke_are_not_saved(tmp_path):
    transcoder = new()

    def last_step_breaks(sae, data, scaler) -> dict[str, float]:
        sae.W_enc[0, 0] = float("nan")
        return {}

    with pytest.raises(NonFiniteError, match="step 60: the weights"):
        train(transcoder, checkpoint=tmp_path, checkpoint_every=20, evaluator=last_step_breaks, evaluate_every=60)
    assert [path.name for path in tmp_path.iterdir()] == ["step_40"]


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_a_half_written_checkpoint_does_not_count(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(new(), Interrupted(inputs(), 25), checkpoint=tmp_path, checkpoint_every=20)
    (tmp_path / ".unfinished.step_40").mkdir()
    (tmp_path / ".unfinished.step_40" / "sae_weights.safetensors").write_text("half")
    result = train(new(), checkpoint=tmp_path, checkpoint_every=20, resume=True)
    assert same(weights(result.transcoder), weights(train(new()).transcoder))
    assert [path.name for path in tmp_path.iterdir()] == ["step_60"]


@pytest.mark.parametrize("name", ["faithful_state.pt", "trainer_state.pt", "sae_weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no zip file"])
def test_a_corrupt_checkpoint_is_named(tmp_path, name, content):
    train(new(), checkpoint=tmp_path)
    (tmp_path / "step_60" / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"step_60 cannot be read \(\w+\), it may be corrupt: choose another folder"):
        train(new(), checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {"n_steps": 80}, "n_steps 60, not 80"),
        ({}, {"lr": 1.0}, r"lr 0\.003, not 1\.0"),
        ({"jacobian_coefficient": 2.0}, {}, r"jacobian_coefficient 1\.0, not 2\.0"),
        ({"d_sae": 30}, {}, "d_sae 24, not 30"),
    ],
)
def test_a_checkpoint_of_other_settings_is_not_mixed_in(tmp_path, fields, options, message):
    train(new(), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=f"made with other settings .*{message}.*: use those"):
        train(new(**fields), checkpoint=tmp_path, resume=True, **options)


def test_inputs_whose_position_is_not_known_are_not_resumed(tmp_path):
    def forgetful() -> Iterator[torch.Tensor]:
        yield from inputs()

    train(new(), forgetful(), checkpoint=tmp_path, batch_size=32)
    with pytest.raises(ValueError, match="the inputs' position is not known"):
        train(new(), forgetful(), checkpoint=tmp_path, batch_size=32, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dead_feature_window": 0}, "dead_feature_window=0 counts steps"),
        ({"n_steps": 0}, "n_steps=0 must be at least 1"),
        ({"lr_decay_steps": 58}, "n_steps=60 must .* hold the learning rate's warm-up and decay"),
        ({"data": iter([torch.zeros(2, D)])}, "pass batch_size="),
        ({"data": iter([torch.zeros(2, D)]), "batch_size": 2}, "the inputs ended after 1 batches"),
        ({"data": [torch.zeros(2, D)]}, "pass batch_size="),
        ({"data": torch.zeros(9, D)}, r"rows of shape \[9, 6\]: pass batch_size= as well"),
        ({"data": "rows.npy", "batch_size": 2}, "the inputs are of type str: pass rows"),
        ({"lr": "1e-3"}, "lr='1e-3' is of type str: pass a number"),
        ({"n_steps": "60"}, "n_steps='60' is of type str"),
        ({"n_steps": 60.5}, "n_steps=60.5: pass a whole number"),
        ({"log_every": 0.5}, "log_every=0.5: pass a whole number"),
        ({"batch_size": "32"}, "batch_size='32' is of type str"),
        ({"batch_size": 100}, "step 0: the batch has 32 rows, not batch_size=100"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr_decay_steps": -3}, "warm-up and decay not negative"),
        ({"lr": float("nan")}, "lr positive and finite"),
        ({"log_every": 0}, "log_every=0 counts steps: at least 1"),
        ({"evaluate_every": 5}, "pass both or neither"),
        ({"resume": True}, "need a folder: pass checkpoint="),
        ({"checkpoint_every": 5}, "need a folder: pass checkpoint="),
    ],
)
def test_bad_arguments_say_what_is_wanted(as_installed, options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        train(new(), options.pop("data", None), **options)


@pytest.mark.parametrize("transcoder", [StandardTrainingSAE, StandardTrainingTranscoder, new().cfg, AbsNetwork(D)])
def test_what_cannot_be_trained_is_named(as_installed, transcoder):
    if transcoder is StandardTrainingSAE:
        transcoder = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D, d_sae=9))
    name = transcoder.__name__ if isinstance(transcoder, type) else f"of type {type(transcoder).__name__}"
    with pytest.raises(ValueError, match=f"the transcoder is {name}, which has no layer to learn from: pass a transco"):
        train(transcoder)


def test_rows_a_data_loader_and_a_list_of_batches_are_trained_on(tmp_path):
    x = next(AbsInputs(D, density=0.3, batch_size=300))
    loader = DataLoader(TensorDataset(x), batch_size=32, shuffle=True, drop_last=True)
    for data, batch_size in ((x, 32), (x.numpy(), 32), (loader, None), (list(x[:96].split(32)), 32)):
        history = train(new(), data, batch_size=batch_size).history
        assert history[-1]["loss"] < history[0]["loss"]
    uneven = DataLoader(TensorDataset(x), batch_size=32)
    with pytest.raises(ValueError, match=r"step 9: the batch has 12 rows, not batch_size=32: .*drop_last=True"):
        train(new(), uneven)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_a_run_on_rows_resumes_to_the_uninterrupted_one(tmp_path):
    x = next(AbsInputs(D, density=0.3, batch_size=100))
    straight = train(new(), x, batch_size=32)

    def stops(*_: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"batch_size": 32, "checkpoint": tmp_path, "checkpoint_every": 20}
    with pytest.raises(KeyboardInterrupt):
        train(new(), x, evaluator=stops, evaluate_every=25, **options)
    resumed = train(new(seed=9), x, resume=True, **options)
    assert same(weights(straight.transcoder), weights(resumed.transcoder))
    with pytest.raises(ValueError, match="position is of other data"):
        train(new(), x[:90], resume=True, **options)


@pytest.mark.parametrize(
    ("notebook", "progress", "shown"), [(True, None, True), (False, None, False), (True, False, False)]
)
def test_a_notebook_shows_progress(monkeypatch, notebook, progress, shown):
    hidden: list[bool | None] = []

    class Bar(tqdm):
        def __init__(self, *args: Any, disable: bool | None, **options: Any) -> None:
            super().__init__(*args, disable=disable, file=io.StringIO(), **options)
            hidden.append(self.disable)

    shell = SimpleNamespace(config={"IPKernelApp": {}} if notebook else {})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("faithfulness_plugin.training.train.tqdm", Bar)
    train_transcoder(new(), AbsNetwork(D), inputs(), n_steps=3, progress=progress)
    assert hidden == [not shown]


def test_a_checkpoint_of_training_loads_as_what_would_be_exported(tmp_path):
    result = train(new(), checkpoint=tmp_path / "run")
    assert result.checkpoint is not None
    x = next(inputs(seed=3))
    torch.testing.assert_close(load_transcoder(result.checkpoint)(x), result.transcoder(x))
    with pytest.raises(ValueError, match=r"run is not a single transcoder, and holds step_60: pass one of these"):
        load_transcoder(tmp_path / "run")


def test_a_file_in_the_place_of_the_checkpoints_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file cannot hold checkpoints \(File exists\): choose another folder"):
        train(new(), checkpoint=tmp_path / "file")


def test_paths_may_be_strings(tmp_path):
    assert train(new(), checkpoint=str(tmp_path)).checkpoint == Path(tmp_path) / "step_60"


@pytest.mark.parametrize(
    "error", [RuntimeError("PytorchStreamWriter failed writing file data/0"), OSError(28, "No space left on device")]
)
def test_a_disk_that_fills_up_is_told_in_a_line_and_nothing_half_written_stays(tmp_path, monkeypatch, error):
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"step_10 could not be written .*: make room on its disk") as raised:
        fit(tmp_path)
    assert len(str(raised.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_checkpoints_is_refused_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=10))
    with pytest.raises(ValueError, match=r"checkpoints take .* MB, and its disk has 0.0 MB free: make room"):
        fit(tmp_path)
    assert list(tmp_path.iterdir()) == []


def fit(folder: Path) -> None:
    train_transcoder(new(), AbsNetwork(D), inputs(), n_steps=10, checkpoint=folder)
