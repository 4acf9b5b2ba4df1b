from types import SimpleNamespace

import numpy as np
import torch
from scipy.sparse import csr_array

from faithfulness_plugin.inspection.alone import AloneRows
from faithfulness_plugin.inspection.duplicate_features import duplicate_features, near_duplicate_pairs


def features(d: int, n: int = 40) -> SimpleNamespace:
    W_enc, W_dec = torch.randn(d, n), torch.randn(n, d)
    W_enc[:, 7], W_dec[7] = 2 * W_enc[:, 3] + 0.05 * torch.randn(d), 3 * W_dec[3] + 0.05 * torch.randn(d)
    W_enc[:, 9], W_dec[9] = W_enc[:, 3], -W_dec[3]
    W_dec[11] = 0
    return SimpleNamespace(W_enc=W_enc, W_dec=W_dec)


def test_pairs_are_those_that_are_within_the_radius():
    for d in (20, 200):
        of = features(d)
        W_enc, W_dec = of.W_enc.numpy(), of.W_dec.numpy()
        pairs = near_duplicate_pairs(W_enc, W_dec)
        assert {*zip(*(each.tolist() for each in pairs.nonzero()), strict=True)} == {(3, 7), (7, 3)}
        live = np.delete(np.arange(40), 11)
        found = live[duplicate_features(W_enc[:, live], W_dec[live])]
        assert found.tolist() == [3, 7]


def test_rows_where_a_feature_fires_and_its_near_duplicate_does_not():
    of, n = features(20), 300
    acts = np.random.default_rng(0).uniform(0, 1, (n, 40)) * (np.random.default_rng(1).uniform(0, 1, (n, 40)) < 0.4)
    alone = AloneRows(of, torch.arange(n))  # pyright: ignore[reportArgumentType]
    for part in (slice(0, 1), slice(1, 200), slice(200, n)):
        alone.add(csr_array(acts[part]), part.start)
    assert alone.near.nonzero()[0].tolist() == [3, 7]
    for i, other in ((3, 7), (7, 3)):
        values = np.where(acts[:, other] == 0, acts[:, i], 0)
        assert alone.rows[i].tolist() == np.argsort(-values)[:2].tolist()
        np.testing.assert_allclose(alone.activations[i], np.sort(values)[::-1][:2])
    assert (np.delete(alone.rows, [3, 7], axis=0) == -1).all()
