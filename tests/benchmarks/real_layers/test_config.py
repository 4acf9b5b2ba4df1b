import re
from itertools import product
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from faithfulness_plugin.benchmarks.experiments import EXPERIMENTS
from faithfulness_plugin.benchmarks.methods.controls import (
    NoiseAugmentedTopKTranscoderConfig,
    NoiseAugmentedTranscoderConfig,
)
from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP, Arm, Control
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.real_layers.sweep import without_coefficient
from faithfulness_plugin.jacobian.matching_config import as_config
from faithfulness_plugin.results.schema import Environment
from faithfulness_plugin.results.settings_file import SettingsError, make_config, read_settings

LISTED = EXPERIMENTS["real-layers"]
PRESETS = {name: read_settings(LISTED.preset_path(name)) for name in LISTED.preset_names}
SMALL = {"blocks": [0, 1], "kinds": [{}], "arms": [{}], "line": [], "passage": None, "stored_prompts": 9, "tokens": 600}
PAIR = {"term": "secant", "probe": "pair", "coefficient": 0.3}


def small(**changed: Any) -> RealLayersConfig:
    return RealLayersConfig(**{**SMALL, **changed})


def preset(name: str) -> RealLayersConfig:
    return make_config(PRESETS[name], name, RealLayersConfig)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_compares_matching_with_skip_alone(name):
    config = preset(name)
    assert {NONE, SKIP} <= set(config.arms)
    assert any(arm.is_recipe for arm in config.arms)
    assert config.keep == "rows"
    folders = [run.folder for run in config.runs()]
    assert len(set(folders)) == len(folders)
    assert all(re.fullmatch(r"[\w.\-]+", folder) for folder in folders)


def test_the_defaults_are_the_cpu_size():
    runs = preset("headline").runs()
    assert runs == RealLayersConfig().runs()
    trained = [run for run in runs if run.arm.control != "constant map"]
    assert len(trained) <= 6  # at two and a half minutes, and measuring
    assert {(run.block, run.seed) for run in runs} == {(10, 0)}
    assert any(run.arm.control == "constant map" for run in runs)
    assert any(run.arm.term == "augmentation" and run.arm.skip for run in runs)
    assert any(run.kind.sparsity > 32 and run.arm == SKIP for run in runs)


@pytest.mark.parametrize("name", ["seeds", "controls", "full"])
def test_the_cpu_size_is_the_beginning_of_larger_ones(name):
    small, large = preset("headline"), preset(name)
    assert set(small.runs()) < set(large.runs())
    one, other = (
        RealLayersResult(complete=False, environment=Environment.here(), model="m", config=of) for of in (small, large)
    )
    assert one.settings == other.settings


def test_the_seeds_are_five_on_two_blocks():
    runs = preset("seeds").runs()
    of_recipes = {(run.block, run.seed) for run in runs if run.arm.is_recipe}
    assert of_recipes == {*product((10, 24), range(5))}


def test_the_whole_grid_has_what_the_issue_names():
    config = preset("full")
    assert sorted(config.blocks) == [3, 10, 24]
    assert {kind.architecture for kind in config.kinds} == {"topk", "batch_topk", "jumprelu"}
    terms = [("jvp", "pair"), ("jvp", "difference"), ("jvp", "isotropic"), ("secant", "pair"), ("secant", "difference")]
    for skip, (term, probe) in product((False, True), terms):
        assert any((arm.skip, arm.term, arm.probe, arm.control) == (skip, term, probe, None) for arm in config.arms)
    assert any(arm.gate_bandwidth is not None for arm in config.arms)
    assert {arm.control for arm in config.arms} == {None, *get_args(Control)}
    permuted = {arm.model_copy(update={"layer": "real"}) for arm in config.arms if arm.layer == "permuted"}
    assert {SKIP, Arm(skip=True, control="constant map")} < permuted
    assert any(arm.is_recipe for arm in permuted)
    sparsities = sorted(kind.sparsity for kind in [*config.kinds, *config.line] if kind.architecture == "topk")
    assert sparsities == [8, 16, 32, 64, 128]
    assert SKIP in config.line_arms
    assert any(arm.is_recipe for arm in config.line_arms)


def test_the_sweep_has_other_weights_and_prompts_than_the_results():
    config = preset("sweep")
    assert config.seed not in range(preset("seeds").seed, preset("seeds").seed + 5)
    coefficients: dict[str, set[float]] = {}
    for arm in config.arms:
        if arm.term != "none":
            coefficients.setdefault(without_coefficient(arm), set()).add(arm.coefficient)
    assert len(coefficients) == 6
    assert all(len(of) >= 3 for of in coefficients.values())
    for name in sorted(set(PRESETS) - {"sweep"}):  # they take coefficients that were swept
        for arm in preset(name).arms:
            plain = {"control": None, "layer": "real", "gate_bandwidth": None, "skip": True, "vary": None}
            swept = arm.model_copy(update=plain)
            assert arm.term == "none" or swept in config.arms


