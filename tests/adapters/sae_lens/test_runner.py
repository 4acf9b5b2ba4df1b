import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import pytest
import torch
import wandb
from sae_lens import SAE, LanguageModelSAERunnerConfig, LoggingConfig, StandardTrainingSAEConfig
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunnerConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file
from tiny_models import D_MODEL, N_VOCAB, hooked, native_bridge

from faithfulness_plugin import TopKTrainingTranscoderConfig
from faithfulness_plugin.adapters.sae_lens import faithful_runner
from faithfulness_plugin.adapters.sae_lens.checkpointed_batches import checkpoints
from faithfulness_plugin.adapters.sae_lens.store import ROWS_FILENAME
from faithfulness_plugin.adapters.transformer_lens import attach
from faithfulness_plugin.layers.any_model import layer_between, mlp_layer
from faithfulness_plugin.layers.check_layer import LayerError
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.training.fused import fuse
from faithfulness_plugin.transcoders.seeded import made_with_seed

HOOK, CONTEXT, BATCH = "blocks.1.hook_mlp_out", 16, 64
LOADED = pytest.mark.filterwarnings("ignore:(?s).*non-empty model_from_pretrained_kwargs")  # stock, of every SAE
pytestmark = pytest.mark.filterwarnings("ignore:All samples in the training dataset have been exhausted")


def model(sae: bool = False) -> Any:
    torch.manual_seed(0)
    return hooked(dtype=torch.float32, sae=sae)


def bridge() -> Any:
    torch.manual_seed(0)
    return native_bridge().float()


def text(seed: int = 0, n: int = 120) -> list[dict[str, list[int]]]:
    tokens = torch.randint(N_VOCAB, (n, CONTEXT), generator=torch.Generator().manual_seed(seed))
    return [{"tokens": row} for row in tokens.tolist()]


def transcoder(jacobian_coefficient: float = 0.5, **fields: Any) -> TopKTrainingTranscoderConfig:
    defaults: dict[str, Any] = {"d_in": D_MODEL, "d_sae": 64, "k": 4, "jacobian": {"probe": "difference"}}
    return TopKTrainingTranscoderConfig(jacobian_coefficient=jacobian_coefficient, **{**defaults, **fields})


def config(folder: Path, kind: str = "one", sae: Any = None, hook: str = HOOK, **fields: Any) -> Any:
    defaults: dict[str, Any] = {
        "context_size": CONTEXT,
        "training_tokens": 30 * BATCH,
        "train_batch_size_tokens": BATCH,
        "store_batch_size_prompts": 8,
        "n_batches_in_buffer": 16,
        "n_eval_batches": 1,
        "n_checkpoints": 2,
        "checkpoint_path": str(folder / "checkpoints"),
        "output_path": str(folder / "output"),
        "dataset_path": "given",
        "lr": 1e-2,
        "exclude_special_tokens": [0],
        "logger": LoggingConfig(log_to_wandb=False),
        **fields,
    }
    if kind == "one":
        return LanguageModelSAERunnerConfig(sae=sae or transcoder(), hook_name=hook, verbose=False, **defaults)
    saes = {"plain": transcoder(0.0), "matched": transcoder(), "below": transcoder()}
    hooks = {"plain": HOOK, "matched": HOOK, "below": "blocks.0.hook_mlp_out"}
    return MultiSAETrainingRunnerConfig(**{"saes": saes, "hook_names": hooks, **defaults})


def runner(cfg: Any, **options: Any) -> Any:
    given = {"override_model": model(), "override_dataset": text(), "evaluate_every": 10, **options}
    return faithful_runner(cfg, **given)


