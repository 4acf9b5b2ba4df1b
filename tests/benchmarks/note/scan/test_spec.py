import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.benchmarks.note.scan.presets import names, preset
from faithfulness_plugin.benchmarks.note.scan.settings import Settings
from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.results.settings_file import make_config


@given(
    arms=st.integers(1, 3), rows=st.integers(1, 4), columns=st.integers(1, 3), seeds=st.integers(1, 3),
)  # fmt: skip
def test_every_arm_at_every_point_of_the_grid_with_every_seed_once(arms, rows, columns, seeds):
    spec = ScanSpec.model_validate(
        {
            "arms": {f"arm {i}": {"jacobian_coefficient": float(i)} for i in range(arms)},
            "grid": {
                "repeat_frac": [0.01 * (i + 1) for i in range(rows)],
                "sparsity_coefficient": [0.1 * (i + 1) for i in range(columns)],
            },
            "seeds": seeds,
            "first_seed": 7,
        }
    )
    keys = [(p.arm, *p.values.values(), p.seed) for p in spec.points]
    assert len(keys) == len(set(keys)) == spec.n_points == arms * rows * columns * seeds
    assert {p.seed for p in spec.points} == set(range(7, 7 + seeds))


def test_arms_change_the_base_and_the_grid_changes_both():
    spec = ScanSpec.model_validate(
        {
            "base": {"n_steps": 10, "jitter": 0.5},
            "arms": {"a": {"jitter": 0.0}, "b": {}},
            "grid": {"sparsity_coefficient": [0.1, 0.3]},
        }
    )
    found = {(p.arm, p.values["sparsity_coefficient"]): spec.settings(p) for p in spec.points}
    assert [found["a", 0.1].jitter, found["b", 0.1].jitter] == [0.0, 0.5]
    assert [found["a", 0.1].sparsity_coefficient, found["a", 0.3].sparsity_coefficient] == [0.1, 0.3]
    assert {s.n_steps for s in found.values()} == {10}


def test_settings_reach_the_member():
    member = Settings(
        estimator="secant",
        jacobian_coefficient=3.0,
        jacobian_warm_up=0.5,
        n_steps=100,
        radius=0.2,
        seed=4,
        augmentation="interpolation",
        augmentation_scale=0.3,
        density=0.7,
    ).member()
    assert (member.matching.estimator, member.matching.radius, member.matching.seed, member.seed) == (
        "secant",
        0.2,
        4,
        4,
    )
    assert (member.transcoder.jacobian_coefficient, member.transcoder.jacobian_warm_up_steps) == (3.0, 50)
    assert member.augmentation is not None
    assert (member.augmentation.kind, member.augmentation.scale, member.density) == ("interpolation", 0.3, 0.7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": {"repeat_fraction": [0.1]}}, "grid: there is no setting repeat_fraction: did you mean repeat_frac?"),
        ({"base": {"sparcity": "l1"}}, "base: there is no setting sparcity: did you mean sparsity?"),
        ({"gird": {}}, "there is no setting gird: did you mean grid?"),
        ({"arms": {"a": {"xyzzy": 1}}}, "arms.a: there is no setting xyzzy: choose from layer, "),
        ({"grid": {"repeat_frac": []}}, "grid.repeat_frac has no value, so that the grid is empty"),
        ({"grid": {"repeat_frac": [0.1, 0.1]}}, "has a value twice"),
        ({"grid": {"seed": [1, 2]}}, "seeds are given by seeds and first_seed"),
        ({"arms": {"a": {"jitter": 1.0}}, "grid": {"jitter": [0.1]}}, "arms.a sets jitter, which the grid varies"),
        ({"arms": {}}, "arms"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": "many"}, "seeds"),
        ({"first_seed": 1_000_000, "seeds": 5}, "draws the validation rows"),
        ({"grid": ["a", "b"]}, "grid: Input should be a valid dictionary"),
        ({"arms": 3}, "arms: Input should be a valid dictionary"),
        ({"arms": {"one": None}}, "arms.one: Input should be a valid dictionary"),
        ({"base": None}, "base: Input should be a valid dictionary"),
        ({"base": {"density": 2.0}}, "density"),
        ({"base": {"n_ones": 17}}, "n_ones=17 ones do not fit in d_in=16"),
        ({"base": {"estimator": "vjp", "probe": "pair"}}, "vjp"),
        ({"extras": ["spectra"]}, "extras"),
        ({"grid": {"repeat_frac": [i / 300 for i in range(1, 200)], "jitter": [i / 9 for i in range(200)]}}, "100,000"),
    ],
)
def test_what_cannot_work_is_named_with_the_nearest_that_can(fields, message):
    with pytest.raises(UsageError) as error:
        make_config(fields, "grid.yaml", ScanSpec)
    assert str(error.value).startswith("grid.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", names())
def test_every_preset_is_a_scan(name):
    spec = preset(name)
    assert spec.name == name
    assert spec.n_points >= 12


def test_an_unknown_preset_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean emergence"):
        preset("emergense")
