import re
from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.image import imread
from real_layers import arm_record, passage_record, result_of

from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.cosine_line import beside_the_line
from faithfulness_plugin.benchmarks.real_layers.drawings import figures
from faithfulness_plugin.benchmarks.real_layers.experiment import RealLayers
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.overview import overview
from faithfulness_plugin.benchmarks.real_layers.passages import passages
from faithfulness_plugin.benchmarks.real_layers.prices import prices
from faithfulness_plugin.benchmarks.real_layers.report import page
from faithfulness_plugin.benchmarks.real_layers.tables import tables
from faithfulness_plugin.results.experiment import write_report
from faithfulness_plugin.results.schema import fingerprint

PAIR = Arm(term="secant", probe="pair", coefficient=0.3)
ISOTROPIC = Arm(term="jvp", probe="isotropic", coefficient=0.2)
CONTROL = Arm(term="augmentation", probe="difference", coefficient=0.5)
N = 12


def experiment(pair_fvu: Sequence[float] = (0.5,) * N, pair_error: float = 0.7, control_error: float = 0.8):
    return result_of(
        [
            arm_record(Arm(), error=[0.5] * N, jacobian=[0.9] * N, response=[0.4] * N),
            arm_record(PAIR, error=list(pair_fvu), jacobian=[pair_error] * N, response=[0.3] * N),
            arm_record(ISOTROPIC, error=[0.5] * N, jacobian=[0.6] * N, response=[0.3] * N),
            arm_record(CONTROL, error=[0.5] * N, jacobian=[control_error] * N, response=[0.35] * N),
        ]
    )


def test_tables_hold_every_arm_with_its_numbers():
    told = tables(experiment())
    assert "without a skip connection pairs 0.200" in told
    assert "with the mean Jacobian as skip connection pairs 0.100" in told
    row = next(line for line in told.splitlines() if line.startswith("| secant pair 0.3 | 0.500"))
    assert re.search(r"\| 32.0 \| 0.100 \| 0.700", row)
    assert re.search(r"\| 0.1000 ± <?0.0\S+ \| 0.900 ± <?0.0\S+ \| 0.1000 ± <?0.0\S+ \|$", row)
    assert "| secant pair 0.3 | 0.300 | 0.300 | 0.300 | 0.500 |" in told
    assert re.search(r"\| secant pair 0.3 \| \+0.0 % .*\| -25.0 % .*\| -22.2 %", told)


def test_the_overview_has_every_arm_once_and_says_which_claims_fail():
    recipe, skip = Arm(skip=True, term="jvp", probe="pair", coefficient=0.3), Arm(skip=True)
    wide = Kind(sparsity=64)
    trained = [
        arm_record(skip, error=[0.5] * N, jacobian=[0.7] * N, seconds=10.0),
        arm_record(recipe, error=[0.5] * N, jacobian=[0.65] * N, seconds=15.0),
        arm_record(CONTROL.model_copy(update={"skip": True}), error=[0.5] * N, jacobian=[0.6] * N, seconds=20.0),
        arm_record(skip, kind=wide, l0=64.0, error=[0.4] * N, jacobian=[0.68] * N, seconds=11.0),
    ]
    told = overview(result_of(trained, line=[wide], line_arms=[skip], tokens=5120, batch_size=512))
    names = [line.split(" | ")[0].removeprefix("| ") for line in told.splitlines() if line.startswith("| ")]
    assert names == [
        "arm",
        "---",
        "skip",
        "**skip, jvp pair 0.3**",
        "*control:* skip, interpolation augmentation 0.5",
        "*control:* skip, topk k 64",
    ]
    assert re.search(r"\*\*skip, jvp pair 0.3\*\* \| 0.500 \S+ \S+ \| 0.650 .*\| 1.50 \|", told)
    assert "- Block 0, topk k 32, skip, jvp pair 0.3: 4 of 6 claims hold; not: its pair error is at most 0.60" in told
    assert "; less pair error than skip, interpolation augmentation 0.5 (+8.3 %" in told


def test_controls_stand_beneath_the_arms():
    skip = Arm(skip=True)
    arms = [CONTROL, Arm(skip=True, layer="permuted"), skip, Arm(skip=True, control="constant map"), PAIR]
    result = result_of([arm_record(arm) for arm in arms])
    rows = [line.split(" | ")[0].removeprefix("| ") for line in tables(result).splitlines() if line.startswith("| ")]
    first = rows[rows.index("arm") + 2 :][:5]
    assert first == [
        "skip",
        "secant pair 0.3",
        "*control:* interpolation augmentation 0.5",
        "*control:* constant map",
        "*control:* skip (permuted layer)",
    ]


