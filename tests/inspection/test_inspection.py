import inspected
import pytest
import torch

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.inspection.inspection import inspect_transcoder
from faithfulness_plugin.inspection.page import page_html
from faithfulness_plugin.inspection.sample import row_sample
from faithfulness_plugin.toy.circuits import abs_circuits

pytestmark = pytest.mark.usefixtures("as_installed")


class Wide(torch.nn.Module):
    """A layer that computes in its own precision, as those of language models here."""

    def __init__(self, dtype: torch.dtype, d: int) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(d, 40), torch.nn.GELU(), torch.nn.Linear(40, d)).to(dtype)
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.to(self.dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("of_layer", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [8, 72])
def test_transcoder_and_layer_may_be_of_other_precisions(make_transcoder, dtype, of_layer, d):
    layer, transcoder = Wide(of_layer, d), make_transcoder("topk", d_in=d, d_out=d, dtype=dtype).eval()
    found = inspect_transcoder(transcoder, layer, row_sample(layer, torch.randn(60, d)))
    assert found.records.l0 == pytest.approx(3, abs=0.1)
    assert found.records.fvu > 0
    assert (found.overview.spectrum is None) == (d == 8)
    assert "payload" in page_html([found])


def test_a_narrow_toy_in_another_precision(make_transcoder):
    layer, rows = AbsNetwork(5), torch.rand(50, 5)
    transcoder = make_transcoder(d_out=5, dtype="float64").eval()
    found = inspect_transcoder(transcoder, layer, row_sample(layer, rows), circuits=abs_circuits(5), kinks=True)
    assert found.overview.examples is not None
    assert found.overview.projection is not None


def test_samples_of_one_input_and_circuits_that_rows_do_not_tell_apart(make_transcoder):
    layer, transcoder = AbsNetwork(5), make_transcoder(d_out=5, dtype="float32").eval()
    with pytest.raises(ValueError, match=r"holds one input \(30 times\)"):
        inspect_transcoder(transcoder, layer, row_sample(layer, torch.ones(30, 5)))
    few = torch.eye(5)[:2] * 0.5
    found = inspect_transcoder(transcoder, layer, row_sample(layer, few), circuits=abs_circuits(5)[:1] * 2)
    assert found.overview.projection is None
    assert "payload" in page_html([found])


def test_circuits_that_never_occur_are_left_out(make_transcoder):
    layer, transcoder = AbsNetwork(5), make_transcoder(d_out=5, dtype="float32").eval()
    rows = next(AbsInputs(5, batch_size=40)).abs()  # no negative halves
    found = inspect_transcoder(transcoder, layer, row_sample(layer, rows), circuits=abs_circuits(5))
    assert found.overview.projection is not None
    assert len(found.overview.projection.labels) == 5
    assert found.records.nearest_circuit is not None
    assert all(k < 0 or k % 2 == 0 for k in found.records.nearest_circuit)


def test_neuronpedia_is_where_the_metadata_say():
    assert inspected.text().neuronpedia is None
    assert inspected.text(neuronpedia="a/b").neuronpedia == "https://www.neuronpedia.org/a/b"
