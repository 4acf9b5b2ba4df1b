"""What importing the package loads, and that SAELens knows its classes, in processes of their own."""

import importlib
import json
import subprocess
import sys

import forks
import pytest

import faithfulness_plugin

HEAVY = ("sae_lens", "transformer_lens", "transformers", "matplotlib", "datasets", "torch._dynamo")


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("statement", "torch_too"),
    [
        ("import faithfulness_plugin", False),
        ("from faithfulness_plugin.cli.app import app", False),
        (
            "from faithfulness_plugin import (JacobianMatching, JacobianMatchingConfig, AbsInputs, layer_jvp,"
            " layer_vjp, transcoder_jvp, transcoder_vjp, gradient_masking_penalty, metrics)",
            True,
        ),
    ],
)
def test_what_needs_no_saelens_loads_none(statement, torch_too):
    loaded = f"print([name for name in {('torch', *HEAVY)} if name in sys.modules])"
    assert in_a_new_process(f"import sys; {statement}; {loaded}").strip() == str(["torch"] if torch_too else [])


FIRST = {
    "the plugin": "import faithfulness_plugin; import sae_lens",
    "SAELens": "import sae_lens; import faithfulness_plugin",
    "a class of ours": "from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder; import sae_lens",
    "a module of SAELens": "import sae_lens.registry; import faithfulness_plugin; import sae_lens",
}


@pytest.mark.parametrize("first", FIRST)
def test_saelens_loads_a_topk_export_whichever_package_is_imported_first(make_transcoder, tmp_path, first):
    make_transcoder("topk").save_inference_model(tmp_path)
    code = f"{FIRST[first]}; print(type(sae_lens.SAE.load_from_disk({str(tmp_path)!r})).__name__)"
    done = forks.run(code)
    assert (done.returncode, done.stdout.strip()) == (0, "TopKTranscoder"), done.stderr


def test_a_topk_export_says_what_reads_it(make_transcoder, tmp_path):
    make_transcoder("topk").save_inference_model(tmp_path)
    make_transcoder("standard").save_inference_model(tmp_path / "stock")
    of = [json.loads((folder / "cfg.json").read_text())["metadata"] for folder in (tmp_path, tmp_path / "stock")]
    assert "faithfulness-plugin" in of[0]["requires"]
    assert "requires" not in of[1]


def test_every_public_name_can_be_had_and_is_listed():
    for name in faithfulness_plugin.__all__:
        assert getattr(faithfulness_plugin, name) is not None
    assert set(faithfulness_plugin.__all__) <= set(dir(faithfulness_plugin))
    assert not {"Any", "TYPE_CHECKING"} & set(dir(faithfulness_plugin))
    with pytest.raises(AttributeError, match="no_such_name"):
        faithfulness_plugin.no_such_name  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


FOUND = {
    "layers": {"any_model", "hooked_layer"},
    "jacobian": {"linear_region", "estimators"},
    "adapters": {"sparsify", "transformer_lens", "sae_lens"},
    "toy": {"exact_transcoder"},
    "measure": {"candidate_hooks"},
    "benchmarks": {"figures"},
    "training": {"train_transcoder"},
    "metrics": {"jacobian_error", "memorization_by_feature"},
    "adapters.transformer_lens": {"attach"},
}


def test_dir_of_a_package_lists_what_is_there_and_it_can_be_had():
    code = "import importlib, json; print(json.dumps({name: dir(importlib.import_module(f'faithfulness_plugin.{name}'))"
    there = json.loads(in_a_new_process(f"{code} for name in {list(FOUND)}}}))"))
    for package, names in FOUND.items():
        assert names <= set(there[package])
        for name in names if package != "adapters" else ():  # some of which need their libraries
            assert getattr(importlib.import_module(f"faithfulness_plugin.{package}"), name) is not None
    assert not hasattr(importlib.import_module("faithfulness_plugin.adapters"), "no_such_adapter")
    assert {"figures", "inspection", "metrics", "store"} <= set(dir(faithfulness_plugin))


def test_forward_mode_is_left_out_of_the_compiler_that_is_loaded_later():
    code = (
        "import sys, torch; from faithfulness_plugin import layer_jvp; assert 'torch._dynamo' not in sys.modules;"
        "layer = torch.nn.Linear(3, 2); x = torch.randn(4, 3);"
        "compiled = torch.compile(lambda x: layer_jvp(layer, x, x)[1] * 2, backend='eager')(x);"
        "torch.testing.assert_close(compiled, 2 * x @ layer.weight.T)"
    )
    in_a_new_process(code)
