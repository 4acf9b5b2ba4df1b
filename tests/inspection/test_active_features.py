import pytest
import torch
from oracles import exact_abs_transcoder
from sae_lens import SAE
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin.inspection.active_features import active_features


@pytest.mark.bitwise("sums with one term that is not 0 are exact in any order")
def test_they_are_the_layers_neurons_at_an_input_largest_first():
    x = torch.tensor([0.5, -0.75, 0.0, 0.25], dtype=torch.float64)
    found = active_features(exact_abs_transcoder(4, 10), x)
    assert [(f.index, f.activation) for f in found] == [(5, 0.75), (0, 0.5), (3, 0.25)]
    assert found[0].contribution.tolist() == [0, 0.75, 0, 0]
    assert found[0].reads.tolist() == [0, -1, 0, 0]
    assert found[0].norm == 0.75
    assert [f.index for f in active_features(exact_abs_transcoder(4), x, most=1)] == [5]


def test_contributions_add_up_to_the_output(make_transcoder):
    transcoder, x = make_transcoder(), torch.randn(5, dtype=torch.float64)
    found = active_features(transcoder, x, most=100)
    torch.testing.assert_close(sum(f.contribution for f in found) + transcoder.b_dec, transcoder(x))


def test_interventions_show():
    def ablate(tensor: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        tensor[:, 5] = 0
        return tensor

    transcoder = exact_abs_transcoder(4)
    transcoder.add_hook("hook_sae_acts_post", ablate)
    x = torch.tensor([0.5, -0.75, 0.0, 0.25], dtype=torch.float64)
    assert [f.index for f in active_features(transcoder, x)] == [0, 3]
    hooks = len(transcoder.hook_sae_acts_post.fwd_hooks)
    assert [f.index for f in active_features(transcoder, x)] == [0, 3]  # the user's hook is still there
    assert len(transcoder.hook_sae_acts_post.fwd_hooks) == hooks == 1  # and ours is not


def test_several_rows_are_refused(as_installed, make_transcoder):
    with pytest.raises(ValueError, match=r"pass one input, \[d_in\]"):
        active_features(make_transcoder(), torch.zeros(1, 5).double())


def test_of_an_exported_stock_transcoder(make_transcoder, tmp_path):
    transcoder = make_transcoder(dtype="float32")
    transcoder.save_inference_model(tmp_path)
    x = torch.randn(5)
    ours, stock = active_features(transcoder, x), active_features(SAE.load_from_disk(tmp_path), x)
    assert [f.index for f in ours] == [f.index for f in stock]
