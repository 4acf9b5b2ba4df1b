"""Which of several tensors has the wrong shape."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.shapes import require_shapes

SHAPES = {"W_enc": "d_in d_sae", "b_enc": "d_sae", "W_dec": "d_sae d_out", "b_dec": "d_out", "W_skip": "d_out d_in"}
sizes = st.integers(1, 9)


def tensors(d_in: int, d_sae: int, d_out: int) -> dict[str, torch.Tensor]:
    size = {"d_in": d_in, "d_sae": d_sae, "d_out": d_out}
    return {name: torch.zeros([size[d] for d in dims.split()]) for name, dims in SHAPES.items()}


@given(sizes, sizes, sizes)
def test_what_fits_is_let_through(d_in, d_sae, d_out):
    require_shapes("file", tensors(d_in, d_sae, d_out), SHAPES, {"d_in": (d_in, "d_in in cfg.json")})


@given(st.lists(sizes, min_size=3, max_size=3, unique=True), st.sampled_from(["W_enc", "W_dec", "W_skip"]))
def test_a_transposed_matrix_is_the_culprit(widths, name):
    all_of_them = tensors(*widths)
    all_of_them[name] = all_of_them[name].T
    with pytest.raises(FormatError, match=f"file: {name} has shape .*: it is transposed"):
        require_shapes("file", all_of_them, SHAPES, {})


@given(sizes, st.sampled_from(["W_enc", "W_dec", "W_skip"]))
def test_a_square_matrix_that_stands_transposed_cannot_be_told(width, name):
    square = tensors(width, width, width)
    square[name] = square[name].T
    require_shapes("file", square, SHAPES, {})


def test_of_two_that_contradict_each_other_both_are_named():
    two = {"W_enc": torch.zeros(3, 5), "b_enc": torch.zeros(4)}
    with pytest.raises(FormatError, match=r"W_enc has shape \[3, 5\], b_enc has shape \[4\]: they disagree on d_sae"):
        require_shapes("file", two, SHAPES, {})
    one = {"b_enc": torch.zeros(4)}
    with pytest.raises(FormatError, match=r"d_sae in cfg is 5, b_enc has shape \[4\]: they disagree on d_sae"):
        require_shapes("file", one, SHAPES, {"d_sae": (5, "d_sae in cfg")})


def test_a_setting_that_all_weights_contradict():
    with pytest.raises(FormatError, match="d_sae in cfg is 7, and the weights say 5"):
        require_shapes("file", tensors(3, 5, 4), SHAPES, {"d_sae": (7, "d_sae in cfg")})
