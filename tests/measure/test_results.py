"""Cards, comparisons and reruns of finished transcoders, from results made by hand."""

from typing import Any

import numpy as np
import pytest
from command_line import fails
from PIL import Image
from typer.testing import CliRunner

from faithfulness_plugin.cli.app import app
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.measure import rerun as rerun_module
from faithfulness_plugin.measure.card import card
from faithfulness_plugin.measure.compare import comparison
from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.measure.schema import (
    ROLES,
    ArtifactNumbers,
    ArtifactResult,
    DeletionRecord,
    EffectRecord,
    LayerRecord,
    Role,
)
from faithfulness_plugin.metrics.result import DIRECTIONS, Directions
from faithfulness_plugin.results.schema import Environment, Interval, fingerprint
from faithfulness_plugin.transcoders.load import Loaded

PROMPTS = 6
ERROR = {"transcoder": 0.2, "shuffled decoder": 1.5, "mean ablation": 1.0}
WHOLE = [float(i + 1) for i in range(PROMPTS)]


def parts(error: float) -> list[float]:
    """With this relative error at every prompt."""
    return [error * whole for whole in WHOLE]


def numbers(name: str, role: Role, factor: float = 1.0) -> ArtifactNumbers:
    error = ERROR[role] * factor
    by_direction: dict[Directions, list[float]] = {d: parts(error) for d in DIRECTIONS}
    return ArtifactNumbers(
        error=parts(error), l0=32.0, dead_fraction=0.1, jacobian_error=by_direction,
        jacobian_cosine=dict.fromkeys(DIRECTIONS, 0.3), floor=by_direction,
        response_error={d: [parts(error)] * 5 for d in DIRECTIONS},
        response_cosine={d: [0.5] * 5 for d in DIRECTIONS}, ce=3.0, ce_recovered=0.9, kl=0.1, passage=None, name=name,
        role=role, architecture="topk", d_sae=24, digest=f"sha256:{name}", top=[1, 4], top_error=[error, error],
        effects={k: [EffectRecord(stage=f"blocks.{i}.hook_resid_post", error=error, cosine=0.5) for i in (3, 4)]
                 for k in ("input", "feature")},
        deletion=None if role == "mean ablation"
        else DeletionRecord(sizes=[1, 2], by_attribution=[0.5, 0.6], at_random=[0.1, 0.2], excess=[0.4, 0.4]),
    )  # fmt: skip


def result(factors: dict[str, float], **changed) -> ArtifactResult:
    layer = LayerRecord(
        block=3, hook_in="blocks.3.mlp.hook_in", hook_out="blocks.3.mlp.hook_out", variance=WHOLE,
        jacobian=dict.fromkeys(DIRECTIONS, WHOLE), response={d: [WHOLE] * 5 for d in DIRECTIONS}, ce_clean=2.0,
        ce_zero=4.0,
    )  # fmt: skip
    settings = {"transcoders": {name: f"out/{name}" for name in factors}, "held_out_prompts": PROMPTS}
    config = ArtifactConfig(**settings, spliced_prompts=2)
    fields = {
        "complete": True, "environment": Environment.here(packages=("transformers",)), "model": "tiny",
        "config": config, "layer": layer,
        "measured": [numbers(name, role, factor) for name, factor in factors.items() for role in ROLES],
    }  # fmt: skip
    return ArtifactResult(**(fields | changed))


def test_the_card_draws_the_transcoder_its_references_and_the_other_one():
    found = result({"plain": 1.0, "matched": 0.5})
    drawn = card(found, "matched", "plain")
    panels = [ax for sub in drawn.figure().subfigs for ax in sub.axes if ax.get_title()]
    assert len(panels) == 6
    for ax, ys in zip(panels[:5], [(0.1, 0.75, 0.5, 0.2)] * 5, strict=True):
        assert [np.asarray(line.get_ydata())[0] for line in ax.lines] == pytest.approx(ys)
    assert len(panels[5].lines) == 3  # the mean has no features to delete
    table = drawn.table
    assert table.header == ["score", "matched", "shuffled decoder", "mean ablation", "plain"]
    fvu = {row[0]: row[1:] for row in table.rows}["FVU"]
    assert [cell.mean for cell in fvu if isinstance(cell, Interval)] == pytest.approx([0.1, 0.75, 0.5, 0.2])


