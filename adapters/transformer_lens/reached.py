"""The check that a transcoder attached at two hook points would be reached by a run of the model."""

from typing import Any

import torch
from sae_lens.analysis.hooked_sae_transformer import get_deep_attr
from torch import Tensor, nn

from faithfulness_plugin.layers.hooked_layer import Hooks
from faithfulness_plugin.rounding import beyond_rounding


class _Standing(nn.Module):
    """Stands where a transcoder would, in the place of a hook point, and adds noise to what passes."""

    def __init__(self, passed: list[str]) -> None:
        super().__init__()
        self._passed = passed

    def forward(self, activation: Tensor) -> Tensor:
        self._passed.append("written")
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(activation.shape, generator=generator).to(activation)
        return activation + (1 + activation.abs().mean()) * noise


@torch.no_grad()
def require_reached(hooks: Hooks, hook_in: str, hook_out: str) -> None:
    """Checks, in two small runs on random tokens, that the model passes the first hook point and then the second one,
    and that what stands in the second one's place changes the logits. The model is left as it was.

    Args:
        hooks: those of a HookedSAETransformer or a SAETransformerBridge.
        hook_in, hook_out: names of hook points; the same, for an autoencoder.

    Raises ValueError where a transcoder that is attached there would not be part of the model.
    """
    model: Any = hooks.model  # pyright: ignore[reportAttributeAccessIssue]  of TransformerLens
    own, tokens, passed = hooks.own_name(hook_out), hooks.random_tokens(), list[str]()
    where, _, last = own.rpartition(".")
    beside = get_deep_attr(model, where)._modules  # setting an attribute of a bridge would rename the hook point
    point = beside[last]
    clean = hooks.run(tokens, {})
    beside[last] = _Standing(passed)
    try:
        read = {} if own == hooks.own_name(hook_in) else {hook_in: lambda _: passed.append("read")}
        changed = hooks.run(tokens, read)
    finally:
        beside[last] = point
        if hasattr(model, "_hook_registry"):  # of a bridge, which has lost the hook point meanwhile
            model._hook_registry[own] = point
    never = "a transcoder there would never run: nothing was attached"
    if read and "read" not in passed:
        raise ValueError(f"a run of the model does not pass {hook_in}, and {never}")
    if "written" not in passed:
        raise ValueError(f"a run of the model does not pass what stands in the place of {hook_out}, and {never}")
    if read and passed.index("written") < passed.index("read"):
        raise ValueError(f"a run of the model passes {hook_out} before {hook_in}, and {never}")
    if not beyond_rounding(clean, changed).any():
        raise ValueError(f"what is written at {hook_out} does not change the logits: nothing was attached")
