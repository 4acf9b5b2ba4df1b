"""Names of the tensors of a HookedTransformer or a TransformerBridge: TransformerLens's, and Hugging Face's."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from faithfulness_plugin.adapters.huggingface.places import Place, Side, side_of, whole_name
from faithfulness_plugin.errors import UsageError

OF_A_MODULE = re.compile(r"(?:.+\.)?(?:layers|h|blocks|block)\.(\d+)(?:\.(.+))?")
"""A Hugging Face module's name, of a block or in one."""
AFTER_ATTENTION = "post_attention_layernorm"
HOOKED = {
    "mlp": "mlp",
    "fc1": "mlp",
    "fc2": "mlp",
    "self_attn": "attn",
    "attn": "attn",
    "attention": "attn",
    "input_layernorm": "ln1",
    "ln_1": "ln1",
    "self_attn_layer_norm": "ln1",
    "ln_2": "ln2",
    "final_layer_norm": "ln2",
    "pre_feedforward_layernorm": "ln2",
    "post_feedforward_layernorm": "ln2_post",
}
"""The module of a HookedTransformer's block that computes what a Hugging Face module is named after."""


def find_tensor(model: Any, name: str, own: Mapping[str, Any], aliases: Mapping[str, str]) -> str | Place | None:
    """Find a hook point, or a place of torch's own hooks where TransformerLens has no hook point.

    - A TransformerBridge wraps a Hugging Face model: its modules' names stand for what they are given and put out
    there.
    - A HookedTransformer has modules of its own; a Hugging Face name stands for the tensor that is the same there. With
    a norm's scale folded into the weights none is, which is refused.
    - `hook_mlp_in` is what the MLP's branch reads from the residual stream, whether or not the model copies it for a
    hook of that name (`use_hook_mlp_in`).

    Args:
        model: a HookedTransformer or a TransformerBridge.
        name: TransformerLens's, or Hugging Face's.
        own: the model's hook points by name.
        aliases: other names of theirs.

    Returns:
        The hook point's own name, a place, or None for an unknown name.

    Raises:
        UsageError: a tensor that the model does not compute as it stands.
    """
    if name.endswith(".hook_mlp_in") and name in own and not model.cfg.use_hook_mlp_in:
        return _branch_entry(model, name.removesuffix("hook_mlp_in"), own)
    if name in own or name in aliases:
        return _passed(model, aliases.get(name, name), own)
    find = _on_bridge if hasattr(model, "original_model") else _on_hooked
    return find(model, name, own)


def _branch_entry(model: Any, block: str, own: Mapping[str, Any]) -> str:
    if getattr(model.get_submodule(block.rstrip(".")), "mlp_reads_resid_directly", False):
        return block + "mlp.hook_in"
    entries = ("ln2.hook_in", "hook_resid_mid", "hook_resid_pre", "hook_in")
    found = next((block + entry for entry in entries if block + entry in own), None)
    if found is None:
        raise UsageError(f"{block}hook_mlp_in: the model has no hook where the MLP's branch begins")
    return found


def _passed(model: Any, name: str, own: Mapping[str, Any]) -> str:
    """Return the hook point that a run passes. The hooks of an MLP that is no module of its own, but two projections in
    the block (OPT), are theirs. What a norm without a scale puts out is what it has normalized; a bridge cannot replace
    the latter (OLMo)."""
    if name.endswith((".ln1.hook_normalized", ".ln2.hook_normalized")):
        inner = getattr(model.get_submodule(name.removesuffix(".hook_normalized")), "original_component", None)
        scaled = inner is None or getattr(inner, "weight", None) is not None
        return name if scaled else name.removesuffix("hook_normalized") + "hook_out"
    match = re.fullmatch(r"((.+)\.mlp)\.hook_(in|out)", name)
    if match is None:
        return name
    mlp, block, side = match.groups()
    whole = getattr(model.get_submodule(block), "original_component", None)
    projection = f"{mlp}.{side}.hook_{side}"
    in_parts = whole is not None and model.get_submodule(mlp).original_component is whole
    return projection if in_parts and projection in own else name


def _on_bridge(model: Any, name: str, own: Mapping[str, Any]) -> str | Place | None:
    module, side = side_of(name)
    found = _wrapped(model.original_model, module)
    if found is None:
        return None
    point = getattr(found, "hook_in" if side == "input" else "hook_out", None)
    theirs = getattr(point, "name", None)
    return theirs if theirs in own else Place(found, side)


def _on_hooked(model: Any, name: str, own: Mapping[str, Any]) -> str | Place | None:
    block = re.fullmatch(r"blocks\.(\d+)\.mlp\.hook_(in|out)", name)
    if block is not None and int(block[1]) < len(model.blocks):
        return Place(model.blocks[int(block[1])].mlp, "input" if block[2] == "in" else "output")
    whole, side = side_of(name)
    match = OF_A_MODULE.fullmatch(whole)
    if match is None or int(match[1]) >= len(model.blocks):
        return None
    here, prefix, module = model.blocks[int(match[1])], f"blocks.{match[1]}.", match[2]
    if module is None:
        return prefix + ("hook_resid_pre" if side == "input" else "hook_resid_post")
    called = HOOKED.get(module)
    if module == AFTER_ATTENTION:  # a norm of what attention puts out, or that before the MLP
        called = "ln1_post" if model.cfg.use_normalization_before_and_after else "ln2"
    if (module, side) in (("fc1", "output"), ("fc2", "input")):
        called = None  # inside the MLP
    if called == "ln2_post" and not hasattr(here, "ln2_post"):
        called = "ln2"  # OLMo 2 has one norm a branch, behind it
    component: nn.Module | None = getattr(here, called or "", None)
    if called is None or component is None:
        return None
    if called.startswith("ln") and side == "output" and getattr(component, "w", None) is None:
        raise UsageError(
            f"{name}: the scale of that norm is folded into the weights of this HookedTransformer, which does not "
            "compute that tensor: load the model with from_pretrained_no_processing"
        )
    same = prefix + _hook_point(called, side, here)
    return same if same in own else Place(component, side)


def _hook_point(module: str, side: Side, block: Any) -> str:
    """Return the hook point of a HookedTransformer's block at one side of a module, where there may be one."""
    post_norm = block.cfg.original_architecture in POST_NORM_ARCHITECTURES
    known: dict[tuple[str, Side], str] = {("mlp", "input"): "mlp.hook_in"}
    for branch, norm in (("mlp", "ln2"), ("attn", "ln1")):
        last = norm if post_norm else f"{norm}_post" if hasattr(block, f"{norm}_post") else branch
        known[last, "output"] = f"hook_{branch}_out"
    if not post_norm:
        known |= {("ln2", "output"): "mlp.hook_in", ("ln1", "input"): "hook_resid_pre"}
        known["ln2", "input"] = "hook_resid_pre" if block.cfg.parallel_attn_mlp else "hook_resid_mid"
    return known.get((module, side), "")


def _wrapped(root: Any, name: str) -> Any:
    """Return the module of that name in the model that a bridge wraps; components of the bridge stand in it."""
    found = whole_name(name, _module_names(root))
    if found is None:
        return None
    module = root
    for part in found.split("."):
        module = getattr(getattr(module, "original_component", None) or module, part)
    return module


def _module_names(module: Any, prefix: str = "", depth: int = 0) -> list[str]:
    """Return names as they were before the model was wrapped."""
    inner, names = getattr(module, "original_component", None) or module, []
    for name, child in inner.named_children():
        if name.startswith("_") or depth > 12:
            continue
        names += [prefix + name, *_module_names(child, f"{prefix}{name}.", depth + 1)]
    return names
