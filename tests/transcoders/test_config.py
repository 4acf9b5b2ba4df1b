import json

import numpy as np
import pytest
import torch
from oracles import ARCHITECTURES, random_transcoder
from sae_lens.saes.sae import TrainingSAE, TrainingSAEConfig

from faithfulness_plugin.transcoders.config import register_once


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_every_config_survives_json_and_saelenss_registry(architecture, skip):
    fields = {"skip": skip, "jacobian": {"estimator": "exact"}, "jacobian_coefficient": 2.0}
    config = random_transcoder(architecture, **fields).cfg
    there = json.loads(json.dumps(config.to_dict()))
    assert there["architecture"].startswith("faithful_")
    assert TrainingSAEConfig.from_dict(there).to_dict() == config.to_dict()
    assert type(TrainingSAE.from_dict(there)) is ARCHITECTURES[architecture][0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelenss_command_line_can_make_every_config(architecture):
    config = ARCHITECTURES[architecture][1](d_in=512, d_sae=1024)  # as `sae_lens.cli` does
    assert config.d_out == 512


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_a_checkpoint_loads_as_it_was(tmp_path, architecture, skip):
    transcoder = random_transcoder(architecture, skip=skip, dtype="float32").eval()
    transcoder.save_model(tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path).eval()
    x = torch.randn(9, 5)
    torch.testing.assert_close(loaded(x), transcoder(x))
    assert set(loaded.state_dict()) == set(transcoder.state_dict())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d_sae", "512", "is of type str: pass a number"),
        ("d_in", 8.5, "pass a whole number"),
        ("d_out", True, "is of type bool: pass a number"),
        ("jacobian_coefficient", "0.1", "is of type str: pass a number"),
        ("jacobian_warm_up_steps", None, "is of type NoneType: pass a number"),
        ("decoder_init_norm", "0.1", "is of type str: pass a number"),
        ("skip", "yes", "choose True or False"),
    ],
)
def test_a_field_of_another_kind_is_named(as_installed, architecture, field, value, message):
    config_class = ARCHITECTURES[architecture][1]
    with pytest.raises(ValueError, match=f"^{field}={value!r}.*{message}"):
        config_class(**{"d_in": 8, "d_sae": 16, field: value})


def test_whole_numbers_of_any_kind_are_widths(as_installed):
    config = ARCHITECTURES["topk"][1](d_in=8.0, d_sae=np.int64(1e2), k=4.0)
    assert (config.d_in, config.d_sae, config.k) == (8, 100, 4)
    assert json.loads(json.dumps(config.to_dict()))["d_sae"] == 100


def test_a_name_is_registered_once():
    transcoder_class, config_class, _ = ARCHITECTURES["topk"]
    register_once(transcoder_class, config_class)  # SAELens would refuse it