def test_a_constant_map_has_neither_a_sparsity_nor_a_seed():
    constant = {"skip": True, "control": "constant map"}
    config = small(arms=[{}, {"skip": True}, constant], kinds=[{}, {"sparsity": 8}], seeds=2)
    found = [run for run in config.runs() if run.arm.control == "constant map"]
    assert [(run.block, run.kind, run.seed) for run in found] == [(0, Kind(), 0), (1, Kind(), 0)]
    assert config.steps(found[0].arm) == 0


def test_extra_compute_is_more_steps():
    config = small(extra_compute=1.5, tokens=51_200)
    assert config.steps(Arm(control="extra compute")) == 150
    assert config.steps(Arm()) == config.n_steps == 100


def test_runs_come_seed_by_seed_with_the_line_and_the_passage():
    passage = {"blocks": [1], "arms": [{}, PAIR]}
    config = small(arms=[{}, PAIR], line=[{"sparsity": 8}], line_arms=[{}], passage=passage, seeds=2, seed=5)
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


def test_augmentation_has_the_points_of_a_secant_and_no_derivative():
    arms = {
        "noise": Arm(term="augmentation", probe="isotropic", coefficient=0.5, skip=True),
        "interpolation": Arm(term="augmentation", probe="difference", coefficient=0.5),
    }
    kinds = {
        NoiseAugmentedTopKTranscoderConfig: Kind(architecture="topk", sparsity=2),
        NoiseAugmentedTranscoderConfig: Kind(architecture="relu", sparsity=2),
    }
    for (name, arm), (expected, kind) in product(arms.items(), kinds.items()):
        cfg = arm.config(kind, 7, d_in=3, d_out=4, d_sae=8, device="cpu")
        assert isinstance(cfg, expected)
        assert (cfg.augmentation_kind, cfg.augmentation_coefficient, cfg.jacobian_coefficient) == (name, 0.5, 0)
        assert (cfg.augmentation_scale, cfg.skip, as_config(cfg.jacobian or {}).seed) == (0.5, arm.skip, 7)
        assert arm.name.endswith(f"{name} augmentation 0.5")


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "relu", "jumprelu"])
def test_every_architecture_is_built_at_its_sparsity(architecture):
    cfg = Arm(skip=True).config(Kind(architecture=architecture, sparsity=3), d_in=3, d_out=4, d_sae=8, device="cpu")
    field = {"relu": "sparsity_coefficient", "jumprelu": "target_l0"}.get(architecture, "k")
    assert getattr(cfg, field) == 3
    assert cfg.skip


def test_names_say_how_arms_differ():
    pair = {"term": "jvp", "probe": "pair", "coefficient": 0.2}
    assert [Arm.model_validate(of).name for of in (
        {}, {"skip": True}, pair, {**pair, "skip": True}, {**pair, "skip": True, "gate_bandwidth": 0.5},
        {"skip": True, "control": "constant map"}, {"skip": True, "control": "frozen skip"},
        {"control": "layer init"}, {"skip": True, "control": "extra compute"}, {"skip": True, "layer": "permuted"},
        {"layer": "permuted"},
    )] == [
        "no term", "skip", "jvp pair 0.2", "skip, jvp pair 0.2", "skip, jvp pair with gates 0.5 0.2",
        "constant map", "frozen mean Jacobian", "layer's weights at first", "skip, extra compute",
        "skip (permuted layer)", "no term (permuted layer)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": [PAIR]}, "secant pair 0.3 is compared with no term, without a term: add that arm"),
        ({"arms": [{}, PAIR, PAIR]}, "arms: a value is given twice"),
        ({"blocks": [1, 1]}, "blocks: a value is given twice"),
        ({"line": [{}]}, "kinds and line: a value is given twice"),
        ({"arms": [{}, {"term": "jvp"}]}, "a term has a probe and a coefficient"),
        ({"arms": [{}, {**PAIR, "gate_bandwidth": 1.0}]}, "gate_bandwidth belongs to jvp"),
        ({"arms": [{}, {**PAIR, "term": "augmentation"}]}, "augmentation is by noise"),
        ({"passage": {"blocks": [2], "arms": [{}]}}, "passage: its blocks have to be among the blocks"),
        ({"tokens": 3}, "do not make one batch of 512: raise tokens"),
        ({"arms": [{}, {**PAIR, "skip": True}]}, "is compared with skip, without a term: add that arm"),
        ({"arms": [{}, {"control": "constant map"}]}, "the control is a skip connection: set skip: true"),
        ({"arms": [{}, {**PAIR, "control": "extra compute"}]}, "extra compute: the control has no term"),
        ({"line_arms": [{}, {}]}, "line_arms: a value is given twice"),
        ({"kinds": [{"l0_coefficient": 2.0}]}, "l0_coefficient belongs to jumprelu"),
        ({"lr_warm_up_steps": 3}, "600 tokens are 2 steps, which do not hold it and the decay of 0: raise tokens"),
        ({"tokens": 51_200, "lr_warm_up_steps": 81}, "100 steps, which do not hold it and the decay of 20"),
        ({"jacobian_warm_up_steps": 3}, "jacobian_warm_up_steps=3: 600 tokens are 2 steps, which do not hold it: "),
        ({"distances": [0.1]}, "one of them is 0.5"),
        ({"spliced_prompts": 40}, "choose at most 32, the number of held-out prompts"),
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