def at_step(made: Any, n: int, act: Callable[[], None]) -> Any:
    """Acts inside a step."""
    first = next(iter(made.matched.transcoders.values()))
    forward, calls = first.training_forward_pass, []

    def counted(step_input: Any) -> Any:
        calls.append(1)
        if len(calls) == n:
            act()
        return forward(step_input)

    first.training_forward_pass = counted
    return made


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def outputs(folder: Path) -> dict[str, Any]:
    """Every tensor that a run leaves, and its evaluations."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "output").rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            found[f"{path.relative_to(folder)}:{name}"] = tensor
    found["evaluations"] = (folder / "output" / "evaluations.jsonl").read_text()
    return found


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(ours) == set(theirs)
    assert len(ours) > 4
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name], name


@LOADED
@pytest.mark.parametrize(
    ("make", "hook", "hook_in", "hook_out"),
    [
        (model, HOOK, "blocks.1.ln2.hook_normalized", HOOK),
        (model, "blocks.1.ln2.hook_normalized", "blocks.1.ln2.hook_normalized", HOOK),
        (bridge, "blocks.1.mlp.hook_out", "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
        (bridge, "blocks.1.hook_mlp_out", "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
        (bridge, "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    ],
)
def test_it_learns_the_layer_and_its_jacobian(as_installed, tmp_path, make, hook, hook_in, hook_out):
    sae = transcoder(k=16)
    made = runner(config(tmp_path, hook=hook, sae=sae, training_tokens=100 * BATCH), override_model=make())
    trained = made.run()
    first, *_, last = made.matched.evaluations.lines
    assert (first["step"], last["step"]) == (0, 100)
    assert last["fvu"] < 0.7 * first["fvu"]
    assert last["jacobian_error"] < 0.9 * first["jacobian_error"]
    assert last["kl"] < first["kl"]
    assert last["tokens"] == 100 * BATCH
    assert not trained.training
    assert (trained.cfg.metadata.hook_name, trained.cfg.metadata.hook_name_out) == (hook_in, hook_out)
    loaded = SAE.load_from_disk(tmp_path / "output")
    assert (loaded.cfg.metadata.hook_name, loaded.cfg.metadata.hook_name_out) == (hook_in, hook_out)
    assert (tmp_path / "output" / "README.md").exists()


@LOADED
def test_the_export_attaches(as_installed, tmp_path):
    runner(config(tmp_path)).run()
    loaded, attached_to = SAE.load_from_disk(tmp_path / "output"), model(sae=True)
    loaded.cfg.metadata.hook_name = "blocks.1.ln2.hook_normalized"
    tokens = torch.tensor([row["tokens"] for row in text()[:8]])
    before = attached_to(tokens)
    attach(attached_to, loaded)
    assert (attached_to(tokens) - before).abs().max() > 1e-3


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_its_steps_are_saelenss_own(tmp_path):
    """The same batches, one by one into SAETrainer.step, with Adam in one pass."""
    made = runner(config(tmp_path / "a"))
    by_hand = runner(config(tmp_path / "b"))
    trained = made.run()
    store, trainer = by_hand.activations_store, SAETrainer(by_hand.cfg.to_sae_trainer_config(), by_hand.sae, iter(()))
    fuse(trainer.optimizer)
    for _ in range(30):
        trainer.step(next(store))
        store.taken()
        trainer.n_training_steps += 1
    for name, weight in by_hand.sae.state_dict().items():
        assert torch.equal(weight, trained.state_dict()[name])


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.parametrize("prefetch", [False, 2])
@pytest.mark.parametrize("kind", ["one", "several"])
@pytest.mark.parametrize("n", [4, 29])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, straight, kind, prefetch, n):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    made = at_step(runner(config(tmp_path, kind, prefetch_llm_batches=prefetch)), n, interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert checkpoints(tmp_path / "checkpoints")[-1].name == str(n * BATCH)
    torch.manual_seed(77)
    runner(config(tmp_path, kind, prefetch_llm_batches=prefetch), resume=True).run()
    assert_same(outputs(tmp_path), straight(kind))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What an uninterrupted run leaves."""
    done: dict[str, dict[str, Any]] = {}

    def of(kind: str) -> dict[str, Any]:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            runner(config(folder, kind)).run()
            done[kind] = outputs(folder)
        return done[kind]

    return of


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_interrupted_twice(tmp_path, straight):
    for n in (5, 9):
        with pytest.raises(KeyboardInterrupt):
            at_step(runner(config(tmp_path), resume=True), n, interrupt).run()
    assert checkpoints(tmp_path / "checkpoints")[-1].name == str(14 * BATCH)
    runner(config(tmp_path), resume=True).run()
    assert_same(outputs(tmp_path), straight("one"))


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_a_finished_run_resumed_stays_what_it_is(tmp_path, straight):
    runner(config(tmp_path)).run()
    runner(config(tmp_path), resume=True).run()
    assert_same(outputs(tmp_path), straight("one"))


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_resume_where_nothing_is_begins(tmp_path, straight):
    runner(config(tmp_path), resume=True).run()
    assert_same(outputs(tmp_path), straight("one"))


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_the_seed_is_all_that_counts(tmp_path, straight):
    torch.manual_seed(5)
    torch.rand(7)
    runner(config(tmp_path / "a")).run()
    assert_same(outputs(tmp_path / "a"), straight("one"))
    runner(config(tmp_path / "b", seed=43)).run()
    name = "output/sae_weights.safetensors:W_enc"
    assert not torch.equal(outputs(tmp_path / "b")[name], straight("one")[name])


