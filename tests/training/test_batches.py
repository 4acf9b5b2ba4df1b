import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from faithfulness_plugin.training.batches import ShuffledBatches, endless

ROWS = torch.arange(10.0)[:, None]


def taken(batches, n: int) -> list[float]:
    return torch.cat(list(itertools.islice(batches, n))).flatten().tolist()


@pytest.mark.parametrize("inputs", [ROWS, ROWS.numpy()])
def test_rows_come_once_an_epoch_in_an_order_of_its_own(inputs):
    batches = endless(inputs, 4)
    stream = taken(batches, 15)  # six epochs
    epochs = [stream[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert taken(endless(inputs, 4), 15) == stream
    assert taken(ShuffledBatches(ROWS, 4, seed=1), 15) != stream


def test_the_place_among_rows_can_be_saved():
    batches, again = ShuffledBatches(ROWS, 4), ShuffledBatches(ROWS, 4)
    taken(batches, 7)
    again.load_state_dict(batches.state_dict())
    assert taken(again, 5) == taken(batches, 5)
    with pytest.raises(ValueError, match=r"of other data \(batch_size 4, not 3\): pass the same rows"):
        ShuffledBatches(ROWS, 3).load_state_dict(batches.state_dict())


def test_what_can_be_iterated_is_iterated_again_and_again():
    loader = DataLoader(TensorDataset(ROWS), batch_size=5)
    assert taken(endless(loader, None), 4) == [*range(10), *range(10)]
    assert taken(endless([ROWS[:2], ROWS[2:4].numpy()], None), 3) == [0, 1, 2, 3, 0, 1]
    iterator = iter([ROWS])
    assert endless(iterator, 2) is iterator


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (ROWS[:3], "batches of 4 cannot be cut from inputs of shape .3, 1."),
        (ROWS[:, 0], "from inputs of shape .10.: pass rows"),
        (np.zeros((0, 3)), "from inputs of shape .0, 3."),
        (7, "the inputs are of type int: pass rows .n, d_in., an endless iterator"),
        ({"x": ROWS}, "the inputs are of type dict"),
        ([], "the inputs, a list, hold no batch"),
        ([[ROWS, ROWS]], "a batch of the inputs is a list of 2: yield rows"),
        ([{"x": ROWS}], "a batch of the inputs is a dict: yield rows"),
    ],
)
def test_other_inputs_are_named(as_installed, inputs, message):
    with pytest.raises(ValueError, match=message):
        next(endless(inputs, 4))
