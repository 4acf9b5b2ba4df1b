import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packing_twin import unpacked

from faithfulness_plugin.inspection.page.packing import KINDS, packed, quantised


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=6), st.integers(0, 1000), st.text(max_size=20))
def test_what_is_packed_comes_out_again(kinds, seed, text):
    generator = np.random.default_rng(seed)
    arrays = {
        str(n): generator.integers(0, 100, generator.integers(0, 5, 2)).astype(kind) for n, kind in enumerate(kinds)
    }
    meta, found = unpacked(packed({"name": text}, arrays))
    assert meta == {"name": text}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_no_text_in_it_is_markup_and_equal_input_gives_equal_bytes():
    text = packed({"name": "</script>"}, {"a": np.zeros(3, np.int8)})
    assert "<" not in text
    assert text == packed({"name": "</script>"}, {"a": np.zeros(3, np.int8)})


def test_kinds_that_scripts_do_not_know_are_refused():
    with pytest.raises(KeyError):
        packed({}, {"a": np.zeros(3, np.int64)})


@given(st.integers(0, 1000))
def test_quantised_values_are_near(seed):
    values = np.random.default_rng(seed).normal(size=(4, 3, 7)) * 10.0 ** np.arange(4)[:, None, None]
    values[2, 1] = 0
    parts, scale = quantised(values)
    assert parts.dtype == np.int8
    assert np.all(np.abs(parts / 127 * scale[..., None] - values) <= scale[..., None] / 254 * 1.001)
