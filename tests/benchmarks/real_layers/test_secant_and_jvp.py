import pytest
import torch
from torch import nn

from faithfulness_plugin.benchmarks.real_layers.arms import Arm
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.secant_and_jvp import SecantAndJvp
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.jacobian.probes import pair
from faithfulness_plugin.transcoders.seeded import made_with_seed


@pytest.mark.parametrize("n_probes", [1, 3])
def test_the_loss_is_the_mean_of_both_terms_along_the_same_probes(n_probes):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    cfg = Arm(skip=True).config(Kind(sparsity=2), d_in=4, d_out=5, d_sae=9, device="cpu", dtype="float64")
    transcoder, x = made_with_seed(cfg, 0), torch.randn(16, 4, dtype=torch.float64)

    def loss(estimator: str) -> torch.Tensor:
        config = JacobianMatchingConfig(estimator, probe="pair", n_probes=n_probes, normalize=False)
        return JacobianMatching(config)(transcoder, layer, x)

    both, secant, jvp = loss("secant_and_jvp"), loss("secant"), loss("jvp")
    torch.testing.assert_close(both, (secant + jvp) / 2)


def test_products_stand_beneath_each_other():
    torch.manual_seed(1)
    layer, x = nn.Linear(3, 2, bias=False).double(), torch.randn(6, 3, dtype=torch.float64)
    v = pair(x, 1, torch.Generator().manual_seed(0))
    _, products = SecantAndJvp(probe="pair").layer_products(layer, x, v, 0.5)
    torch.testing.assert_close(products, torch.cat([layer(v), layer(v)]).detach())
