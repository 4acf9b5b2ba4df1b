import pytest

from faithfulness_plugin.benchmarks.timing.harness import Quartiles, fresh_process, paired, ratio_range


def test_a_fresh_process_says_its_peak_and_its_time():
    small, large = (fresh_process("timeit", "-n", "1", "-r", "1", "-s", code) for code in ("0", "x = b'x' * 2**28"))
    assert 200 < large.mebibytes - small.mebibytes < 400
    assert 0 < small.seconds < 60


def test_a_process_that_fails_is_told_in_its_own_words():
    with pytest.raises(RuntimeError, match="no_such_module"):
        fresh_process("no_such_module")


def test_arms_are_compared_by_pairs_of_a_round():
    assert paired([2.0, 9.0], [1.0, 3.0, 5.0]) == [2.0, 3.0]
    assert ratio_range([2.0, 9.0, 4.0], [1.0, 3.0, 1.0], 1) == "3.0 (2.0 to 4.0)"
    assert Quartiles.of([1.0, 2.0, 3.0, 4.0, 5.0]).text(0) == "3 (2 to 4)"
