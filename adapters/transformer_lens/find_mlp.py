"""The MLP of a block of a HookedTransformer or a TransformerBridge, as a function of rows."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from faithfulness_plugin.adapters.huggingface.find_mlp import Mlp, mlp_of, numbered_mlp
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.mlp_weights import mlp_weights, normed_mlp
from faithfulness_plugin.layers.normed_mlp import LayerWeights


def mlp_in(model: Any, block: int) -> HookedLayer:
    """Find the MLP of a block (`mlp_layer` lists the hooks of each kind of model).

    Args:
        model: a HookedTransformer or a TransformerBridge.
        block: its number.

    Returns:
        The MLP between its hooks.

    Raises:
        UsageError: a missing block, or one without an MLP.
    """
    blocks = getattr(model, "blocks", None)
    if blocks is None:
        lists = [name for name, child in model.named_children() if name.endswith("blocks")]
        raise UsageError(
            f"the model has no list called blocks{', but ' * bool(lists)}{' and '.join(lists)}: use mlp_layer of "
            "adapters.huggingface on the Hugging Face model itself"
        )
    mlp, prefix = numbered_mlp(blocks, block, _own_mlp), f"blocks.{block}."
    if isinstance(mlp, Mlp):
        return _of_bridge(blocks[block], prefix, mlp)
    return _of_hooked(model, blocks[block], prefix)


def _own_mlp(block: Any) -> Any:
    """Return the MLP of the Hugging Face block that a bridge wraps, or a HookedTransformer's module; None for none."""
    inner = getattr(block, "original_component", None)
    return getattr(block, "mlp", None) if inner is None else mlp_of(inner)


def _of_bridge(block: Any, prefix: str, mlp: Mlp) -> HookedLayer:
    """Return the MLP of a bridge's block, which may have it under another name (Granite's shared_mlp, Nemotron-H's
    mixer) or as two projections (OPT)."""
    parts = block.named_modules(remove_duplicate=False)
    own = {getattr(part, "name", None): (key, part) for key, part in parts if "original_component" not in key}
    first, last = (own.get(name) or own.get(f"{name}.dense") for name in (mlp.first, mlp.last))
    if first is None or last is None:
        raise UsageError(
            f"the bridge has no hooks at {mlp.first}, the MLP of this block: use mlp_layer of adapters.huggingface on "
            "the Hugging Face model itself"
        )
    # with weights that it has processed, a bridge computes by itself, hooks included
    runs_model = first != last or getattr(first[1], "_use_processed_weights", False)
    hook_in, hook_out = f"{prefix}{first[0]}.hook_in", f"{prefix}{last[0]}.hook_out"
    return HookedLayer(hook_in, hook_out, mlp.function, weights=mlp.weights, runs_model=runs_model)


def _of_hooked(model: Any, block: Any, prefix: str) -> HookedLayer:
    names = model.hook_dict
    post_norm = block.cfg.original_architecture in POST_NORM_ARCHITECTURES
    has_norm = hasattr(block.ln2, "hook_normalized")
    after = block.ln2_post if model.cfg.use_normalization_before_and_after else None
    after = block.ln2 if post_norm and has_norm else after
    before: Callable[[Tensor], Tensor] | None = None
    if prefix + "mlp.hook_in" in names:
        hook_in = "mlp.hook_in"
    elif has_norm and not post_norm:
        hook_in, before = "ln2.hook_normalized", scale_of(block.ln2)
    else:
        hook_in = "hook_resid_mid" if prefix + "hook_resid_mid" in names else "hook_resid_pre"

    def function(x: Tensor) -> Tensor:
        # the class's own forward: HookedSAETransformer puts mlp.hook_in into the instance's
        y = type(block.mlp).forward(block.mlp, (x if before is None else before(x)).to(model.cfg.dtype))
        return y if after is None else after.forward(y)

    def weights() -> LayerWeights | None:
        mlp = mlp_weights(block.mlp)
        if not isinstance(mlp, MlpWeights):
            return None
        mlp = mlp if before is None else _scaled(mlp, block.ln2)
        return mlp if after is None else normed_mlp(mlp, after)

    return HookedLayer(prefix + hook_in, prefix + "hook_mlp_out", function, weights=weights)


def scale_of(norm: Any) -> Callable[[Tensor], Tensor]:
    """Build the function x -> x * w + b of a norm, where it has them and has not folded them away. In half precision
    the norm is computed in single, and cast here.

    Args:
        norm: a norm of a HookedTransformer.

    Returns:
        The function.
    """

    def scaled(x: Tensor) -> Tensor:
        x, w, b = x.to(norm.cfg.dtype), getattr(norm, "w", None), getattr(norm, "b", None)
        x = x if w is None else x * w
        return x if b is None else x + b

    return scaled


def _scaled(mlp: MlpWeights, norm: Any) -> MlpWeights:
    """Return the MLP's weights for inputs before the norm's scale: (x * w + b) W + c = x (w * W) + (b W + c)."""
    w, b = getattr(norm, "w", None), getattr(norm, "b", None)

    def scaled(W: Tensor) -> Tensor:
        # [d_in, 1] * [d_in, d_mlp]: the scale of each input multiplies its row
        return W if w is None else w[:, None] * W

    def shifted(W: Tensor, bias: Tensor | None) -> Tensor | None:
        # [d_in] @ [d_in, d_mlp] -> [d_mlp]
        return bias if b is None else b @ W if bias is None else b @ W + bias

    gate = mlp.W_gate
    mlp = mlp._replace(W_in=scaled(mlp.W_in), b_in=shifted(mlp.W_in, mlp.b_in))
    return mlp if gate is None else mlp._replace(W_gate=scaled(gate), b_gate=shifted(gate, mlp.b_gate))
