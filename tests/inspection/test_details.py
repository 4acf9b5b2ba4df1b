import numpy as np
import pytest
import torch
from oracles import ARCHITECTURES, central_difference, jacobian_by_rows

from faithfulness_plugin.inspection.details import AFTER, BEFORE, BINS, feature_details
from faithfulness_plugin.inspection.records import feature_records
from faithfulness_plugin.inspection.sample import Origins, build_sample, row_sample


def test_histograms_count_activations_in_equal_parts(make_transcoder, mlp):
    transcoder, x = make_transcoder().eval(), torch.randn(400, 5, dtype=torch.float64)
    sample = row_sample(mlp, x)
    records = feature_records(transcoder, sample)
    histogram = feature_details(transcoder, mlp, sample, records).histogram
    acts = transcoder.encode(x).detach().numpy()
    for i in range(12):
        fired = acts[:, i][acts[:, i] > 0]
        expected, _ = np.histogram(fired, BINS, (0, fired.max()))
        assert histogram[i].sum() == len(fired)
        assert np.abs(histogram[i] - expected).sum() <= 2  # edges may fall either way


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("skip", [False, True])
def test_along_what_a_feature_reads_layer_and_transcoder_move_as_their_derivatives_say(
    make_transcoder, mlp, architecture, skip
):
    transcoder, x = make_transcoder(architecture, skip=skip).eval(), torch.randn(40, 5, dtype=torch.float64)
    sample = row_sample(mlp, x)
    records = feature_records(transcoder, sample, top=2)
    along = feature_details(transcoder, mlp, sample, records).along
    W_enc, W_dec = transcoder.W_enc.detach(), transcoder.W_dec.detach()
    assert architecture in ARCHITECTURES
    for i in np.flatnonzero(records.top_rows[:, 1] >= 0):
        row = x[records.top_rows[i, 1]]
        v, d, of = W_enc[:, i] / W_enc[:, i].norm(), W_dec[i] / W_dec[i].norm(), along.coordinates[i]
        J_f = central_difference(mlp, row, v)
        J_t = jacobian_by_rows(lambda r: transcoder(r[None])[0], row) @ v
        np.testing.assert_allclose(along.layer[i, 1], J_f[of], atol=1e-5)
        np.testing.assert_allclose(along.transcoder[i, 1], J_t[of], atol=1e-5)
        np.testing.assert_allclose(along.own[i], (W_enc[:, i].norm() * W_dec[i])[of], atol=1e-6)
        expected = [J_f @ d, J_t @ d, W_enc[:, i].norm() * W_dec[i].norm()]
        np.testing.assert_allclose(along.gain[i, 1], [float(e) for e in expected], atol=1e-5)


def test_windows_are_activations_at_the_tokens_around(make_transcoder, mlp):
    transcoder, n_pos = make_transcoder().eval(), 30
    kept = torch.ones(4, n_pos, dtype=torch.bool)
    kept[:, 0] = kept[2, 9] = False
    origins = Origins.of_kept(torch.zeros(4, n_pos, dtype=torch.long), kept)
    prompt, position, row_at = origins.prompt, origins.position, origins.row_at
    x = torch.randn(len(prompt), 5, dtype=torch.float64)
    sample = build_sample(x, mlp(x).detach(), origins, memory=2e-5)
    records = feature_records(transcoder, sample, top=2)
    windows = feature_details(transcoder, mlp, sample, records).windows
    assert windows is not None
    acts = transcoder.encode(x).detach()
    for i in range(12):
        for k, row in enumerate(records.top_rows[i]):
            for w, offset in enumerate(range(-BEFORE, AFTER + 1)):
                p, q = int(prompt[row]), int(position[row]) + offset
                there = row >= 0 and 0 <= q < n_pos and row_at[p, q] >= 0
                expected = acts[row_at[p, q], i].item() / records.max_activation[i] if there else 0.0
                assert windows[i, k, w] == int(np.ceil(min(1.0, expected) * 255 - 1e-9))
    assert windows.max() == 255
