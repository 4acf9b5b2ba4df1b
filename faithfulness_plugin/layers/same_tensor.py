"""Find out whether two names stand for one tensor of a model."""

import torch
from torch import Tensor

from faithfulness_plugin.layers.comparison import same_values
from faithfulness_plugin.layers.hooks import Hooks


@torch.no_grad()
def same_tensor(hooks: Hooks, one: str, other: str) -> bool:
    """Find out whether two names stand for one tensor.

    They do by the model's own name for both, or because a run on random tokens carries the same values at both.

    Args:
        hooks: the model's.
        one: a hook's name.
        other: another.

    Returns:
        Whether they do.

    Raises:
        UsageError: there is no such hook.
    """
    names = {hooks.own_name(hooks.require(name)) for name in (one, other)}
    if len(names) == 1:
        return True
    seen: dict[str, Tensor] = {}
    hooks.visit(hooks.random_tokens(), {name: lambda a, name=name: seen.update({name: a.clone()}) for name in names})
    return len(seen) == 2 and same_values(*seen.values())