def test_a_result_of_version_0_8_is_shown_as_superseded():
    trained = [arm_record(arm, floors=None, ce=None, peak_memory=None) for arm in (Arm(), PAIR)]
    old = result_of(trained, keep="derivatives")
    text = page(old)
    assert "**Superseded.**" in text
    assert "Floor of the Jacobian error: pairs 0.200" in text
    assert "| 0.1000 | 0.900 | 0.100 |" in text  # ΔCE, CE recovered and KL, without intervals
    assert "**Superseded.**" not in page(result_of([arm_record(arm) for arm in (Arm(), PAIR)]))


def test_prices_are_speeds_beside_the_baselines():
    trained = [
        arm_record(Arm(), seconds=10.0),
        arm_record(PAIR, seconds=15.0),
        arm_record(Arm(skip=True), seconds=None, peak_memory=None),
    ]
    told = prices(result_of(trained, tokens=5120, batch_size=512))
    assert "| 0, topk k 32 | no term | 512 | - | 2.00 |" in told
    assert "| 0, topk k 32 | secant pair 0.3 | 341 | 1.50 | 2.00 |" in told
    assert "skip" not in told
    assert prices(result_of(trained[2:])) == ""


def test_the_line_is_that_of_transcoders_without_a_term():
    """cosine = 0.8 - FVU, and one arm 0.1 above it."""
    unmatched = [
        arm_record(Arm(), kind=Kind(sparsity=k), error=[fvu] * N, cosine=0.8 - fvu)
        for k, fvu in ((16, 0.6), (32, 0.5), (64, 0.4))
    ]
    arm = arm_record(PAIR, error=[0.45] * N, cosine=0.45)
    line = [Kind(sparsity=16), Kind(sparsity=64)]
    told = beside_the_line(result_of([*unmatched, arm], line=line, line_arms=[Arm()]), 0)
    assert "cosine = 0.800 -1.000 FVU" in told
    assert "3 transcoders without a term lie within 0.000 of it" in told
    assert "| topk k 32 | secant pair 0.3 | 0.450 | +0.100 |" in told
    assert beside_the_line(result_of([unmatched[1], arm]), 0) == ""


def test_the_passage_with_and_without_repetition():
    trained = [
        arm_record(Arm(), passage=passage_record(0.05)),
        arm_record(Arm(), passage=passage_record(0.6), repeated=True),
        arm_record(PAIR, passage=passage_record(0.1), repeated=True),
    ]
    result = result_of(trained, passage={"blocks": [0], "arms": [Arm(), PAIR]}, arms=[Arm(), PAIR])
    lines = passages(result).splitlines()[2:]
    assert [line.split(" | ")[1:4] for line in lines] == [
        ["without", "no term", "0.050"],
        ["with repetition", "no term", "0.600"],
        ["with repetition", "secant pair 0.3", "0.100"],
    ]
    assert "passage_features.png" in page(result)


def test_the_figure_has_both_floors_the_constant_map_and_seeds_as_dots():
    skip, constant = Arm(skip=True), Arm(skip=True, control="constant map")
    trained = [arm_record(arm, seed=seed, error=[0.4 + 0.1 * seed] * N) for seed in (0, 1) for arm in (Arm(), skip)]
    trained.append(arm_record(constant, jacobian=[0.7] * N, l0=0.0))
    (ax,) = figures(result_of(trained, seeds=2))["error_against_fvu.png"].axes
    assert {text.get_text() for text in ax.texts} >= {"floor 0.20", "floor with skip 0.10", "constant map 0.70"}
    dots = [float(np.asarray(line.get_xdata())[0]) for line in ax.lines if line.get_marker() == "."]
    assert dots == pytest.approx([0.4, 0.5, 0.4, 0.5])  # of no term, and of skip


def test_page_and_figures_are_made_of_the_result(tmp_path):
    trained = [
        arm_record(arm, passage=passage_record(0.2), repeated=repeated, block=block)
        for block in (0, 3)
        for repeated in (False, True)
        for arm in (Arm(), PAIR)
    ]
    result = result_of(trained, passage={"blocks": [0, 3], "arms": [Arm(), PAIR]})
    written = write_report(RealLayers(), result, tmp_path)
    assert sorted(path.name for path in written) == [
        "error_against_fvu.png",
        "passage_features.png",
        "report.md",
        "response_cosines.png",
        "responses.png",
    ]
    text = (tmp_path / "report.md").read_text()
    for path in written[1:]:
        assert f"({path.name})" in text
        assert imread(path).size > 0
        assert fingerprint(result).encode() in path.read_bytes()
