import re

import pytest

from faithfulness_plugin.benchmarks import short_claims
from faithfulness_plugin.benchmarks.note.absolute_value.schema import AbsoluteValueResult
from faithfulness_plugin.benchmarks.readme import REAL_LAYERS, RESULT
from faithfulness_plugin.benchmarks.real_layers.analysis import Group
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.benchmarks.whole_model.schema import WholeModelResult
from faithfulness_plugin.results.schema import read_result


@pytest.fixture(scope="module")
def toy():
    return read_result(RESULT, AbsoluteValueResult)


@pytest.fixture(scope="module")
def seeds():
    return read_result(REAL_LAYERS / "seeds" / "result.json", RealLayersResult)


def counted(result, arm, count):
    summary = [
        of.model_copy(update={"emergence": of.emergence.model_copy(update={"count": count})})
        if of.condition == arm
        else of
        for of in result.summary
    ]
    return result.model_copy(update={"summary": summary})


def test_seeds_are_counted_at_the_default_setting_and_beyond(toy, seeds):
    said = short_claims.short_claims(counted(toy, "jacobian", 3), [toy, counted(toy, "noise", 4)], seeds, [])
    assert "10 of 10 transcoders of |x| memorise it. With matching 3 of 10 do" in said
    assert "At 2 other settings 20 of 20 memorise, 0 with matching, 4 with the control" in said


def test_the_recipe_has_a_line_for_each_block(toy, seeds):
    lines = re.findall(r"^    - Block (\d+): (.*)$", short_claims.short_claims(toy, [toy], seeds, []), flags=re.M)
    assert [int(block) for block, _ in lines] == list(seeds.config.blocks)
    kind = seeds.config.kinds[0]
    for block, line in lines:
        group = Group(seeds, int(block), kind)
        assert f"{group.error(short_claims.RECIPE, short_claims.PAIR_ERROR).mean:.2f} with both" in line


def test_attribution_has_no_line_until_it_was_measured(toy, seeds, monkeypatch):
    assert "attribution" not in short_claims.short_claims(toy, [toy], seeds, [])
    result = WholeModelResult.model_construct()
    monkeypatch.setattr(short_claims, "headline", lambda result: "**Truer.** Numbers.")
    said = short_claims.short_claims(toy, [toy], seeds, [result])
    assert said.endswith("\n- **Truer.** Numbers. [All arms](docs/attribution.md#does-matching-make-graphs-truer).")
    monkeypatch.setattr(short_claims, "headline", lambda result: "")
    assert "attribution" not in short_claims.short_claims(toy, [toy], seeds, [result])
