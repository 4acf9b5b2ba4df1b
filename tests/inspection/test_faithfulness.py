import numpy as np
import pytest
import torch
from oracles import ThenNorm, exact_abs_transcoder, jacobian_by_rows, plant_datapoint_feature
from scipy.sparse import csr_array
from torch import nn

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.inspection.drawn_firings import DrawnFirings, FiringDraw, draw_firings
from faithfulness_plugin.inspection.faithfulness import OPAQUE, _ratios, feature_faithfulness
from faithfulness_plugin.inspection.sample import row_sample


def slowly(transcoder, layer, sample, rows, i):
    """Both shares of a feature, row by row, from whole Jacobians by autograd."""
    W_enc, W_dec, along, size, carried, energy = transcoder.W_enc.detach(), transcoder.W_dec.detach(), 0, 0, 0, 0
    for n in rows:
        x, u = sample.x[n], sample.y[n] - sample.y.mean(0)
        J = jacobian_by_rows(layer, x)
        r, w = W_enc[:, i] / W_enc[:, i].norm(), W_dec[i] / W_dec[i].norm()
        gain, claimed = w @ J @ r, W_enc[:, i].norm() * W_dec[i].norm()
        along += gain.abs() * gain.clamp(-claimed, claimed)
        size += J.square().sum()
        carried += transcoder.encode(x[None])[0, i].detach() * (W_dec[i] @ u)
        energy += u.square().sum()
    return float(along / size), float(carried / energy)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(5, 9).double(), nn.Linear(5, 9).double()
        self.down_proj, self.act_fn = nn.Linear(9, 4).double(), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


