"""Tables of what every arm reaches."""

import pytest
from real_layers import arm_record, result_of

from faithfulness_plugin.benchmarks.real_layers.arms import NONE, SKIP
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.overview import by_kind

N = 4


def test_kinds_stand_in_one_table_by_architecture_and_sparsity():
    kinds = [Kind(sparsity=32), Kind(architecture="relu", sparsity=0.2), Kind(sparsity=128), Kind(sparsity=8)]
    trained = [
        arm_record(arm, kind=kind, l0=100 * kind.sparsity, error=[1 / kind.sparsity / (1 + arm.skip)] * N)
        for kind in kinds
        for arm in (NONE, SKIP)
    ]
    text = by_kind(result_of(trained, kinds=kinds[:2], line=kinds[2:], line_arms=[NONE, SKIP]))
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if "topk" in line or "relu" in line
    ]
    named = ["topk k 8", "topk k 32", "topk k 128", "relu penalty 0.2"]
    assert [row[:2] for row in rows] == [[kind, arm] for kind in named for arm in ("no term", "skip")]
    assert rows[0][2] == "800.0"
    fvu = [float(row[3].split()[0]) for row in rows]
    assert fvu[::2] == pytest.approx([2 * value for value in fvu[1::2]], abs=2e-3)
    assert text.count("**Block 0**") == 1
