"""The settings that commands check are the fields of the classes that are trained."""

from dataclasses import MISSING, fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import pytest

from faithfulness_plugin.language_model.transcoder_settings import DEFAULTS, SETTINGS, checked_settings
from faithfulness_plugin.transcoders.architectures import ARCHITECTURES

ELSEWHERE = {"d_in", "d_out", "jacobian", "jacobian_coefficient", "device", "dtype", "metadata"}
"""Fields that a run sets by itself."""
OUT_OF_RANGE = (-1.0, 0.0, 0.5, 2.0)


def test_there_are_settings_of_every_architecture():
    assert SETTINGS.keys() == DEFAULTS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_they_are_the_fields_of_the_class_with_its_types_and_defaults(name):
    config = ARCHITECTURES[name][0]
    known = {of.name: of for of in fields(config)}
    types = {n: kind for n, kind in get_type_hints(config).items() if n not in ELSEWHERE and n in known}
    record = SETTINGS[name].model_fields
    assert record.keys() == types.keys()
    for field, kind in types.items():
        if get_origin(record[field].annotation) is not Literal:
            assert record[field].annotation == kind, field
        elif get_origin(kind) is Literal:
            assert set(get_args(record[field].annotation)) <= set(get_args(kind))
        if known[field].default is not MISSING:
            assert record[field].default == known[field].default, field
    assert not any(get_origin(kind) is ClassVar for kind in types.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_out_of_range_are_those_of_the_class(name):
    config, record = ARCHITECTURES[name][0], SETTINGS[name].model_fields
    for field in (n for n, of in record.items() if of.annotation in (int, float) and n != "d_sae"):
        for value in OUT_OF_RANGE:
            if record[field].annotation is int and value != int(value):
                continue
            kind: Any = record[field].annotation
            given = {"d_sae": 16, field: kind(value)}
            assert refuses(lambda given=given: checked_settings(name, given)) == refuses(
                lambda given=given: config(d_in=4, **given)
            ), given


def refuses(make) -> bool:
    try:
        make()
    except ValueError:
        return True
    return False
