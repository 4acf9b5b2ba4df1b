from pathlib import Path
from typing import Any

import pytest
import tiny_hub
from real_layer_runs import TERMS
from real_layers import SMALL


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> dict[str, Any]:
    written = tiny_hub.write_hub(tmp_path_factory.mktemp("hub"))
    model = {**written["model"], "dtype": "float32"}
    precise = {"stored_dtype": "float32", "arms": [{}, TERMS[-1]], "distances": [0.5, 1.0]}
    return {**SMALL, **precise, "model": model, "text": written["text"]}


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stores")
