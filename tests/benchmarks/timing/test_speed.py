import statistics
from inspect import getclosurevars, unwrap

import pytest
import torch
from command_line import fails
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.timing import speed
from faithfulness_plugin.benchmarks.timing.configs import CPU_SIZES, SIZES, Size, SpeedConfig
from faithfulness_plugin.benchmarks.timing.harness import ProcessCost
from faithfulness_plugin.benchmarks.timing.speed import MEMORY_ARMS, MEMORY_RATIOS, RATIOS, Speed, SpeedResult
from faithfulness_plugin.benchmarks.timing.steps import SLOW, steps
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.experiment import complete
from faithfulness_plugin.results.schema import ResultError, read_result

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")
TINY = Size(name="tiny", d=8, d_mlp=12, d_sae=40, k=3, batch=16)


def config(*sizes: Size) -> SpeedConfig:
    return SpeedConfig(sizes=sizes or (TINY,), rounds=3, slow_rounds=1, coordinates=4, jacobian_rows=4, threads=1)


@pytest.fixture
def one_mebibyte(monkeypatch) -> None:
    """Without a process of its own for each peak."""
    monkeypatch.setattr(speed, "fresh_process", lambda *_: ProcessCost(1.0, 1.0))


def test_every_arm_that_a_ratio_names_is_there():
    named = {arm for pair in (RATIOS | MEMORY_RATIOS).values() for arm in pair} | set(MEMORY_ARMS)
    assert named <= set(steps(TINY, config()))
    assert list(steps(TINY, config(), "topk")) == ["topk"]


def test_the_ways_to_match_make_the_same_step():
    """By closed form, by torch.func.jvp, by double vjp: equal gradients, or their times could not be compared."""
    grads = []
    for name in ("topk matched", "topk by torch.func.jvp", "topk by double vjp"):
        step = steps(TINY, config(), name)[name]
        step()
        inside = getclosurevars(unwrap(step)).nonlocals
        transcoder = inside["transcoder" if "transcoder" in inside else "sae"]
        grads.append((transcoder.W_enc.grad, transcoder.W_dec.grad))
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


def test_ratios_are_medians_of_paired_rounds(one_mebibyte):
    notes: list[str] = []
    result = speed.measure(TINY, config(), notes.append)
    seconds = {timing.arm: timing.seconds for timing in result.timings}
    assert {arm: len(times) for arm, times in seconds.items() if len(times) != 3} == dict.fromkeys(SLOW, 1)
    for ratio in result.ratios[: len(RATIOS)]:
        pairs = zip(seconds[ratio.numerator], seconds[ratio.denominator], strict=False)
        assert ratio.median == pytest.approx(statistics.median(a / b for a, b in pairs))
        assert ratio.low <= ratio.median <= ratio.high
    assert "round 3 of 3" in notes


def test_interrupted_it_resumes_with_the_next_size_and_says_what_it_measured(one_mebibyte, tmp_path, monkeypatch):
    both = config(TINY, TINY.model_copy(update={"name": "second", "slow_arms": False}))
    measure = speed.measure

    def first_only(size: Size, *args):
        if size.name == "second":
            raise KeyboardInterrupt
        return measure(size, *args)

    monkeypatch.setattr(speed, "measure", first_only)
    with pytest.raises(KeyboardInterrupt):
        complete(Speed(), both, tmp_path)
    monkeypatch.setattr(speed, "measure", measure)
    partial = read_result(tmp_path / "result.json", SpeedResult)
    assert [of.size for of in partial.sizes] == ["tiny"]
    assert "PARTIAL: 1 of 2 sizes" in Speed().tables(partial)
    done = complete(Speed(), both, tmp_path)
    assert done.complete
    assert done.sizes[0] == partial.sizes[0]
    left_out = {t.arm for t in done.sizes[0].timings} - {t.arm for t in done.sizes[1].timings}
    assert left_out == set(SLOW)
    rows = Speed().tables(done).splitlines()
    assert next(row for row in rows if row.startswith("| TopK step: a pass per coordinate")).endswith(" |  |")
    ratio = done.sizes[1].ratios[0]
    row = next(row for row in rows if row.startswith(f"| {ratio.name} |"))
    assert f"{ratio.median:,.{2 if ratio.median < 10 else 0}f}" in row.split("|")[3]
    with pytest.raises(ResultError, match=r"other settings \(rounds 3, not 4\)"):
        complete(Speed(), both.model_copy(update={"rounds": 4}), tmp_path)


@pytest.mark.slow
def test_peaks_are_of_fresh_processes(tmp_path):
    result = complete(Speed(), config(), tmp_path)
    assert {peak.arm for peak in result.sizes[0].memory} == set(MEMORY_ARMS)
    assert all(100 < peak.mebibytes < 5000 for peak in result.sizes[0].memory)


def test_the_sizes_are_those_of_the_docs():
    assert tuple(size.name for size in SpeedConfig().sizes) == CPU_SIZES == ("toy", "between", "small-lm")
    small = SIZES["small-lm"]
    assert (small.d, small.d_mlp, small.d_sae, small.k, small.batch) == (576, 1536, 9216, 32, 1024)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "huge"], "--sizes: huge: choose from toy, between, small-lm, large"),
        (["--rounds", "0"], "--rounds: Input should be greater than or equal to 1"),
        (["--threads", "0"], "--threads: Input should be greater than or equal to 1"),
        (["--device", "tpu"], "--device: Input should be 'cpu' or 'cuda'"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "torch sees no CUDA device here")]),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(tmp_path, arguments, message):
    fails(CliRunner().invoke(app, ["experiment", "speed", "--out", str(tmp_path / "out"), *arguments]), 2, message)
    assert not (tmp_path / "out").exists()
