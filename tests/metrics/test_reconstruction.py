import pytest
import torch
from oracles import ARCHITECTURES, exact_abs_transcoder
from sae_lens import SAE

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.metrics import reconstruction


def test_of_the_exact_solution():
    x = next(AbsInputs(4, density=0.5, batch_size=4000)).double()
    result = reconstruction(exact_abs_transcoder(4, 10), AbsNetwork(4).double(), x)
    assert result.fvu == pytest.approx(0, abs=1e-24)  # of squares, in double precision
    assert result.validation_loss == pytest.approx(0, abs=1e-24)
    assert result.dead_fraction == pytest.approx(2 / 10)
    assert result.l0 == pytest.approx((x != 0).sum(-1).double().mean().item())
    assert result.l0 == pytest.approx(2.0, abs=0.1)  # density * d_in


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("exported", [False, True])
def test_the_output_is_the_transcoders_own_also_with_a_skip_connection(
    as_installed, mlp, make_transcoder, tmp_path, architecture, skip, exported
):
    transcoder = make_transcoder(architecture, skip=skip).eval()
    if exported:
        transcoder.save_inference_model(tmp_path)
        transcoder = SAE.load_from_disk(tmp_path)
    x = torch.randn(50, 5, dtype=torch.float64)
    assert reconstruction(transcoder, mlp, x).validation_loss == pytest.approx(
        (transcoder(x) - mlp(x)).square().mean().item()
    )


def test_every_number_row_by_row(mlp, make_transcoder):
    transcoder, x = make_transcoder(), torch.randn(50, 5, dtype=torch.float64)
    y, t, a = mlp(x), transcoder(x), transcoder.encode(x)
    result = reconstruction(transcoder, mlp, x)
    errors = sum(((y[n] - t[n]) ** 2).sum().item() for n in range(50))
    assert result.fvu == pytest.approx(errors / sum(((y[n] - y.mean(0)) ** 2).sum().item() for n in range(50)))
    assert result.validation_loss == pytest.approx(errors / 50 / 4)
    assert result.sparsity == pytest.approx(sum(torch.tanh(5 * v).item() for v in a.flatten()) / a.numel())
    assert result.l0 == pytest.approx(sum(int(v > 0) for v in a.flatten()) / 50)
    assert result.dead_fraction == sum(int((a[:, i] == 0).all()) for i in range(12)) / 12


def test_effective_l0_leaves_crumbs_out_and_does_not_depend_on_the_scale_of_features():
    x = next(AbsInputs(4, density=1.0, batch_size=500)).double()
    transcoder = exact_abs_transcoder(4, 9)
    with torch.no_grad():
        transcoder.b_enc[8] = 1e-4  # a crumb that always fires
        transcoder.W_dec[8, 0] = 1.0
    result = reconstruction(transcoder, AbsNetwork(4).double(), x)
    assert result.l0 == pytest.approx(5.0)
    assert result.effective_l0 < 4.0
    with torch.no_grad():
        transcoder.W_enc.mul_(100)
        transcoder.b_enc.mul_(100)
        transcoder.W_dec.div_(100)
    assert reconstruction(transcoder, AbsNetwork(4).double(), x).effective_l0 == pytest.approx(result.effective_l0)


def test_another_width_is_not_broadcast(mlp, make_transcoder):
    with pytest.raises(ValueError, match=r"the transcoder returns shape \[9, 1\] and the layer \[9, 4\]"):
        reconstruction(make_transcoder(d_out=1), mlp, torch.randn(9, 5).double())


def test_a_constant_layer_is_refused(make_transcoder):
    with pytest.raises(ValueError, match="same on all rows"):
        reconstruction(make_transcoder(), lambda x: torch.ones(len(x), 4).double(), torch.randn(9, 5).double())


def test_a_layer_that_is_constant_up_to_rounding_of_its_mean_is_refused(make_transcoder):
    with pytest.raises(ValueError, match="FVU is undefined"):
        reconstruction(make_transcoder(), lambda x: torch.full((len(x), 4), 0.1).double(), torch.randn(999, 5).double())
