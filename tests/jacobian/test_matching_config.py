import json
from dataclasses import replace

import pytest

from faithfulness_plugin import JacobianMatching, JacobianMatchingConfig


def test_the_config_is_frozen_and_survives_json():
    config = JacobianMatchingConfig(estimator="secant", radius=0.2, jitter=0.1, n_probes=2)
    assert JacobianMatchingConfig(**json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(AttributeError):
        config.radius = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    assert JacobianMatching(config).config == JacobianMatching(config.to_dict()).config == config
    assert JacobianMatching(n_probes=3).config == replace(JacobianMatchingConfig(), n_probes=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"estimator": "vector"}, "estimator='vector' is unknown: choose one of .*'jvp', 'vjp', 'secant', 'exact'"),
        ({"probe": "cube"}, "probe='cube' is unknown: choose one of .*'rademacher'"),
        ({"n_probes": 0}, "a whole number of probes"),
        ({"n_probes": 2.5}, "a whole number of probes"),
        ({"radius": 0.0}, "must be positive"),
        ({"jitter": -1.0}, "is not negative"),
        ({"estimator": "vjp", "probe": "pair"}, 'probe=.pair. are directions of the input: choose one of .*"jvp"'),
        ({"gate_bandwidth": 0.0}, "a width is positive and finite; None for constant gates"),
        ({"gate_bandwidth": 0.1, "estimator": "secant"}, "the secant trains its gates by itself"),
        ({"n_probes": True}, "a whole number of probes"),
        ({"central": "no"}, "central='no': choose True or False"),
        ({"seed": "a"}, "seed='a': a whole number from 0 on"),
        ({"radius": "x"}, "radius=x: the secant's step must be positive"),
        ({"jitter": None}, "jitter=None: a standard deviation"),
        ({"jiter": 0.1}, "no option jiter: choose from estimator, probe"),
    ],
)
def test_bad_options_say_what_is_wanted(as_installed, fields, message):
    with pytest.raises(ValueError, match=message):
        JacobianMatching(**fields)
    with pytest.raises(ValueError, match=message):
        JacobianMatching(fields)


def test_a_config_and_fields_together_are_refused():
    with pytest.raises(ValueError, match="either a config or its fields"):
        JacobianMatching(JacobianMatchingConfig(), n_probes=2)


@pytest.mark.parametrize("estimator", ["vjp", "exact"])
def test_estimators_that_draw_their_own_directions_take_no_callable(estimator):
    with pytest.raises(ValueError, match=f'estimator="{estimator}" draws its own directions: name one of'):
        JacobianMatching(estimator=estimator, probe=lambda x, n, generator: x[None])
