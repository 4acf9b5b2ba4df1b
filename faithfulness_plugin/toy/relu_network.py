"""A layer with one hidden layer of ReLU neurons, whose weights and hooks are open."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

try:
    from transformer_lens import HookedRootModule
except ImportError:  # versions before 3.3, which circuit-tracer 0.5 needs
    from transformer_lens.hook_points import HookedRootModule

from faithfulness_plugin.metrics.circuit_projection import Circuit


class ReluNetwork(HookedRootModule):
    """y = ReLU(x W_in + b_in) W_out + b_out, with fixed weights.

    Hooks: hook_in (x), hook_pre, hook_post (neurons), hook_out (y).
    """

    W_in: Tensor
    b_in: Tensor
    W_out: Tensor
    b_out: Tensor

    def __init__(
        self,
        W_in: Float[Tensor, "d_in n_neurons"],
        W_out: Float[Tensor, "n_neurons d_out"],
        b_in: Float[Tensor, " n_neurons"] | None = None,
        b_out: Float[Tensor, " d_out"] | None = None,
    ) -> None:
        super().__init__()
        self.d_in = W_in.shape[0]
        b_in = W_in.new_zeros(W_in.shape[1]) if b_in is None else b_in
        b_out = W_out.new_zeros(W_out.shape[1]) if b_out is None else b_out
        for name, weight in (("W_in", W_in), ("b_in", b_in), ("W_out", W_out), ("b_out", b_out)):
            setattr(self, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
        self.hook_in, self.hook_pre, self.hook_post, self.hook_out = (HookPoint() for _ in range(4))
        self.setup()

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Compute y = ReLU(x W_in + b_in) W_out + b_out.

        Args:
            x: the rows.

        Returns:
            y.

        Raises:
            ValueError: rows of another width.
        """
        if x.shape[-1] != self.d_in:
            raise ValueError(
                f"the inputs are {x.shape[-1]} wide (shape {list(x.shape)}) but this network has d_in={self.d_in}"
            )
        hidden_pre = self.hook_pre(self.hook_in(x) @ self.W_in + self.b_in)
        return self.hook_out(self.hook_post(torch.relu(hidden_pre)) @ self.W_out + self.b_out)

    def circuits(self) -> list[Circuit]:
        """Return each neuron as an ideal circuit: ReLU(x . W_in[:, i] + b_in[i]) W_out[i].

        Returns:
            One circuit per neuron, in their order.
        """
        return [
            Circuit(f"neuron {i + 1}", _neuron(self.W_in[:, i], self.b_in[i]), self.W_out[i])
            for i in range(self.W_in.shape[1])
        ]


def _neuron(reads: Tensor, bias: Tensor):  # a function of its own, for the weights to be bound now
    return lambda x: torch.relu(x @ reads.to(x) + bias.to(x))
