import json

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


def test_a_name_is_registered_once():
    transcoder_class, config_class, _ = ARCHITECTURES["topk"]
    register_once(transcoder_class, config_class)  # SAELens would refuse it
