from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from faithfulness_plugin.benchmarks import real_layers
from faithfulness_plugin.benchmarks.methods.controls import (
    NoiseAugmentedTopKTranscoderConfig,
    NoiseAugmentedTranscoderConfig,
)
from faithfulness_plugin.benchmarks.real_layers.arms import PROBES, Arm, Kind
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
from faithfulness_plugin.jacobian.matching_config import as_config
from faithfulness_plugin.results.settings_file import SettingsError, make_config, read_settings
from faithfulness_plugin.store.index import Product

GPU = Path(real_layers.__file__).parent / "gpu.yaml"
SIZES = {"cpu": {}, "gpu": read_settings(GPU)}
SMALL = {"blocks": [0, 1], "kinds": [{}], "arms": [{}], "line": [], "passage": None, "stored_prompts": 9, "tokens": 600}
PAIR = {"term": "secant", "probe": "pair", "coefficient": 0.3}


def small(**changed: Any) -> RealLayersConfig:
    return RealLayersConfig(**{**SMALL, **changed})


@pytest.mark.parametrize("size", SIZES)
def test_a_size_holds_what_the_experiment_compares(size):
    config = RealLayersConfig(**SIZES[size])
    arms = {(arm.term, arm.probe) for arm in config.arms}
    assert {("none", None), *product(("jvp",), PROBES), *product(("secant",), ("difference", "pair"))} <= arms
    assert ("augmentation", "difference") in arms
    assert config.passage is not None
    assert len(config.blocks) >= 2
    names = [run.folder for run in config.runs()]
    assert len(set(names)) == len(names)


def test_the_gpu_size_is_the_whole_grid():
    config = RealLayersConfig(**SIZES["gpu"])
    assert {kind.architecture for kind in config.kinds} == {"topk", "relu"}
    assert {kind.skip for kind in config.kinds} == {False, True}
    assert any(arm.gate_bandwidth is not None for arm in config.arms)
    assert len({arm.coefficient for arm in config.arms if arm.name.startswith("jvp pair 0")}) == 2
    assert config.seeds > 1


def test_the_cpu_size_is_a_dozen_to_sixteen_runs_beside_the_line_and_the_passage():
    config = RealLayersConfig(**SIZES["cpu"])
    runs = config.runs()
    compared = [run for run in runs if run.kind in config.kinds and not run.repeated]
    assert 12 <= len(compared) <= 16
    assert {run.kind.architecture for run in runs} == {"topk"}
    assert not any(run.kind.skip for run in runs)


def test_runs_come_seed_by_seed_with_the_line_and_the_passage():
    passage = {"blocks": [1], "arms": [{}, PAIR]}
    config = small(arms=[{}, PAIR], line=[{"sparsity": 8}], passage=passage, seeds=2, seed=5)
    assert [run.name for run in config.runs()[:8]] == [
        "block 0, topk k 32, no term, seed 5",
        "block 0, topk k 32, secant pair 0.3, seed 5",
        "block 1, topk k 32, no term, seed 5",
        "block 1, topk k 32, secant pair 0.3, seed 5",
        "block 0, topk k 8, no term, seed 5",
        "block 1, topk k 8, no term, seed 5",
        "block 1, topk k 32, no term, passage, seed 5",
        "block 1, topk k 32, secant pair 0.3, passage, seed 5",
    ]
    assert {run.seed for run in config.runs()[8:]} == {6}


def test_a_store_keeps_every_derivative_once():
    gates = {"term": "jvp", "probe": "pair", "coefficient": 0.2, "gate_bandwidth": 1.0}
    arms = [{}, {**gates, "gate_bandwidth": None}, gates, {**gates, "coefficient": 0.5}, PAIR]
    kept = small(arms=arms).derivatives(repeated=False)
    assert [str(Product.of(of)) for of in kept] == ["jvp pair", "secant pair radius 0.5"]


def test_the_controls_take_their_outputs_from_the_secants_that_are_kept():
    arms = {
        "noise": Arm(term="augmentation", probe="isotropic", coefficient=0.5),
        "interpolation": Arm(term="augmentation", probe="difference", coefficient=0.5),
    }
    kinds = {
        NoiseAugmentedTopKTranscoderConfig: Kind(architecture="topk", sparsity=2),
        NoiseAugmentedTranscoderConfig: Kind(architecture="relu", sparsity=2),
    }
    for (name, arm), (expected, kind) in product(arms.items(), kinds.items()):
        cfg = kind.config(arm, d_in=3, d_out=4, d_sae=8, device="cpu")
        assert isinstance(cfg, expected)
        assert (cfg.augmentation_kind, cfg.augmentation_coefficient, cfg.jacobian_coefficient) == (name, 0.5, 0)
        assert as_config(cfg.jacobian or {}).radius == cfg.augmentation_scale
        assert arm.name == f"{name} augmentation 0.5"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": [PAIR]}, "one arm has to be without a term"),
        ({"arms": [{}, PAIR, PAIR]}, "arms: a value stands there twice"),
        ({"blocks": [1, 1]}, "blocks: a value stands there twice"),
        ({"line": [{}]}, "kinds and line: a value stands there twice"),
        ({"arms": [{}, {"term": "jvp"}]}, "a term has a probe and a coefficient"),
        ({"arms": [{}, {**PAIR, "gate_bandwidth": 1.0}]}, "gate_bandwidth belongs to jvp"),
        ({"arms": [{}, {**PAIR, "term": "augmentation"}]}, "augmentation is by noise"),
        ({"passage": {"blocks": [2], "arms": [{}]}}, "passage: its blocks have to be among the blocks"),
        ({"tokens": 3}, "do not make one batch of 512: raise tokens"),
        ({"distances": [0.1]}, "one of them is 0.5"),
        ({"spliced_prompts": 40}, "there are 32 held-out prompts"),
        ({"kinds": [{"sparsity": 5000}]}, "choose more than 0 active features and at most d_sae=2304"),
    ],
)
def test_settings_that_do_not_fit(changed, message):
    with pytest.raises(ValidationError, match=message):
        small(**changed)


def test_a_setting_that_does_not_exist_is_told_with_the_nearest():
    for settings, message in (
        ({"prompts": 5}, "there is no setting prompts"),
        ({"kinds": [{"arch": "topk"}]}, r"there is no setting kinds.0.arch: .*architecture"),
        ({"passage": {"blocks": [0], "arms": [{}], "shares": 0.1}}, r"no setting passage.shares: .*share"),
    ):
        with pytest.raises(SettingsError, match=message):
            make_config({**SMALL, **settings}, "here", RealLayersConfig)
