import time

import pytest

from faithfulness_plugin.results.timing import in_turn, peak_memory, seconds


def test_every_arm_runs_once_a_round_in_seeded_orders_of_their_own():
    called: list[str] = []
    arms = {name: lambda name=name: called.append(name) or len(called) for name in "abcd"}
    measured = in_turn(arms, 3, seed=1, note=called.append)
    assert called[::5] == ["warming up", "round 1 of 3", "round 2 of 3", "round 3 of 3"]
    rounds = [called[i + 1 : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert {len(values) for values in measured.values()} == {3}
    first = list(called)
    called.clear()
    in_turn(arms, 3, seed=1, note=called.append)
    assert called == first


def test_slow_arms_run_in_the_first_rounds_only_and_not_for_warm_up():
    called: list[str] = []
    arms = {name: lambda name=name: called.append(name) for name in ("quick", "slow")}
    rounds: list[int] = []
    measured = in_turn(
        arms, 3, warm_up=2, slow=("slow",), slow_rounds=1, before_round=lambda: rounds.append(len(called))
    )
    assert {name: len(values) for name, values in measured.items()} == {"quick": 3, "slow": 1}
    assert (called.count("quick"), called.count("slow")) == (5, 1)
    assert rounds == [0, 1, 2, 4, 5]


def test_a_call_is_timed():
    assert seconds(lambda: time.sleep(0.05)) == pytest.approx(0.05, abs=0.04)


def test_the_peak_is_in_bytes_and_stays_when_memory_is_freed():
    before = peak_memory()
    assert 10e6 < before < 100e9
    big = bytearray(200_000_000)
    big[::4096] = b"x" * len(big[::4096])
    after = peak_memory()
    del big
    assert after > before
    assert peak_memory() == pytest.approx(after, rel=0.02)
