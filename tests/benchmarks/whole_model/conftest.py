from pathlib import Path
from typing import Any

import pytest
import tiny_hub

from faithfulness_plugin.benchmarks.whole_model.config import WholeModelConfig, WholeModelOptions
from faithfulness_plugin.benchmarks.whole_model.experiment import WholeModel
from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.results.experiment import complete
from faithfulness_plugin.results.settings_file import make_config

MATCHED = {"skip": True, "term": "jvp", "probe": "pair", "coefficient": 0.5}
SMALL: dict[str, Any] = {
    "kind": {"sparsity": 4},
    "d_sae": 24,
    "stored_prompts": 12,
    "prompts_per_shard": 4,
    "tokens": 320,
    "batch_size": 32,
    "context_size": 16,
    "prompts_per_pass": 4,
    "phase_tokens": 640,
    "held_out_prompts": 6,
    "truth_prompts": 4,
    "truth_tokens": 8,
    "targets": 8,
    "graph_prompts": 1,
    "graph_features": 30,
    "stored_dtype": "float32",
    "arms": [{}, {"arm": {"skip": True}}, {"arm": MATCHED}],
    "side_arms": [
        {"arm": MATCHED, "control": "shuffled decoders"},
        {"arm": MATCHED, "then": "KL"},
        {"arm": MATCHED, "then": "KL and loss"},
        {"arm": MATCHED, "control": "permuted model"},
    ],
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, Any]:
    written = tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))
    return {**SMALL, "model": {**written["model"], "dtype": "float32"}, "text": written["text"]}


@pytest.fixture(scope="module")
def config(settings) -> WholeModelConfig:
    return make_config(settings, "here", WholeModelConfig)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def out(config, stores, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    complete(WholeModel(), config, folder, options=WholeModelOptions(stores=str(stores)))
    return folder


@pytest.fixture(scope="module")
def result(out) -> WholeModelResult:
    return WholeModelResult.model_validate_json((out / "result.json").read_text())
