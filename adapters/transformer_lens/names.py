"""Names of the tensors of a HookedTransformer or a TransformerBridge: TransformerLens's, and Hugging Face's."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from faithfulness_plugin.adapters.huggingface.places import Place, Side

OF_A_MODULE = re.compile(r"(?:.+\.)?(?:layers|h|blocks|block)\.(\d+)(?:\.(.+))?")
"""A Hugging Face module's name, of a block or in one."""
AFTER_ATTENTION = "post_attention_layernorm"
HOOKED = {
    "mlp": "mlp",
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
"""Find the module of a HookedTransformer's block that computes what a Hugging Face module is named after."""


class TransformerLensNames:
    """From names to hook points, or to places of torch's own hooks where TransformerLens has no hook point.

    - A TransformerBridge wraps a Hugging Face model: its modules' names stand for what they are given and put out
      there.
    - A HookedTransformer has modules of its own; a Hugging Face name stands for the tensor that is the same there. With
      a norm's scale folded into the weights none is, which is refused.
    - `hook_mlp_in` is what the MLP's branch reads from the residual stream, whether or not the model copies it for a
      hook of that name (`use_hook_mlp_in`).
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def find(self, name: str, own: Mapping[str, Any], aliases: Mapping[str, str]) -> str | Place | None:
        """A hook point's own name, a place, or None where there is none such. Raises ValueError for a tensor that
        the model does not compute as it stands."""
        if name.endswith(".hook_mlp_in") and name in own and not self._model.cfg.use_hook_mlp_in:
            return self._branch_entry(name.removesuffix("hook_mlp_in"), own)
        if name in own or name in aliases:
            return self._that_is_passed(aliases.get(name, name), own)
        if hasattr(self._model, "original_model"):
            return self._on_bridge(name, own)
        return self._on_hooked(name, own)

    def _branch_entry(self, block: str, own: Mapping[str, Any]) -> str:
        module = self._model.get_submodule(block.rstrip("."))
        if getattr(module, "mlp_reads_resid_directly", False):
            return block + "mlp.hook_in"
        entries = ("ln2.hook_in", "hook_resid_mid", "hook_resid_pre", "hook_in")
        found = next((block + entry for entry in entries if block + entry in own), None)
        if found is None:
            raise ValueError(f"{block}hook_mlp_in: the model has no hook where the MLP's branch begins")
        return found

    def _that_is_passed(self, name: str, own: Mapping[str, Any]) -> str:
        """The hooks of an MLP that is no module of its own, but two projections in the block (OPT), are theirs. What a
        norm without a scale puts out is what it has normalized; a bridge cannot replace the latter (OLMo)."""
        if name.endswith((".ln1.hook_normalized", ".ln2.hook_normalized")):
            norm = self._model.get_submodule(name.removesuffix(".hook_normalized"))
            inner = getattr(norm, "original_component", None)
            scaled = inner is None or getattr(inner, "weight", None) is not None
            return name if scaled else name.removesuffix("hook_normalized") + "hook_out"
        match = re.fullmatch(r"(.+\.mlp)\.hook_(in|out)", name)
        if match is None:
            return name
        whole = getattr(self._model.get_submodule(match[1].removesuffix(".mlp")), "original_component", None)
        if whole is None or self._model.get_submodule(match[1]).original_component is not whole:
            return name
        projection = f"{match[1]}.{match[2]}.hook_{match[2]}"
        return projection if projection in own else name

    def _on_bridge(self, name: str, own: Mapping[str, Any]) -> str | Place | None:
        module, side = _side_of(name)
        found = _wrapped(self._model.original_model, module)
        if found is None:
            return None
        point = getattr(found, "hook_in" if side == "input" else "hook_out", None)
        theirs = getattr(point, "name", None)
        return theirs if theirs in own else Place(found, side)

    def _on_hooked(self, name: str, own: Mapping[str, Any]) -> str | Place | None:
        block = re.fullmatch(r"blocks\.(\d+)\.mlp\.hook_(in|out)", name)
        if block is not None and int(block[1]) < len(self._model.blocks):
            return Place(self._model.blocks[int(block[1])].mlp, "input" if block[2] == "in" else "output")
        whole, side = _side_of(name)
        match = OF_A_MODULE.fullmatch(whole)
        if match is None or int(match[1]) >= len(self._model.blocks):
            return None
        here, prefix, module = self._model.blocks[int(match[1])], f"blocks.{match[1]}.", match[2]
        if module is None:
            return prefix + ("hook_resid_pre" if side == "input" else "hook_resid_post")
        called = HOOKED.get(module)
        if module == AFTER_ATTENTION:  # a norm of what attention puts out, or that before the MLP
            called = "ln1_post" if self._model.cfg.use_normalization_before_and_after else "ln2"
        if (module, side) in (("fc1", "input"), ("fc2", "output")):
            called = "mlp"
        if called == "ln2_post" and not hasattr(here, "ln2_post"):
            called = "ln2"  # OLMo 2 has one norm a branch, behind it
        if called is None or not hasattr(here, called):
            return None
        component: nn.Module = getattr(here, called)
        if called.startswith("ln") and side == "output" and _folded(component):
            raise ValueError(
                f"{name}: the scale of that norm is folded into the weights of this HookedTransformer, which does not "
                "compute that tensor: load the model with from_pretrained_no_processing"
            )
        same = prefix + _hook_point(called, side, here)
        return same if same in own else Place(component, side)


def _hook_point(module: str, side: Side, block: Any) -> str:
    """The hook point of a HookedTransformer's block at one side of a module, where there may be one."""
    after = {"mlp": hasattr(block, "ln2_post"), "attn": hasattr(block, "ln1_post")}
    post_norm = block.cfg.original_architecture in POST_NORM_ARCHITECTURES
    known: dict[tuple[str, Side], str] = {("mlp", "input"): "mlp.hook_in"}
    for branch, last in (("mlp", "ln2"), ("attn", "ln1")):
        if not after[branch] and not post_norm:
            known[branch, "output"] = f"hook_{branch}_out"
        else:
            known[last if post_norm else f"{last}_post", "output"] = f"hook_{branch}_out"
    if not post_norm:
        known |= {("ln2", "output"): "mlp.hook_in", ("ln1", "input"): "hook_resid_pre"}
        known["ln2", "input"] = "hook_resid_pre" if block.cfg.parallel_attn_mlp else "hook_resid_mid"
    return known.get((module, side), "")


def _side_of(name: str) -> tuple[str, Side]:
    """A module's name, and which of its sides is meant: what it puts out, if nothing is said."""
    return (
        (name.removesuffix(".input"), "input") if name.endswith(".input") else (name.removesuffix(".output"), "output")
    )


def _wrapped(root: Any, name: str) -> Any:
    """The module of that name in the model that a bridge wraps; components of the bridge stand in it."""
    names = [own for own in _module_names(root) if own == name or own.endswith("." + name)]
    if len(names) != 1 or (names[0] != name and not re.search(r"(^|\.)\d+(\.|$)", name)):
        return None
    return _walk(root, names[0])


def _walk(root: Any, name: str) -> Any:
    module = root
    for part in name.split("."):
        module = getattr(getattr(module, "original_component", None) or module, part)
    return module


def _module_names(module: Any, prefix: str = "", depth: int = 0) -> list[str]:
    """Names as they were before the model was wrapped."""
    inner, names = getattr(module, "original_component", None) or module, []
    for name, child in inner.named_children():
        if name.startswith("_") or depth > 12:
            continue
        names += [prefix + name, *_module_names(child, f"{prefix}{name}.", depth + 1)]
    return names


def _folded(norm: nn.Module) -> bool:
    return getattr(norm, "w", None) is None