@pytest.mark.parametrize("kind", ["png", "html"])
def test_the_card_is_written_as_its_name_says(tmp_path, kind):
    found, path = result({"plain": 1.0}), tmp_path / "deeper" / f"card.{kind}"
    card(found).write(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if kind == "png":
        with Image.open(path) as image:
            assert image.info["Source"] == fingerprint(found)
    else:
        assert "data:image/png;base64," in path.read_text()
        assert "CE recovered" in path.read_text()


def test_what_has_no_card_says_why():
    found = result({"plain": 1.0, "matched": 0.5})
    partial = found.model_copy(update={"measured": found.measured[:2], "complete": False})
    for of, names, match in (
        (found, ("", ""), "holds 2 transcoders: pass --method, such as plain"),
        (found, ("plan", ""), r"no transcoder 'plan'.*plain"),
        (found, ("plain", "mathced"), r"no transcoder 'mathced'.*matched"),
        (partial, ("plain", ""), "plain is not measured yet"),
    ):
        with pytest.raises(UsageError, match=match):
            card(of, *names)


def test_differences_are_paired_by_prompt():
    noisy = result({"plain": 1.0, "matched": 0.5})
    table = comparison([noisy], "plain")
    (row,) = table.rows
    assert row[0] == "matched"
    for cell in row[1:]:
        assert isinstance(cell, Interval)
        # every prompt has the same relative error, so that the paired difference does not vary with prompts
        assert (cell.mean, cell.low, cell.high) == pytest.approx((-0.1, -0.1, -0.1))
    other = comparison([result({"plain": 1.0}), result({"matched": 0.5})], "plain", scores=["FVU"])
    assert other.rows[0][1] == row[1]


def test_what_cannot_be_compared_says_why():
    plain = result({"plain": 1.0})
    assert plain.layer is not None
    elsewhere = plain.layer.model_copy(update={"block": 4})
    for others, against, match in (
        (
            [result({"a": 1.0}, config=ArtifactConfig(transcoders={"a": "a"}, seed=7))],
            "plain",
            "measure different things",
        ),
        ([result({"a": 1.0}, layer=elsewhere)], "plain", "of different layers"),
        ([result({"a": 1.0}, layer=None, measured=[])], "plain", "holds no measurement"),
        ([], "plian", "no transcoder 'plian'"),
    ):
        with pytest.raises(UsageError, match=match):
            comparison([plain, *others], against)
    changed = [numbers("plain", "transcoder").model_copy(update={"digest": "sha256:other"})]
    with pytest.raises(UsageError, match="hold a transcoder plain, with different settings"):
        comparison([plain, result({"plain": 1.0}, measured=changed)], "plain")
    with pytest.raises(UsageError, match=r"no score 'fvu'.*FVU"):
        comparison([plain], "plain", scores=["fvu"])


def test_a_rerun_tells_every_number_that_is_not_what_it_was(monkeypatch):
    def files(digest: str) -> Any:
        return object.__new__(type("Files", (Loaded,), {"transcoder": None, "digest": digest}))

    found = result({"plain": 1.0})
    monkeypatch.setattr(rerun_module, "load_each", lambda sources, **_: {"plain": files("sha256:plain")})
    now = found.measured[1].model_copy(update={"kl": 0.1001})

    def run(_measurement, fresh, _running):
        assert not fresh.measured
        yield fresh.model_copy(update={"measured": [found.measured[0], now, found.measured[2]]}), ""

    def agreement(**how):
        again = rerun_module.rerun_of(found)
        ((measured, _),) = again.run(n_jobs=1)
        return again.agreement(measured, **how)

    monkeypatch.setattr(rerun_module.Measurement, "run", run)
    assert (agreement().n, agreement().notes) == (3, [])
    assert agreement().disagree == ["plain, shuffled decoder: kl 0.1 before, 0.1001 now"]
    assert agreement().largest == pytest.approx(0.0001 / 0.1001)  # relative to its size
    assert agreement(tolerance=0.01).disagree == []
    now = found.measured[1].model_copy(update={"ce_recovered": None})  # undefined in this version
    assert agreement().disagree == ["plain, shuffled decoder: ce_recovered 0.9 before, None now"]
    assert agreement().largest == 0
    monkeypatch.setattr(rerun_module, "load_each", lambda sources, **_: {"plain": files("sha256:new")})
    with pytest.raises(UsageError, match="plain has changed since"):
        rerun_module.rerun_of(found)


def test_commands_take_results_of_both_kinds(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "result.json").write_text(result({"plain": 1.0, "matched": 0.5}).model_dump_json())

    def run(*args: object):
        return CliRunner().invoke(app, ["bench", *map(str, args)])

    done = run("compare", folder, "--against", "plain", "--score", "FVU", "--format", "csv")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].startswith("matched,-0.1")
    assert run("card", folder, "--method", "plain", "--out", tmp_path / "c.svg").exit_code == 0
    standard = "benchmarks/results/faithfulness/standard"
    fails(
        run("compare", folder, standard, "--against", "plain"), 2, "some results are of methods and some of transcoders"
    )
    fails(run("compare", folder, "--against", "plain", "--task", "rotated"), 2, "--task is for results of methods")
    fails(run("rerun", folder, "--trials", "3"), 2, "--trials is for results of methods")
    fails(run("rerun", folder), 2, "plain")
    fails(run("leaderboard", folder), 2, "not a result of this command")
