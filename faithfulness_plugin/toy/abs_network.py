"""The layer of the toy problem: y = |x|, by a real ReLU network."""

import torch

from faithfulness_plugin.require import whole
from faithfulness_plugin.toy.relu_network import ReluNetwork


class AbsNetwork(ReluNetwork):
    """y = |x| coordinate-wise, exactly, as y_i = ReLU(x_i) + ReLU(-x_i): 2 d_in ReLU neurons.

    Neuron i reads +x_i, neuron d_in + i reads -x_i; both write y_i. Weights: W_in [d_in, 2 d_in],
    W_out [2 d_in, d_in], biases 0. Hooks: hook_in (x), hook_pre, hook_post (neurons), hook_out (y).

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", Transformer Circuits, 2025.
    """

    def __init__(self, d_in: int) -> None:
        if whole("d_in", d_in) < 1:
            raise ValueError(f"d_in={d_in}: a width is at least 1")
        eye = torch.eye(d_in)
        super().__init__(torch.cat([eye, -eye], dim=1), torch.cat([eye, eye], dim=0))