LAYERS = {
    "opaque": lambda mlp: mlp,
    "known": lambda mlp: nn.Sequential(mlp.up, nn.SiLU(), mlp.down),
    "gated": lambda mlp: Gated(),
    "then a norm": lambda mlp: ThenNorm(nn.Sequential(mlp.up, nn.SiLU(), mlp.down), nn.LayerNorm(4).double()),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_both_shares_are_those_of_whole_jacobians(make_transcoder, mlp, kind, architecture, monkeypatch):
    layer, transcoder = LAYERS[kind](mlp), make_transcoder(architecture, skip=True).eval()
    sample = row_sample(layer, torch.randn(60, 5, dtype=torch.float64))
    drawn = draw_firings(transcoder, sample, most=10)
    monkeypatch.setattr("faithfulness_plugin.inspection.faithfulness.PAIRS", 7)
    monkeypatch.setattr("faithfulness_plugin.inspection.faithfulness.PRODUCTS", 100)  # a few features at a time
    found = feature_faithfulness(transcoder, layer, sample, drawn)
    drawn = drawn if kind != "opaque" else drawn.fewer(OPAQUE)
    assert (found.n_rows == (drawn.rows >= 0).sum(1)).all()
    for i in np.flatnonzero(found.n_rows):
        moves, carries = slowly(transcoder, layer, sample, drawn.rows[i][drawn.rows[i] >= 0], i)
        assert (found.moves[i], found.carries[i]) == (pytest.approx(moves, rel=1e-6), pytest.approx(carries, rel=1e-6))
        assert found.faithfulness[i] == pytest.approx(
            np.clip(moves / carries, 0, 1) if carries > 0 else np.nan, nan_ok=True
        )
        if found.n_rows[i] >= 5 and carries > 0:
            assert 0 <= found.low[i] <= found.faithfulness[i] <= found.high[i] <= 1


def test_wide_layers_have_the_mean_size_of_their_jacobians(make_transcoder):
    layer = nn.Sequential(nn.Linear(80, 120), nn.GELU(), nn.Linear(120, 80)).double()
    transcoder = make_transcoder(d_in=80, d_out=80).eval()
    sample = row_sample(layer, torch.randn(200, 80, dtype=torch.float64))
    drawn = draw_firings(transcoder, sample)
    known, opaque = (feature_faithfulness(transcoder, f, sample, drawn) for f in (layer, lambda x: layer(x)))
    for found, most in ((known, 64), (opaque, OPAQUE)):
        for i in range(3):
            rows = drawn.fewer(most).rows[i]
            moves, carries = slowly(transcoder, layer, sample, rows[rows >= 0], i)
            assert found.carries[i] == pytest.approx(carries, rel=1e-6)
            assert found.moves[i] == pytest.approx(moves, rel=0.15)


def test_a_datapoint_feature_has_the_output_and_little_of_the_jacobian():
    inputs = AbsInputs(16, density=0.1, repeat_frac=0.05, batch_size=2000, seed=3)
    layer, transcoder = AbsNetwork(16).double(), exact_abs_transcoder(16, 40)
    exact = feature_faithfulness(transcoder, layer, row_sample(layer, next(inputs).double()))
    live = exact.n_rows > 0
    assert live.sum() == 32
    plant_datapoint_feature(transcoder, inputs.point.double(), 35)
    sample = row_sample(layer, next(inputs).double())
    planted = feature_faithfulness(transcoder, layer, sample)
    assert np.nanargmin(planted.faithfulness) == 35
    assert planted.faithfulness[35] == pytest.approx(1 / 3, abs=0.05)
    assert planted.high[35] < 0.4
    assert np.nanmin(exact.faithfulness[live]) > 0.5
    assert np.nanmedian(exact.faithfulness[live]) == pytest.approx(1, abs=0.1)
    assert np.isnan(planted.faithfulness[39])  # it never fires


def test_the_interval_is_that_of_resampled_rows():
    generator = np.random.default_rng(1)
    along, size, carried, energy = generator.uniform(0.1, 1, (4, 1, 40)) * np.array([0.3, 1, 0.5, 1])[:, None, None]
    found = _ratios(np.stack([along, size, carried, energy]), np.array([40]))
    again = []
    for _ in range(2000):
        n = generator.integers(40, size=40)
        again.append((along[0, n].sum() / size[0, n].sum()) / (carried[0, n].sum() / energy[0, n].sum()))
    assert found.low[0] == pytest.approx(np.quantile(again, 0.025), abs=0.03)
    assert found.high[0] == pytest.approx(np.quantile(again, 0.975), abs=0.03)
    few = _ratios(np.ones((4, 1, 3)), np.array([3]))
    assert (few.faithfulness[0], np.isnan(few.low[0])) == (1, True)


def test_rows_are_drawn_alike_whatever_the_parts():
    generator = np.random.default_rng(0)
    acts = generator.uniform(0, 1, (300, 6)) * (generator.uniform(0, 1, (300, 6)) < [0, 0.01, 0.05, 0.3, 0.9, 1])
    whole, draw = FiringDraw(300, 6, 10), FiringDraw(300, 6, 10)
    whole.add(csr_array(acts), 0)
    for start, stop in ((0, 1), (1, 120), (120, 300)):
        draw.add(csr_array(acts[start:stop]), start)
    drawn = draw.drawn()
    np.testing.assert_array_equal(drawn.rows, whole.drawn().rows)
    for i in range(6):
        n = min(10, np.count_nonzero(acts[:, i]))
        rows = drawn.rows[i, :n]
        assert (np.diff(rows) > 0).all()
        assert (drawn.rows[i, n:] == -1).all()
        assert (acts[rows, i] > 0).all()
        np.testing.assert_array_equal(drawn.activations[i, :n], acts[rows, i])
    assert abs(drawn.rows[5].mean() - 150) < 100
    fewer = drawn.fewer(4)
    assert fewer.rows[5].tolist() == [drawn.rows[5, k] for k in (0, 2, 5, 7)]
    assert fewer.rows[1].tolist() == drawn.rows[1, :4].tolist()
    assert isinstance(fewer, DrawnFirings)
