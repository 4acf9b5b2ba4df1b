"""Bad arguments are refused at once: in one line, with the exit code 2, and before anything heavy is loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

REFUSE = Path(__file__).resolve().parent.parent / "refuse.py"

NOWHERE = "/proc/nowhere"
"""A place in which not even the root user can make a folder."""
OWN = ["inspect", "{t}", "--layer", "my_module:layer"]

REFUSALS: list[tuple[list[str], str]] = [
    # rows of a layer of one's own
    ([*OWN, "--rows", "{nan}"], "row 2 holds NaN or Inf"),
    ([*OWN, "--rows", "{inf}"], "row 0 holds NaN or Inf"),
    ([*OWN, "--rows", "{text}"], "cannot be read"),
    ([*OWN, "--rows", "{flat}"], "holds (5,) of float64: give [n, d_in] as .npy"),
    ([*OWN, "--rows", "{none}"], "cannot be read"),
    (["inspect", "{t}", "--rows", "{nan}"], "--rows and a layer of your own"),
    # folders that cannot be written, that are full, or in which something else stands
    (["reproduce", "--out", NOWHERE], "cannot be written"),
    (["train", "--out", f"{NOWHERE}/a"], "cannot be written"),
    (["train", "--stores", NOWHERE], "cannot be written"),
    (["measure", "{t}", "--out", NOWHERE], "cannot be written"),
    (["inspect", "{t}", "--out", f"{NOWHERE}/page.html"], "cannot be written"),
    (["scan", "--vary", "lr=0.1,0.2", "--out", NOWHERE], "cannot be written"),
    (["bench", "run", "--out", NOWHERE], "cannot be written"),
    (["experiment", "speed", "--out", NOWHERE], "cannot be written"),
    (["reproduce", "--out", "{text}"], "cannot be written"),
    (["train", "--out", "{full}"], "2.0 MB are needed and its disk has 0.0 MB free"),
    (["measure", "{t}", "--out", "{full}"], "make room, or choose another --out"),
    (["inspect", "{t}", "--out", "{full}/page.html"], "make room"),
    (["reproduce", "--out", "{others}"], "is not empty and holds no result.json"),
    (["train", "--out", "{others}"], "is not empty and holds no result.json"),
    (["inspect", "{t}", "--out", "{text}"], "is there already"),
    (["inspect", "{t}", "--out", "{others}"], "is a folder"),
    # results of something else
    (["reproduce", "--out", "{suite}"], "is corrupt, or not a result of this command"),
    (["scan", "--vary", "lr=0.1,0.2", "--out", "{suite}"], "is corrupt, or not a result of this command"),
    (["train", "--out", "{suite}"], "is corrupt, or not a result of this command"),
    (["measure", "{t}", "--out", "{suite}"], "is corrupt, or not a result of this command"),
    (["bench", "run", "--out", "{toy}"], "is corrupt, or not a result of this command"),
    (["experiment", "speed", "--out", "{suite}"], "is a result of another command (faithfulness)"),
    (["bench", "leaderboard", "{toy}"], "is corrupt, or not a result of this command"),
    (["bench", "compare", "{none}", "--against", "a"], "pass the folder of a result"),
    (["bench", "card", "{none}"], "cannot be read"),
    (["bench", "rerun", "{none}"], "cannot be read"),
    (["report", "--results", "{others}"], "holds no result of a preset"),
    # paths and addresses of transcoders
    (["measure", "{none}"], "does not exist: pass the folder that a transcoder was saved to"),
    (["inspect", "{t}", "--compare", "{none}"], "does not exist"),
    (["hooks", "{none}"], "does not exist"),
    (["measure", "hf://owner"], "is no address"),
    (["inspect", "hf://"], "is no address"),
    (["hooks", "hf://owner/repo@"], "is no address"),
    (["measure", "gemma-scope-2b-pt-transcoder/layer_0"], "did you mean gemma-scope-2b-pt-transcoders"),
    (["inspect", "gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_7"], "did you mean"),
    (["measure", "a={t}", "a={others}"], "there is a a already"),
    # models, where the hub cannot be reached
    (["measure", "{t}", "--model", "gpt2"], "model gpt2 could not be loaded ("),
    (["inspect", "{t}", "--model", "no/such"], "check the name or folder and the network"),
    (["hooks", "{t}", "--model", "a/b/c"], "model a/b/c could not be loaded ("),
    (["train", "{s_model}"], "or use model: {{name: smollm2}}, which needs none"),
    # text
    (["measure", "{t}", "--text", "{empty}"], "there is no text in"),
    (["inspect", "{t}", "--text", "{latin}"], "cannot be read as text"),
    (["hooks", "{t}", "--text", "{none}"], "cannot be read as text"),
    (["measure", "{t}", "--text", "{ok}", "--text", "{ok}"], "is given twice"),
    (["hooks", "{t}", "--text", "{others}"], "there is no .txt file in"),
    (["train", "{s_text}"], "there is no text in"),
    # numbers out of range
    (["reproduce", "--density", "1.5"], "--density: Input should be less than or equal to 1"),
    (["reproduce", "--jobs", "0"], "--jobs 0"),
    (["reproduce", "--seeds", "0"], "--seeds 0"),
    (["measure", "{t}", "--prompts", "1"], "--prompts: Input should be greater than or equal to 2"),
    (["measure", "{t}", "--context-size", "1"], "--context-size: Input should be greater than or equal to 2"),
    (["measure", "{t}", "--skip-first", "200"], "leaves too little of 128 positions"),
    (["hooks", "{t}", "--skip-first", "64"], "leaves too little of 64 positions"),
    (["inspect", "{t}", "--skip-first", "127"], "leaves too little of 128 positions"),
    (["inspect", "{t}", "--exclude-norms-above", "1"], "greater than 1"),
    (["hooks", "{t}", "--exclude-norms-above", "0.5"], "--exclude-norms-above: Input should be greater than 1"),
    (["inspect", "{t}", "--tokens", "0"], "greater than or equal to 2"),
    (["train", "--tokens", "5"], "do not make one batch"),
    (["train", "--seeds", "0"], "greater than or equal to 1"),
    (["scan", "--vary", "lr=0,0.1"], "greater than 0"),
    (["scan", "--vary", "lr=0.1", "--seeds", "0"], "greater than or equal to 1"),
    (["scan", "--preset", "audit", "--seeds", "0"], "--seeds 0"),
    (["scan", "--preset", "emergence", "--shard-size", "0"], "--shard-size 0"),
    (["bench", "run", "--seeds", "99"], "--seeds 99: the frozen list has 20"),
    (["bench", "run", "--n-steps", "1"], "greater than or equal to 20"),
    (["bench", "run", "--time-limit", "0"], "greater than 0"),
    (["bench", "run", "--jobs", "-2"], "--jobs -2"),
    (["bench", "rerun", "{suite}", "--trials", "0"], "--trials 0"),
    (["experiment", "speed", "--rounds", "0"], "greater than or equal to 1"),
    (["experiment", "inspection-toy", "--jobs", "0"], "--jobs 0"),
    (["experiment", "store", "--prompts", "1"], "greater than or equal to 2"),
    (["measure", "{t}", "--prompts", "4", "--tokens", "900"], "pass one of them"),
    (["hooks", "{t}", "--prompts", "0"], "--prompts: Input should be greater than or equal to 1"),
    (["inspect", "{t}", "--layer", "abs", "--prompts", "5"], "pass --tokens, the number of rows"),
    (["measure", "{none}", "--block", "3"], "does not exist"),
    # unknown names
    (["bench", "run", "--method", "relu_tan-jvp"], "did you mean relu_tanh-jvp"),
    (["bench", "run", "--method", "no_such_module:method"], "cannot be imported"),
    (["bench", "run", "--task", "absolut_value"], "did you mean absolute_value?"),
    (["bench", "run", "--size", "huge"], "choose from quick, standard, full"),
    (["bench", "run", "--backend", "slurm"], "choose local or ray"),
    (["bench", "compare", "{suite}", "--against", "topk"], "the results have no method 'topk'"),
    (["bench", "compare", "{suite}", "--against", "a", "--format", "html"], "choose from markdown, latex, csv"),
    (["bench", "card", "{suite}", "--method", "topk"], "the results have no method 'topk'"),
    (["bench", "card", "{suite}", "--out", "card.gif"], ".png, .pdf, .svg, .html"),
    (["scan", "--preset", "emergenc"], "did you mean emergence?"),
    (["scan", "--vary", "lrr=1"], "did you mean lr?"),
    (["scan", "--vary", "estimator=jvp,jpv"], "estimator"),
    (["scan", "--vary", "architecture=gated"], "architecture"),
    (["scan", "{none}"], "cannot be read"),
    (["reproduce", "--architecture", "gated"], "architecture"),
    (["inspect", "{t}", "--device", "tpu"], "device"),
    (["hooks", "{t}", "--device", "tpu"], "choose cpu or cuda"),
    (["measure", "{t}", "--device", "tpu"], "Input should be 'cpu' or 'cuda'"),
    (["inspect", "{t}", "--records", "a.csv"], "ends in .parquet or .jsonl"),
    (["experiment", "speed", "--sizes", "huge"], "choose from toy"),
    (["experiment", "adapter", "--library", "saelens"], "library"),
    (["experiment", "sped"], "did you mean speed?"),
    (["benhc"], "did you mean bench?"),
    # files of settings
    (["train", "{none}"], "cannot be read (No such file"),
    (["train", "{s_yaml}"], "is not valid YAML"),
    (["train", "{s_unknown}"], "there is no setting tokns: did you mean tokens?"),
    (["train", "{s_estimator}"], "estimator='jpv' is unknown"),
    (["train", "{s_probe}"], 'estimator="vjp" draws directions of the output'),
    (["train", "{s_secant}"], "the secant trains its gates by itself"),
    (["train", "{s_k}"], "k=5: choose more than 0 active features and at most d_sae=4"),
    (["train", "{s_architecture}"], "architecture: Input should be 'topk'"),
    (["train", "{s_penalty}"], "sparsity_coefficient"),
    (["experiment", "real-layers", "--settings", "{s_unknown}"], "there is no setting tokns"),
    (["scan", "{s_yaml}"], "is not valid YAML"),
    # settings that do not fit together
    (["reproduce", "--n-ones", "40"], "at most d_in=16 fit"),
    (["reproduce", "--architecture", "topk", "--k", "100"], "k=100"),
    (["scan", "--set", "estimator=vjp", "--vary", "probe=pair,sphere"], "directions of the input"),
    (["scan", "--set", "architecture=topk", "--vary", "k=1.5,2"], "whole number"),
    (["inspect", "{t}", "--layer", "abs", "--skip-first", "1"], "are for the rows of a text"),
    (["bench", "run", "--quick", "--size", "full"], "leave out one of"),
    (["scan", "--preset", "audit", "--vary", "lr=1"], "leave --vary and --set out"),
]

SETTINGS: dict[str, Any] = {
    "s_model": {"model": {"name": "gpt2"}},
    "s_text": {"text": {"files": ["{empty}"]}},
    "s_unknown": {"tokns": 5},
    "s_estimator": {"jacobian": {"estimator": "jpv"}},
    "s_probe": {"jacobian": {"estimator": "vjp", "probe": "pair"}},
    "s_secant": {"jacobian": {"estimator": "secant", "gate_bandwidth": 0.1}},
    "s_k": {"transcoder": {"d_sae": 4, "k": 5}},
    "s_architecture": {"architecture": "gated"},
    "s_penalty": {"architecture": "standard", "transcoder": {"d_sae": 4, "sparsity_coefficient": -1}},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """Files and folders that arguments name in braces."""
    folder = tmp_path_factory.mktemp("places")
    found = {name: folder / name for name in ("t", "others", "full", "suite", "toy", "none")}
    for name in ("t", "others", "full", "suite", "toy"):
        found[name].mkdir()
    (found["t"] / "cfg.json").write_text("{}")
    (found["others"] / "mine.md").write_text("mine")
    trials: dict[str, Any] = {
        "suite_version": 1,
        "tasks": ["rotated"],
        "seeds": [11, 23],
        "n_steps": 20,
        "time_limit": 1,
    }
    methods = [{"name": name, "strengths": [1.0], "source": "baseline"} for name in ("a", "b")]
    here = {"python": "", "machine": "", "device": "", "packages": {}}
    suite = {
        "benchmark": "faithfulness",
        "complete": True,
        "environment": here,
        "spec": {**trials, "methods": methods},
        "layer_l0": {"rotated": 1.0},
        "trials": [],
    }
    (found["suite"] / "result.json").write_text(json.dumps(suite))
    (found["toy"] / "result.json").write_text(json.dumps({"benchmark": "scan"}))
    rows = np.ones((4, 5))
    for name, array in {"nan": rows.copy(), "inf": rows.copy(), "flat": rows[0]}.items():
        found[name] = folder / f"{name}.npy"
        if name != "flat":
            array[2 if name == "nan" else 0, 1] = float(name)
        np.save(found[name], array)
    for name, content in {"text": b"no array", "empty": b" \n", "latin": b"caf\xe9", "ok": b"words"}.items():
        found[name] = folder / f"{name}.txt"
        found[name].write_bytes(content)
    for name, settings in SETTINGS.items():
        found[name] = folder / f"{name}.yaml"
        found[name].write_text(yaml.safe_dump(settings).replace("{empty}", str(found["empty"])))
    found["s_yaml"] = folder / "bad.yaml"
    found["s_yaml"].write_text("a: [")
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(scope="module")
def refused(places, tmp_path_factory) -> list[list[Any]]:
    """What became of all of them, one after another in one process."""
    arguments = [[part.format(**places) for part in given] for given, _ in REFUSALS]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", REFUSE],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("cwd"),
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path_factory.mktemp("hub"))},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(REFUSALS)), ids=[" ".join(given) for given, _ in REFUSALS])
def test_it_is_refused_in_a_line_before_anything_is_loaded(refused, number):
    (_, message), (code, stderr, stdout, heavy, _) = REFUSALS[number], refused[number]
    assert message.format() in stderr if "{{" in message else message in stderr
    assert code == 2
    assert stdout == ""
    assert "Traceback" not in stderr
    assert len(stderr.strip().splitlines()[-1:]) == 1
    assert heavy == []


def test_nothing_stays_written(refused, places):
    assert [path.name for path in Path(places["full"]).iterdir()] == []
    assert [path.name for path in Path(places["others"]).iterdir()] == ["mine.md"]
