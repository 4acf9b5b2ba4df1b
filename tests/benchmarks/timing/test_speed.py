import statistics
from inspect import getclosurevars, unwrap

import pytest
import torch
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.timing.speed.arms import MEMORY_ARMS, arms
from faithfulness_plugin.benchmarks.timing.speed.experiment import complete, open_result
from faithfulness_plugin.benchmarks.timing.speed.report import tables, write_report
from faithfulness_plugin.benchmarks.timing.speed.run import MEMORY_RATIOS, RATIOS, measure
from faithfulness_plugin.benchmarks.timing.speed.schema import Size, SizeResult, SpeedConfig, SpeedResult
from faithfulness_plugin.benchmarks.timing.speed.sizes import CPU_SIZES, SIZES
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.schema import ResultError, read_result

TINY = Size(name="tiny", d=8, d_mlp=12, d_sae=40, k=3, batch=16)


def config(*sizes: Size) -> SpeedConfig:
    return SpeedConfig(
        sizes=sizes or (TINY,), rounds=3, slow_rounds=1, coordinates=4, jacobian_rows=4, seed=0, device="cpu", threads=1
    )


@pytest.fixture
def one_megabyte(monkeypatch) -> None:
    """Without a process of its own for each peak."""
    monkeypatch.setattr("faithfulness_plugin.benchmarks.timing.speed.run._peak_of_a_fresh_process", lambda *_: 1.0)


@pytest.fixture
def all_arms() -> dict:
    return arms(TINY, "cpu", 0, coordinates=8, rows=4)


def test_every_arm_that_a_ratio_names_is_there(all_arms):
    named = {arm for pair in (RATIOS | MEMORY_RATIOS).values() for arm in pair} | set(MEMORY_ARMS)
    assert named <= set(all_arms)
    assert list(arms(TINY, "cpu", 0, coordinates=8, rows=4, only="topk")) == ["topk"]


def test_the_ways_to_match_make_the_same_step():
    """By closed form, by torch.func.jvp, by double vjp: equal gradients, or their times could not be compared."""
    grads = []
    for name in ("topk matched", "topk by torch.func.jvp", "topk by double vjp"):
        arm = arms(TINY, "cpu", 0, coordinates=8, rows=4, only=name)[name]
        arm()
        inside = getclosurevars(unwrap(arm)).nonlocals
        transcoder = inside["transcoder" if "transcoder" in inside else "sae"]
        grads.append((transcoder.W_enc.grad, transcoder.W_dec.grad))
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_ratios_are_medians_of_paired_rounds(one_megabyte):
    steps: list[str] = []
    result = measure(TINY, config(), steps.append)
    seconds = {timing.arm: timing.seconds for timing in result.timings}
    assert {arm: len(times) for arm, times in seconds.items() if len(times) != 3} == {
        "topk, a pass per coordinate": 1,
        "exact cosine by vmap(jacrev)": 1,
    }
    for ratio in result.ratios[: len(RATIOS)]:
        pairs = zip(seconds[ratio.numerator], seconds[ratio.denominator], strict=False)
        assert ratio.median == pytest.approx(statistics.median(a / b for a, b in pairs))
        assert ratio.low <= ratio.median <= ratio.high
    assert any("round 3 of 3" in step for step in steps)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_interrupted_it_goes_on_with_the_next_size_and_says_what_it_measured(one_megabyte, tmp_path):
    both = config(TINY, TINY.model_copy(update={"name": "second"}))

    def stop(_: SizeResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(open_result(tmp_path, both), tmp_path, on_size=stop)
    partial = open_result(tmp_path, both)
    assert [of.size for of in partial.sizes] == ["tiny"]
    assert "PARTIAL: 1 of 2 sizes" in tables(partial)
    done = complete(partial, tmp_path)
    assert done.complete
    assert done.sizes[0] == partial.sizes[0]
    assert read_result(tmp_path / "result.json", SpeedResult) == done
    write_report(done, tmp_path)
    text = (tmp_path / "table.md").read_text()
    ratio = done.sizes[1].ratios[0]
    row = next(line for line in text.splitlines() if line.startswith(f"| {ratio.name} |"))
    assert f"{ratio.median:,.{2 if ratio.median < 10 else 0}f}" in row.split("|")[3]
    with pytest.raises(ResultError, match=r"other settings \(rounds 3, not 4\)"):
        open_result(tmp_path, both.model_copy(update={"rounds": 4}))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_arms_that_do_not_fit_are_left_out(one_megabyte, tmp_path):
    both = config(TINY, TINY.model_copy(update={"name": "second", "slow_arms": False}))
    result = complete(open_result(tmp_path, both), tmp_path)
    left_out = {t.arm for t in result.sizes[0].timings} - {t.arm for t in result.sizes[1].timings}
    assert left_out == {"topk, a pass per coordinate", "exact cosine by vmap(jacrev)"}
    row = next(line for line in tables(result).splitlines() if line.startswith("| TopK step: a pass per coordinate"))
    assert row.endswith(" |  |")


@pytest.mark.slow
def test_peaks_are_of_fresh_processes(tmp_path):
    result = complete(open_result(tmp_path, config()), tmp_path)
    assert {peak.arm for peak in result.sizes[0].memory} == set(MEMORY_ARMS)
    assert all(100 < peak.mebibytes < 5000 for peak in result.sizes[0].memory)


def test_the_sizes_are_those_of_the_docs():
    assert CPU_SIZES == ("toy", "between", "small-lm")
    small = SIZES["small-lm"]
    assert (small.d, small.d_mlp, small.d_sae, small.k, small.batch) == (576, 1536, 9216, 32, 1024)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "huge"], "--size huge: choose from toy, between, small-lm, large"),
        (["--rounds", "0"], "--rounds: Input should be greater than or equal to 1"),
        (["--threads", "0"], "--threads: Input should be greater than or equal to 1"),
        (["--device", "tpu"], "--device: Input should be 'cpu' or 'cuda'"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "torch sees no CUDA device here")]),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(tmp_path, arguments, message):
    done = CliRunner().invoke(app, ["bench", "speed", "--out", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