@pytest.mark.exact("random states")
def test_making_a_runner_leaves_the_global_generator_alone(tmp_path):
    given = {"override_model": model(), "override_dataset": text()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    faithful_runner(config(tmp_path), **given)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_config_is_not_changed(tmp_path):
    cfg = config(tmp_path)
    before = cfg.to_dict()
    runner(cfg)
    assert cfg.to_dict() == before


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_in_another_thread(tmp_path, straight):
    made = runner(config(tmp_path))
    thread = threading.Thread(target=made.run)
    thread.start()
    thread.join()
    assert_same(outputs(tmp_path), straight("one"))


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    def twice() -> None:
        interrupt()
        interrupt()

    before = signal.getsignal(signal.SIGINT)
    made = at_step(runner(config(tmp_path)), 4, twice)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert checkpoints(tmp_path / "checkpoints") == []
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_sigterm_exits_143_with_a_checkpoint(tmp_path, straight):
    with pytest.raises(SystemExit) as exit_:
        at_step(runner(config(tmp_path)), 4, lambda: os.kill(os.getpid(), signal.SIGTERM)).run()
    assert exit_.value.code == 143
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [str(4 * BATCH)]
    runner(config(tmp_path), resume=True).run()
    assert_same(outputs(tmp_path), straight("one"))


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_runner", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
folder, kind, where = Path(sys.argv[2]), sys.argv[3], sys.argv[4]
made = tests.runner(tests.config(folder, kind))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if where == "step":
    tests.at_step(made, 17, die)
else:
    store, saved = made.activations_store, []
    def save_to_checkpoint(path):
        if saved:
            (Path(path) / tests.ROWS_FILENAME).write_bytes(b"half")
            die()
        saved.append(path)
        type(store).save_to_checkpoint(store, path)
    store.save_to_checkpoint = save_to_checkpoint
made.run()
"""


@pytest.mark.bitwise("the same steps on the same batches in two processes of one machine round alike")
@pytest.mark.parametrize(("kind", "where"), [("one", "checkpoint"), ("several", "step")])
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, straight, kind, where):
    assert forks.run(KILLED, __file__, tmp_path, kind, where).returncode == -signal.SIGKILL
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [str(11 * BATCH)]
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert any("unfinished" in name for name in names) == (where == "checkpoint")
    runner(config(tmp_path, kind), resume=True).run()
    assert_same(outputs(tmp_path), straight(kind))


def test_only_the_newest_checkpoint_keeps_its_rows(tmp_path):
    runner(config(tmp_path)).run()
    found = checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in found] == [str(n * BATCH) for n in (11, 21, 30)]
    assert [(path / ROWS_FILENAME).exists() for path in found] == [False, False, True]
    assert all((path / "sae_weights.safetensors").exists() for path in found)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_beginning_anew_makes_checkpoints_that_can_be_resumed(tmp_path, straight):
    with pytest.raises(KeyboardInterrupt):
        at_step(runner(config(tmp_path)), 9, interrupt).run()
    with pytest.raises(KeyboardInterrupt):
        at_step(runner(config(tmp_path), overwrite=True), 10, interrupt).run()
    runner(config(tmp_path), resume=True).run()
    assert_same(outputs(tmp_path), straight("one"))


@pytest.mark.parametrize("kind", ["one", "several"])
def test_a_short_runs_bar_moves(tmp_path, kind, capsys):
    runner(config(tmp_path, kind)).run()
    assert f"{15 * BATCH}/{30 * BATCH}" in capsys.readouterr().err


def test_a_model_that_is_passed_is_not_called_by_saelenss_default(tmp_path):
    for folder, names, said in (("a", {}, None), ("b", {"model_name": "mine/own"}, "mine/own")):
        runner(config(tmp_path / folder, **names)).run()
        saved = json.loads((tmp_path / folder / "output" / "cfg.json").read_text())
        assert saved["metadata"]["model_name"] == said
        card = (tmp_path / folder / "output" / "README.md").read_text()
        assert f"| Model | {said or 'given by the script'} |" in card


def test_beginning_anew_where_a_longer_run_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        at_step(runner(config(tmp_path)), 9, interrupt).run()
    with pytest.raises(KeyboardInterrupt):
        at_step(runner(config(tmp_path), overwrite=True), 5, interrupt).run()
    resumed = runner(config(tmp_path), resume=True)
    assert resumed.cfg.resume_from_checkpoint == str(tmp_path / "checkpoints" / str(5 * BATCH))


def test_what_is_there_is_not_overwritten(tmp_path):
    runner(config(tmp_path)).run()
    with pytest.raises(FileExistsError, match=r"checkpoints holds checkpoints already: pass resume=True to resume"):
        runner(config(tmp_path))
    with pytest.raises(
        FileExistsError, match=r"output holds a transcoder or an SAE already: choose another output_path, or replace it"
    ):
        runner(config(tmp_path, checkpoint_path=str(tmp_path / "others")))
    runner(config(tmp_path), overwrite=True)


def test_a_run_that_is_refused_deletes_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        at_step(runner(config(tmp_path)), 3, interrupt).run()
    with pytest.raises(ValueError, match="did you mean"):
        runner(config(tmp_path, hook="blocks.1.hook_mlp_ou"), overwrite=True)
    assert (checkpoints(tmp_path / "checkpoints")[-1] / ROWS_FILENAME).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-3}, r"lr 0\.01, not 0\.001"),
        ({"sae": transcoder(0.25)}, r"sae\.jacobian_coefficient 0\.5, not 0\.25"),
        ({"training_tokens": 40 * BATCH}, "training_tokens 1920, not 2560"),
        ({"seed": 1}, "seed 42, not 1"),
        ({"hook": "blocks.0.hook_mlp_out"}, "hook_name blocks.1.* not blocks.0"),
    ],
)
def test_other_settings_are_not_resumed_with(tmp_path, interrupted, change, message):
    with pytest.raises(ValueError, match=rf"was made with other settings \(.*{message}.*\): use those") as error:
        runner(config(interrupted, output_path=str(tmp_path), **change), resume=True)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        at_step(runner(config(folder)), 3, interrupt).run()
    return folder


def test_another_text_is_not_resumed_with(interrupted):
    with pytest.raises(ValueError, match=r"was made with other settings \(text \w+, not \w+\)"):
        runner(config(interrupted), override_dataset=text(seed=1), resume=True)


def test_another_layer_is_not_resumed_with(interrupted):
    other = layer_between(model(), "blocks.1.hook_resid_mid", HOOK)
    with pytest.raises(ValueError, match=r"was made with other settings \(.*hook_resid_mid"):
        runner(config(interrupted), layer=other, resume=True)


def test_a_layer_that_the_model_does_not_compute_is_refused(tmp_path):
    mlp = mlp_layer(model(), 1)
    with pytest.raises(LayerError, match="another function stands there"):
        runner(config(tmp_path), layer=HookedLayer(mlp.hook_in, mlp.hook_out, lambda x: 2 * mlp(x)))


def test_what_does_not_count_may_change(tmp_path, interrupted):
    runner(config(interrupted, output_path=str(tmp_path), n_checkpoints=5, prefetch_llm_batches=True), resume=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("faithful_run.json", b""),
        ("faithful_run.json", b"half"),
        ("faithful_run.json", b"\xff\xfe"),
        (ROWS_FILENAME, b""),
        (ROWS_FILENAME, b"half"),
        ("trainer_state.pt", b""),
        ("trainer_state.pt", b"half"),
        ("trainer_state.pt", b"\xff\xfe"),
        ("sae_weights.safetensors", b"half"),
    ],
)
def test_a_corrupt_checkpoint_is_named(tmp_path, name, content):
    with pytest.raises(KeyboardInterrupt):
        at_step(runner(config(tmp_path)), 2, interrupt).run()
    (tmp_path / "checkpoints" / str(2 * BATCH) / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{2 * BATCH} cannot be read \(.*\), it may be corrupt: move it away"
    ) as error:
        runner(config(tmp_path), resume=True).run()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sae": StandardTrainingSAEConfig(d_in=D_MODEL, d_sae=64)}, "makes an SAE: use .*StandardTrainingTranscoder"),
        ({"hook": "blocks.1.hook_mlp_ou"}, r"no hook blocks\.1\.hook_mlp_ou: did you mean blocks\.1\.hook_mlp_out"),
        ({"hook": "blocks.7.hook_mlp_out"}, r"no hook blocks\.7\.hook_mlp_out: did you mean"),
        ({"hook": "blocks.1.hook_resid_post"}, "is neither the input nor the output of an MLP.*layer_between"),
        (
            {"sae": transcoder(d_in=12, d_out=16)},
            r"does not take rows of d_in=12 .*: set d_in to the width at blocks\.1",
        ),
        ({"sae": transcoder(d_out=12)}, "puts out 16 numbers a row, not d_out=12: set d_out"),
        ({"context_size": 16, "n_eval_batches": 15}, "the text has 120 prompts of 16 tokens, and 120 are held out"),
        ({"n_batches_in_buffer": 2}, "the buffer holds 32 rows .* and a batch takes 64 .*: make the buffer larger"),
        ({"exclude_special_tokens": list(range(N_VOCAB))}, "every held-out token is excluded"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(as_installed, tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as error:
        runner(config(tmp_path, **change)).run()
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r'device="cuda": torch sees no CUDA device here; use device="cpu"'):
        runner(config(tmp_path, device="cuda"))


def test_a_text_that_may_not_repeat_ends_the_run(tmp_path):
    with pytest.raises(ValueError, match="the text ended after 32 prompts of 16 tokens"):
        runner(config(tmp_path), override_dataset=text(n=40), repeat=False).run()


def test_without_held_out_prompts_or_folders(tmp_path):
    made = runner(config(tmp_path, n_eval_batches=0, output_path=None, checkpoint_path=None))
    made.run()
    assert made.matched.evaluations is None
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_not_touched_when_it_is_off(tmp_path, monkeypatch):
    def touched(*_: Any, **__: Any) -> None:
        raise AssertionError("wandb")

    for name in ("init", "log", "finish", "log_artifact"):
        monkeypatch.setattr(wandb, name, touched)
    runner(config(tmp_path)).run()


@pytest.mark.parametrize("kind", ["one", "several"])
def test_wandb_is_given_the_evaluations(tmp_path, monkeypatch, kind):
    logged: list[tuple[int, dict[str, Any]]] = []
    for name in ("init", "finish", "Histogram"):
        monkeypatch.setattr(wandb, name, lambda *_, **__: None)
    monkeypatch.setattr(wandb, "log", lambda entries, step: logged.append((step, entries)))
    monkeypatch.setattr(LoggingConfig, "log", lambda *_, **__: None)
    made = runner(config(tmp_path, kind, logger=LoggingConfig(log_to_wandb=True, wandb_log_frequency=5)))
    made.run()
    assert [step for step, _ in logged] == sorted(step for step, _ in logged)
    ours = [(step, entries) for step, entries in logged if any(key.startswith("eval/") for key in entries)]
    assert [step for step, _ in ours] == [0, 10, 20, 30]
    name = "transcoder" if kind == "one" else "below"
    assert ours[-1][1][f"eval/{name}/fvu"] == made.matched.evaluations.last(name)["fvu"]


@LOADED
def test_the_evaluations_are_lines_of_json(as_installed, tmp_path):
    runner(config(tmp_path, "several"), evaluate_every=12).run()
    lines = [json.loads(line) for line in (tmp_path / "output" / "evaluations.jsonl").read_text().splitlines()]
    names = ("plain", "matched", "below")
    assert [(line["name"], line["step"]) for line in lines] == [(name, n) for n in (0, 12, 24, 30) for name in names]
    assert all(line["tokens"] == line["step"] * BATCH for line in lines)
    for name in names:
        assert (tmp_path / "output" / name / "README.md").exists()
        SAE.load_from_disk(tmp_path / "output" / name)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_several_are_as_one_at_a_time(tmp_path, straight):
    """The batches of a hook do not depend on the others; nor does a layer given by hand."""
    made = runner(config(tmp_path, "several"))
    by_hand = runner(config(tmp_path / "one"))
    by_hand.sae.load_state_dict(made.saes["matched"].state_dict())
    made.run()
    alone = by_hand.run()
    for name, weight in alone.state_dict().items():
        assert torch.equal(weight, made.saes["matched"].state_dict()[name])


def test_transcoders_made_of_one_config_keep_their_own_hooks(tmp_path):
    sae, hooks = transcoder(), {"above": HOOK, "below": "blocks.0.hook_mlp_out"}
    cfg = config(tmp_path, "several", saes=dict.fromkeys(hooks, sae), hook_names=hooks)
    runner(cfg).run()
    for name, hook in hooks.items():
        metadata = json.loads((tmp_path / "output" / name / "cfg.json").read_text())["metadata"]
        assert metadata["hook_name_out"] == hook
        assert metadata["hook_name"] == hook.replace("hook_mlp_out", "ln2.hook_normalized")
    shared = {name: made_with_seed(sae, 0) for name in ("plain", "matched", "below")}
    with pytest.raises(ValueError, match="two transcoders share one config"):
        runner(config(tmp_path / "other", "several"), override_sae=shared)


def test_to_begin_anew_and_to_go_on_exclude_each_other(interrupted):
    before = sorted(path for path in interrupted.rglob("*"))
    checkpoint = str(checkpoints(interrupted / "checkpoints")[-1])
    for options, fields in (({"resume": True}, {}), ({}, {"resume_from_checkpoint": checkpoint})):
        with pytest.raises(ValueError, match="choose one of them"):
            runner(config(interrupted, **fields), overwrite=True, **options)
    assert sorted(path for path in interrupted.rglob("*")) == before


def test_what_an_earlier_run_exported_under_other_names_goes(tmp_path):
    runner(config(tmp_path, "several")).run()
    mine = tmp_path / "output" / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("kept")
    runner(config(tmp_path, "several", saes={"new": transcoder()}, hook_names=HOOK), overwrite=True).run()
    assert {path.name for path in (tmp_path / "output").iterdir() if path.is_dir()} == {"new", "mine"}


def test_another_model_is_not_gone_on_with(interrupted):
    torch.manual_seed(1)
    with pytest.raises(ValueError, match=r"was made with other settings \(layer of transcoder"):
        runner(config(interrupted), override_model=hooked(dtype=torch.float32, seed=1), resume=True)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_a_layer_that_runs_the_model_waits_for_the_thread_that_does(tmp_path):
    left = {}
    for prefetch in (0, 2):
        made = model()
        layer = layer_between(made, "blocks.1.ln2.hook_normalized", HOOK)
        cfg = config(tmp_path / str(prefetch), prefetch_llm_batches=prefetch)
        run = runner(cfg, override_model=made, layer=layer)
        assert run.matched.layers["transcoder"].lock is run.matched.store.lock
        run.run()
        left[prefetch] = outputs(tmp_path / str(prefetch))
    assert_same(left[0], left[2])


@pytest.mark.parametrize("make", [lambda: model().bfloat16(), lambda: bridge().bfloat16()])
def test_a_model_in_half_precision(tmp_path, make):
    made = make()
    made.cfg.dtype = torch.bfloat16
    run = runner(config(tmp_path, hook=HOOK), override_model=made)
    run.run()
    first, *_, last = run.matched.evaluations.lines
    assert last["fvu"] < first["fvu"]


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_a_text_that_ends_leaves_a_checkpoint_to_go_on_from(tmp_path):
    short = text(n=60)
    with pytest.raises(ValueError, match="the text ended after 52 prompts"):
        runner(config(tmp_path), override_dataset=short, repeat=False).run()
    done = int(checkpoints(tmp_path / "checkpoints")[-1].name)
    assert 0 < done < 30 * BATCH
    runner(config(tmp_path), override_dataset=short, resume=True).run()
    runner(config(tmp_path / "whole"), override_dataset=short).run()
    assert_same(outputs(tmp_path), outputs(tmp_path / "whole"))


def test_what_it_cannot_do_is_refused(tmp_path):
    with pytest.raises(ValueError, match="an evaluator of your own is not run here"):
        runner(config(tmp_path, "several", evaluator=lambda *_: {}))
    with pytest.raises(ValueError, match='llm_device="meta" is not device="cpu"'):
        runner(config(tmp_path, llm_device="meta"))
    with pytest.raises(ValueError, match="set it to False"):
        runner(config(tmp_path, use_cached_activations=True))
    with pytest.raises(ValueError, match=r"override_model=TransformerBridge\.boot_transformers"):
        runner(config(tmp_path, model_class_name="AutoModelForCausalLM"), override_model=None)


@LOADED
def test_what_is_evaluated_is_what_attach_gives(as_installed, tmp_path):
    made = model(sae=True)
    run = runner(config(tmp_path, hook="blocks.1.mlp.hook_in"), override_model=made)
    run.run()
    evaluator = run.matched.evaluations.evaluator
    attach(made, SAE.load_from_disk(tmp_path / "output"))
    logits = made(evaluator.tokens)
    ce = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), evaluator.tokens[:, 1:].flatten())
    assert run.matched.evaluations.last("transcoder")["ce"] == pytest.approx(ce.item(), abs=1e-5)
    made.reset_saes()
    attach(made, SAE.load_from_disk(tmp_path / "output"), exclude_special_tokens=False)
    assert (made(evaluator.tokens) - logits).abs().max() > 1e-3
