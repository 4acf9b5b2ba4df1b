"""The layer of the toy problem: y = |x|, by a real ReLU network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint


class AbsNetwork(HookedRootModule):
    """y = |x| coordinate-wise, exactly, as y_i = ReLU(x_i) + ReLU(-x_i): 2 d_in ReLU neurons.

    Neuron i reads +x_i, neuron d_in + i reads -x_i; both write y_i. Weights: W_in [d_in, 2 d_in],
    W_out [2 d_in, d_in]. Hooks: hook_in (x), hook_pre, hook_post (neurons), hook_out (y).

    Source: C. Olah, "A Toy Model of Mechanistic (Un)Faithfulness", Transformer Circuits, 2025.
    """

    W_in: Tensor
    W_out: Tensor

    def __init__(self, d_in: int) -> None:
        super().__init__()
        if d_in < 1:
            raise ValueError(f"d_in={d_in}: a width is at least 1")
        self.d_in = d_in
        eye = torch.eye(d_in)
        self.W_in = nn.Parameter(torch.cat([eye, -eye], dim=1), requires_grad=False)
        self.W_out = nn.Parameter(torch.cat([eye, eye], dim=0), requires_grad=False)
        self.hook_in = HookPoint()
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()
        self.hook_out = HookPoint()
        self.setup()

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """[..., d_in] -> [..., d_in]. Raises ValueError for another width."""
        if x.shape[-1] != self.d_in:
            raise ValueError(
                f"the inputs are {x.shape[-1]} wide (shape {list(x.shape)}) but this network has d_in={self.d_in}"
            )
        hidden_pre = self.hook_pre(self.hook_in(x) @ self.W_in)
        return self.hook_out(self.hook_post(torch.relu(hidden_pre)) @ self.W_out)
