"""The command `faithfulness hooks`, and its options in `measure` and `inspect`, as users have them."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import torch
import transformers as hf
from command_line import fails
from fitted import fitted
from sae_lens.util import get_special_token_ids
from tiny_models import carried
from typer.testing import CliRunner

from faithfulness_plugin.cli.app import app
from faithfulness_plugin.language_model.config import TextSource
from faithfulness_plugin.language_model.text import placed_prompts
from faithfulness_plugin.measure.schema import ArtifactResult
from faithfulness_plugin.results.schema import read_result

pytestmark = pytest.mark.usefixtures("as_installed")
TRUE = ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
WRONG = ("blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out")


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    tiny_hub.write_hub(folder)
    model = hf.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokens, _ = placed_prompts(TextSource(files=[str(folder / "text")]), tiny_hub.tokenizer(), 16, 0, 60, least=1)
    kept = ~torch.isin(tokens, torch.tensor(get_special_token_ids(tiny_hub.tokenizer())))
    x, y = (seen[kept].double() for seen in carried(model, TRUE, tokens).values())
    for name, hooks, of in (
        ("right", TRUE, (x, y)),
        ("wrong", WRONG, (x, y)),
        ("silent", (None, None), (x, y)),
        ("autoencoder", (TRUE[1], TRUE[1]), (y, y)),
    ):
        metadata = {"hook_name": hooks[0], "hook_name_out": hooks[1], "l0": 40.0}
        fitted(*of, autoencoder=name == "autoencoder", **metadata).float().save_model(folder / name)
    return folder


def run(hub: Path, *args: str, prompts: bool = True) -> Any:
    text = ["--model", str(hub / "model"), "--text", str(hub / "text"), "--context-size", "16"]
    return CliRunner().invoke(app, [*args, *text, *(["--prompts", "6"] if prompts else [])])


def test_the_table_marks_the_declared_pair_and_the_line_says_that_it_is_the_best(hub):
    done = run(hub, "hooks", str(hub / "right"))
    assert done.exit_code == 0, done.output
    first = next(line for line in done.stdout.splitlines() if line.startswith("| 1 |"))
    assert first.startswith("| 1 | blocks.1.mlp.hook_in (also blocks.1.ln2.hook_out")
    assert first.endswith("| declared |")
    assert "L0 (declared: 40.0)" in done.stdout
    assert "The declared pair is the best one" in done.stdout


def test_a_wrong_pair_is_said_to_be_wrong_by_every_command(hub, tmp_path):
    done = run(hub, "hooks", str(hub / "wrong"))
    better = "Pass --hook-in blocks.1.mlp.hook_in --hook-out blocks.1.hook_mlp_out --hooks-anyway"
    assert "is clearly not the best one" in done.stdout
    assert better in done.stdout
    done = run(hub, "measure", str(hub / "wrong"), "--out", str(tmp_path / "a"))
    assert "warning: wrong: at the tensors that it is measured between, blocks.1." in done.stderr
    result = read_result(tmp_path / "a" / "result.json", ArtifactResult)
    assert better in result.notices[0]
    assert "Notice: wrong: " in done.stdout
    page = tmp_path / "page.html"
    done = run(hub, "inspect", str(hub / "wrong"), "--tokens", "60", "--out", str(page), prompts=False)
    assert done.exit_code == 0, done.output
    assert better in done.stderr
    done = run(hub, "measure", str(hub / "right"), "--out", str(tmp_path / "b"))
    assert "warning: right: " not in done.stderr


def test_an_override_has_to_be_confirmed_and_stands_in_the_result(hub, tmp_path):
    given = ("measure", str(hub / "wrong"), "--hook-in", TRUE[0], "--out", str(tmp_path))
    fails(run(hub, *given), 2, "which is another tensor: leave hook_in and hook_out out, or pass --hooks-anyway")
    assert not any(tmp_path.iterdir())
    done = run(hub, *given, "--hooks-anyway")
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "result.json", ArtifactResult)
    assert result.config.hooks_anyway
    assert result.notices == [f"measured between {TRUE[0]} and {TRUE[1]}; the files say {WRONG[0]} and {WRONG[1]}"]
    fails(
        run(
            hub,
            "inspect",
            str(hub / "wrong"),
            "--hook-in",
            TRUE[0],
            "--tokens",
            "60",
            "--out",
            str(tmp_path / "p.html"),
            prompts=False,
        ),
        2,
        "--hooks-anyway",
    )


def test_without_hooks_in_the_file_all_blocks_are_searched_or_one(hub):
    done = run(hub, "hooks", str(hub / "silent"), "--json")
    found = json.loads(done.stdout)
    assert found["declared"] is None
    assert "blocks.1.mlp.hook_in" in found["pairs"][0]["hook_in"]
    assert "The file names no tensors" in found["verdict"]
    found = json.loads(run(hub, "hooks", str(hub / "silent"), "--layer", "1", "--json").stdout)
    assert found["pairs"][0]["declared"]
    assert not found["clearly_another"]


def test_an_autoencoder_is_measured_as_one_where_it_is_asked_for(hub, tmp_path):
    given = ("measure", str(hub / "autoencoder"), "--out", str(tmp_path / "a"))
    fails(run(hub, *given), 2, "--autoencoder")
    done = run(hub, *given, "--autoencoder")
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "a" / "result.json", ArtifactResult)
    assert result.layer is not None
    assert result.layer.hook_in == result.layer.hook_out
    own = result.of("autoencoder")
    assert own is not None
    assert sum(own.error) < 0.2 * sum(result.layer.variance)
    mean = result.of("autoencoder", "mean ablation")
    assert mean is not None
    assert own.kl < mean.kl
    assert result.notices == []
    page = ("--autoencoder", "--tokens", "60", "--out", str(tmp_path / "page.html"))
    assert run(hub, "inspect", str(hub / "autoencoder"), *page, prompts=False).exit_code == 0
    assert "autoencoder's" in run(hub, "hooks", str(hub / "autoencoder"), "--autoencoder").stdout


def test_a_model_without_a_bridge_is_measured_inspected_and_searched_as_it_is(hub, tmp_path, monkeypatch):
    from transformer_lens.model_bridge import TransformerBridge

    def refuse(*args: Any, **options: Any) -> None:
        raise ValueError("no adapter for this architecture")

    given = ("measure", str(hub / "right"))
    assert run(hub, *given, "--out", str(tmp_path / "bridge")).exit_code == 0
    monkeypatch.setattr(TransformerBridge, "boot_transformers", refuse)
    done = run(hub, *given, "--out", str(tmp_path / "plain"))
    assert done.exit_code == 0, done.output
    on_bridge, plain = (read_result(tmp_path / name / "result.json", ArtifactResult) for name in ("bridge", "plain"))
    assert plain.layer is not None
    assert (plain.layer.hook_in, plain.layer.hook_out) == ("model.layers.1.mlp.input", "model.layers.1.mlp")
    for role in ("transcoder", "mean ablation"):
        one, other = on_bridge.of("right", role), plain.of("right", role)
        assert one is not None
        assert other is not None
        assert sum(one.error) == pytest.approx(sum(other.error), rel=1e-3)
        assert one.kl == pytest.approx(other.kl, rel=1e-2)
        assert one.effects["input"][0].error == pytest.approx(other.effects["input"][0].error, rel=1e-2)
    assert run(hub, "hooks", str(hub / "right")).exit_code == 0
    page = ("--tokens", "60", "--out", str(tmp_path / "page.html"))
    assert run(hub, "inspect", str(hub / "right"), *page, prompts=False).exit_code == 0


def test_bad_arguments_say_what_to_do(hub, tmp_path):
    for message, args in (
        ("does not exist", (str(tmp_path / "nothing"),)),
        ("layer=0 was asked for", (str(hub / "right"), "--layer", "0")),
        ("there is no block 9", (str(hub / "silent"), "--layer", "9")),
        ("is an autoencoder of", (str(hub / "autoencoder"),)),
        ("--device nothing: choose cpu or cuda", (str(hub / "right"), "--device", "nothing")),
    ):
        fails(run(hub, "hooks", *args), 2, message)


def test_rows_that_do_not_count_are_left_out_and_said(hub):
    given = ("hooks", str(hub / "right"), "--json")
    every, some = run(hub, *given), run(hub, *given, "--skip-first", "3", "--exclude-norms-above", "1.2")
    assert "rows: 90 of 96 tokens count; left out: 6 special tokens" in every.stderr
    n = json.loads(some.stdout)["rows"]
    assert f"rows: {n} of 96 tokens count; left out: 18 at the first positions, {78 - n} of extreme norm" in some.stderr
    assert 0 < n < 78
    assert json.loads(every.stdout)["pairs"][0]["fvu"] != json.loads(some.stdout)["pairs"][0]["fvu"]
    fails(run(hub, *given, "--skip-first", "15"), 2, "skip_first=15 leaves too little of 16 positions")
    fails(run(hub, *given, "--exclude-norms-above", "0.5"), 2, "--exclude-norms-above: Input should be greater than 1")
