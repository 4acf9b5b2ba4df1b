import numpy as np
import pytest
import torch
from oracles import ARCHITECTURES, exact_abs_transcoder, plant_datapoint_feature
from sae_lens import SAE
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.inspection.records import feature_records
from faithfulness_plugin.inspection.sample import row_sample
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.metrics.reconstruction import reconstruction
from faithfulness_plugin.toy.circuits import abs_circuits

D_SAE = 12


def slowly(transcoder, layer, x) -> dict[str, list[float]]:
    """Feature by feature, from whole matrices."""
    acts, y = transcoder.encode(x).detach(), layer(x).detach()
    W_enc, W_dec, J = transcoder.W_enc.detach(), transcoder.W_dec.detach(), transcoder_jacobian(transcoder, x).detach()
    u, n = y - y.mean(0), len(x)
    writes = sum((acts[:, j].sum() * W_dec[j].norm()).item() for j in range(D_SAE))
    found: dict[str, list[float]] = {}
    for i in range(D_SAE):
        a, fires = acts[:, i], acts[:, i] > 0
        rank_one = torch.outer(W_dec[i], W_enc[:, i])
        numbers = {
            "firing_rate": fires.sum() / n,
            "mean_activation": a[fires].mean() if fires.any() else 0.0,
            "max_activation": a.max(),
            "written": a.sum() * W_dec[i].norm() / writes,
            "carried": (a[:, None] * W_dec[i] * u).sum() / u.square().sum(),
            "jacobian_share": (rank_one * J[fires]).sum() / J.square().sum(),
            "masking": W_enc[:, i].norm() / a[fires].mean() if fires.any() else 0.0,
        }
        for name, value in numbers.items():
            found.setdefault(name, []).append(float(value))
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_numbers_are_those_of_each_feature_by_itself(make_transcoder, mlp, architecture, skip):
    transcoder, x = make_transcoder(architecture, skip=skip).eval(), torch.randn(70, 5, dtype=torch.float64)
    seen: list[int] = []
    records = feature_records(transcoder, row_sample(mlp, x), top=3, on_rows=seen.append)
    for name, expected in slowly(transcoder, mlp, x).items():
        np.testing.assert_allclose(getattr(records, name), expected, rtol=1e-5, atol=1e-7, err_msg=name)
    known = reconstruction(transcoder, mlp, x)
    assert (records.fvu, records.l0) == pytest.approx((known.fvu, known.l0))
    assert sum(seen) == records.n_rows == 70
    acts = transcoder.encode(x)
    for i in range(D_SAE):
        fired = int((acts[:, i] > 0).sum())
        expected = acts[:, i].argsort(descending=True, stable=True)[: min(3, fired)].tolist()
        assert [row for row in records.top_rows[i] if row >= 0] == expected


def test_parts_of_the_sample_make_no_difference(make_transcoder, mlp):
    transcoder, x = make_transcoder("topk").eval(), torch.randn(300, 5, dtype=torch.float64)
    whole = feature_records(transcoder, row_sample(mlp, x))
    parts = feature_records(transcoder, row_sample(mlp, x, memory=2e-5))
    for name in ("firing_rate", "carried", "jacobian_share", "top_rows"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-12)
    np.testing.assert_allclose(parts.datapoint.score, whole.datapoint.score, atol=1e-12)


def test_a_planted_datapoint_feature_is_first_and_flagged_and_the_layers_own_are_not():
    inputs = AbsInputs(16, density=0.1, repeat_frac=0.05, batch_size=4000, seed=3)
    transcoder, layer = exact_abs_transcoder(16, 40).eval(), AbsNetwork(16).double()
    sample = row_sample(layer, next(inputs).double())
    assert not feature_records(transcoder, sample).flagged.any()
    plant_datapoint_feature(transcoder, inputs.point.double(), 35)
    records = feature_records(transcoder, sample, circuits=abs_circuits(16))
    assert np.flatnonzero(records.flagged).tolist() == [35]
    assert records.datapoint.score[35] > 0.99
    assert records.datapoint.score[:32].max() < 0.25
    assert records.nearest_circuit is not None
    order = [2 * (i % 16) + i // 16 for i in range(32)]  # the circuits are listed by coordinate
    assert records.nearest_circuit[:32].tolist() == order
    assert records.nearest_circuit[33] == -1
    assert records.dead.sum() == 7


def test_hooks_on_the_transcoder_show(make_transcoder, mlp):
    def ablate(tensor: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        tensor[:, 5] = 0
        return tensor

    transcoder, x = make_transcoder().eval(), torch.randn(40, 5, dtype=torch.float64)
    assert feature_records(transcoder, row_sample(mlp, x)).firing_rate[5] > 0
    transcoder.add_hook("hook_sae_acts_post", ablate)
    records = feature_records(transcoder, row_sample(mlp, x))
    assert records.firing_rate[5] == 0
    assert records.dead[5]


def test_of_an_exported_stock_transcoder(make_transcoder, mlp, tmp_path):
    transcoder, x = make_transcoder(dtype="float32", skip=True).eval(), torch.randn(30, 5)
    transcoder.save_inference_model(tmp_path)
    layer = mlp.float()
    ours, stock = (feature_records(t, row_sample(layer, x)) for t in (transcoder, SAE.load_from_disk(tmp_path)))
    np.testing.assert_allclose(ours.jacobian_share, stock.jacobian_share, atol=1e-6)
    assert ours.fvu == pytest.approx(stock.fvu, rel=1e-5)


def test_a_transcoder_of_another_layer_is_refused(make_transcoder, as_installed):
    with pytest.raises(ValueError, match="maps 5 to 4 and the layer 6 to 6"):
        feature_records(make_transcoder().eval(), row_sample(AbsNetwork(6), torch.randn(10, 6)))
