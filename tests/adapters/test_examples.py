import difflib
import re
import runpy
from pathlib import Path

import pytest
import torch
from sae_lens import SAE, LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
from tiny_models import hooked

from faithfulness_plugin import TopKTrainingTranscoderConfig
from faithfulness_plugin.layers.any_model import mlp_layer

EXAMPLES = Path(__file__).resolve().parents[2] / "adapters" / "examples"


@pytest.mark.parametrize(
    ("alone", "matched"),
    [
        ("train_sae.py", "train_transcoder.py"),
        ("sparsify_alone.py", "sparsify_matched.py"),
        ("dictionary_learning_alone.py", "dictionary_learning_matched.py"),
    ],
)
def test_a_librarys_script_becomes_a_matched_one_by_three_lines(alone, matched):
    before, after = ((EXAMPLES / name).read_text().split('"""\n', 1)[1].splitlines() for name in (alone, matched))
    changed = [line for line in difflib.ndiff(before, after) if line.startswith("+ ")]
    assert 0 < len(changed) <= 3
    gone = [line for line in difflib.ndiff(before, after) if line.startswith("- ")]
    assert len(gone) <= len(changed)


def test_what_the_page_adds_is_what_the_script_adds():
    page = (EXAMPLES.parents[1] / "docs" / "adapters.md").read_text("utf-8")
    shown = next(
        block for block in re.findall(r"```diff\n(.*?)```", page, flags=re.DOTALL) if "match_jacobians" in block
    )
    lines = (EXAMPLES / "sparsify_matched.py").read_text().splitlines()
    assert {line[1:] for line in shown.splitlines() if line.startswith("+")} <= set(lines)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of SAELens and of transformers, as in a script
@pytest.mark.parametrize("script", ["train_sae.py", "train_transcoder.py"])
def test_both_scripts_run(as_installed, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    trained = SAE.load_from_disk("out/example/trained")
    is_transcoder = script == "train_transcoder.py"
    assert (trained.cfg.metadata.hook_name_out == "blocks.10.mlp.hook_out") == is_transcoder
    assert Path("out/example/trained/evaluations.jsonl").exists() == is_transcoder


@pytest.mark.filterwarnings("ignore:.*copy construct from a tensor:UserWarning")
def test_saelenss_runner_as_it_is_trains_a_transcoder_as_well(tmp_path):
    model = hooked("LNPre", dtype=torch.float32)
    cfg = LanguageModelSAERunnerConfig(
        sae=TopKTrainingTranscoderConfig(d_in=16, d_sae=48, k=4, jacobian_coefficient=0.5),
        hook_name="blocks.1.ln2.hook_normalized",
        context_size=8,
        training_tokens=2048,
        train_batch_size_tokens=64,
        store_batch_size_prompts=4,
        n_batches_in_buffer=16,
        lr=1e-2,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(tmp_path),
    )
    prompts = [{"tokens": [(7 * i + j * j) % 50 for j in range(8)]} for i in range(300)]
    runner = LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=prompts)  # pyright: ignore[reportArgumentType]
    layer = mlp_layer(model, block=1)
    runner.sae.set_layer(layer)  # pyright: ignore
    runner.evaluator = None  # pyright: ignore
    rows = next(iter(runner.activations_store))
    y = layer(rows)
    before = ((runner.sae(rows) - y).square().sum() / (y - y.mean(0)).square().sum()).item()
    trained = runner.run()
    after = ((trained(rows) - y).square().sum() / (y - y.mean(0)).square().sum()).item()
    assert after < before / 2
