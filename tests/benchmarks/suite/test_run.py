"""A run end to end, at a size that says nothing: resumed, rerun, refused."""

import hashlib

import pytest

from faithfulness_plugin.benchmarks.methods.registry import BASELINES, MethodError, import_method
from faithfulness_plugin.benchmarks.suite.experiment import FaithfulnessSuite, groups
from faithfulness_plugin.benchmarks.suite.rerun import rerun_of
from faithfulness_plugin.benchmarks.suite.schema import SEEDS, SuiteResult
from faithfulness_plugin.benchmarks.suite.spec import SIZES, make_spec, method_spec
from faithfulness_plugin.results.agreement import Agreement
from faithfulness_plugin.results.experiment import Running, complete
from faithfulness_plugin.results.schema import ResultError, read_result

TINY = {"tasks": ["absolute_value", "two_hops"], "methods": ["topk-none", "relu_tanh-jvp"], "n_seeds": 2, "n_steps": 25}


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> SuiteResult:
    return complete(FaithfulnessSuite(), make_spec("quick", **TINY), tmp_path_factory.mktemp("whole"))


def agreement(result: SuiteResult, n: int) -> Agreement:
    again = rerun_of(result, n)
    *_, (now, _) = again.run(n_jobs=1)
    return again.agreement(now)


def test_every_trial_is_there_in_order_and_the_file_holds_it(result, tmp_path):
    assert result.complete
    assert [record.key for record in result.trials] == [trial.key for trial in result.spec.trials]
    assert all(record.scores is not None for record in result.trials)
    assert len(result.spec.trials) == 2 * 2 * (4 + 5)
    assert result.layer_l0["absolute_value"] == pytest.approx(1.57, abs=0.01)
    path = tmp_path / "result.json"
    path.write_text(result.model_dump_json())
    assert read_result(path, SuiteResult) == result


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_stopped_it_resumes_and_ends_the_same(result, tmp_path):
    suite, spec = FaithfulnessSuite(), make_spec("quick", **TINY)
    part, line = next(suite.run(suite.fresh(spec), Running(tmp_path)))
    assert line.startswith("absolute_value, topk-none: 8 trials, headline up to")
    assert suite.progress(part) == (8, 36)
    (tmp_path / "result.json").write_text(part.model_dump_json())
    resumed = complete(suite, spec, tmp_path)
    assert resumed.trials[:8] == part.trials
    assert [r.scores for r in resumed.trials] == [r.scores for r in result.trials]
    with pytest.raises(ResultError, match="other settings"):
        complete(suite, make_spec("quick", **{**TINY, "n_steps": 26}), tmp_path)


def test_groups_are_of_one_task_and_one_method():
    assert [len(group) for group in groups(make_spec("quick", **TINY).trials)] == [8, 10, 8, 10]
    outside_ones = make_spec("quick", **{**TINY, "methods": ["outside_methods:method"]})
    assert [len(group) for group in groups(outside_ones.trials)] == [2] * 4  # one strength's, for cores to share


def test_a_rerun_agrees_and_a_changed_number_is_found(result):
    assert len(rerun_of(result, 4).partial.trials) == 32
    found = agreement(result, 4)
    assert (found.n, found.disagree) == (4, [])
    assert found.largest <= 1e-6
    first = result.trials[0]
    assert first.scores is not None
    wrong = first.model_copy(update={"scores": first.scores.model_copy(update={"fvu": first.scores.fvu + 0.5})})
    found = agreement(result.with_trials([wrong, *result.trials[1:]]), 1)
    assert len(found.disagree) == 1
    assert "fvu" in found.disagree[0]
    assert found.largest == pytest.approx(0.5)


def test_a_method_that_is_not_what_it_was_is_not_run_again(result):
    methods = [m.model_copy(update={"settings": {**m.settings, "lr": 1.0}}) for m in result.spec.methods]
    changed = result.model_copy(update={"spec": result.spec.model_copy(update={"methods": methods})})
    with pytest.raises(MethodError, match=r"topk-none has changed since .*lr 1.0, not 0.003"):
        rerun_of(changed, 2)


def test_a_result_of_another_version_is_not_run_again(result):
    other = result.model_copy(update={"spec": result.spec.model_copy(update={"suite_version": 2})})
    with pytest.raises(ResultError, match="version 2 of the benchmark, and this is version 1"):
        rerun_of(other, 1)


def test_outside_methods_run_beside_the_shipped_ones(tmp_path):
    spec = make_spec(
        "quick",
        tasks=["absolute_value"],
        methods=["outside_methods:one_strength"],
        n_seeds=1,
        n_steps=25,
        time_limit=60.0,
    )
    assert spec.methods[0].source.startswith("sha256:")
    result = complete(FaithfulnessSuite(), spec, tmp_path)
    assert [record.failed for record in result.trials] == [None]


def test_a_method_made_of_functions_is_identified_by_the_file_that_it_stands_in(tmp_path, monkeypatch):
    text = (
        "import types\ndef train(layer, inputs, *, seed, strength): ...\n"
        "m = types.SimpleNamespace(strengths=(1,), train=train)\n"
    )
    (tmp_path / "made_of_functions.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = method_spec("made_of_functions:m", 25).source
    assert source == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "made_of_functions.py").write_text(text + "# changed\n")
    assert method_spec("made_of_functions:m", 25).source != source
    import_method.cache_clear()


def test_a_spec_that_cannot_be_run_says_why():
    for match, given in (
        ("no task 'rotate': did you mean rotated", {"tasks": ["rotate"]}),
        ("no method 'top': ", {"methods": ["top"]}),
        (r"not_there:method cannot be imported \(No module named 'not_there'\)", {"methods": ["not_there:method"]}),
        ("has no attribute 'other'", {"methods": ["outside_methods:other"]}),
        ("`strengths` must be distinct numbers", {"methods": ["outside_methods:no_strengths"]}),
        ("has no `train`", {"methods": ["outside_methods:no_train"]}),
        ("choose 1 to 20", {"n_seeds": 21}),
    ):
        with pytest.raises(ValueError, match=match):
            make_spec("quick", **{**TINY, **given})
    import_method.cache_clear()


def test_the_sizes_grow_and_patterns_stand_for_methods():
    assert len(SEEDS) == len(set(SEEDS)) == 20
    assert [len(make_spec(size).trials) for size in SIZES] == sorted(len(make_spec(size).trials) for size in SIZES)
    assert make_spec("standard").n_steps == 2000
    names = [m.name for m in make_spec("quick", methods=["topk-*", "topk-none"]).methods]
    assert names == [name for name in BASELINES if name.startswith("topk-")]


def test_trials_are_put_in_the_specs_order(result):
    half = result.with_trials(result.trials[::-2])
    assert not half.complete
    assert half.with_trials([*half.trials, *(t for t in result.trials if t not in half.trials)]) == result
