"""Modules that are given rows without a position dimension, seen as [batch, pos, d]."""

from torch import Tensor

from faithfulness_plugin.layers.check_layer import LayerError
from faithfulness_plugin.layers.hooks import Hook


def by_position(name: str, hook: Hook, n_prompts: int, length: int | None) -> Hook:
    """Wrap a hook for a module that may carry rows without a position dimension: OPT flattens [batch, pos, d] to [batch
    * pos, d] around its MLPs, other models around shared experts and routers, and poolers keep one row a prompt.

    Args:
        name: the tensor's, for messages.
        hook: sees [batch, pos, d] and returns that, or None.
        n_prompts: inputs of the model.
        length: tokens of each; None for inputs that are no tokens.

    Returns:
        A hook that sees, and gives back, rows in the module's own shape.

    Raises:
        LayerError: while the model runs, for a number of rows that are not those of the tokens.
    """

    def seen_by_position(activation: Tensor) -> Tensor | None:
        if activation.ndim != 2 or not activation.is_floating_point():
            return hook(activation)
        n_rows, d = activation.shape
        one_each, all_rows = n_rows == n_prompts, length is None or n_rows == n_prompts * length
        if not one_each and (not all_rows or n_rows % n_prompts):
            of = f"{n_prompts * length} tokens" if length is not None else f"{n_prompts} inputs"
            raise LayerError(
                f"{name} carries {n_rows} rows for {of}, only those that are routed to it, as it seems: choose hooks "
                "around the whole MLP, with its router"
            )
        replaced = hook(activation.reshape(n_prompts, n_rows // n_prompts, d))
        return None if replaced is None else replaced.reshape(n_rows, replaced.shape[-1])

    return seen_by_position
