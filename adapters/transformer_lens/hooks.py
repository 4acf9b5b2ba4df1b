"""The hooks of a HookedTransformer, a TransformerBridge, or another HookedRootModule that takes tokens."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.adapters.huggingface.find_mlp import numbered_mlp
from faithfulness_plugin.adapters.huggingface.flattened_rows import by_position
from faithfulness_plugin.adapters.huggingface.model_inputs import fills_masks
from faithfulness_plugin.adapters.huggingface.places import Place
from faithfulness_plugin.adapters.huggingface.positions import n_positions
from faithfulness_plugin.adapters.huggingface.vocabulary import vocabulary_of
from faithfulness_plugin.adapters.transformer_lens.find_mlp import mlp_in, scale_of
from faithfulness_plugin.adapters.transformer_lens.names import find_tensor
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Function, Hook, Hooks, Tokens
from faithfulness_plugin.layers.last_positions import of_last_positions
from faithfulness_plugin.layers.vocabulary import Vocabulary

NOT_A_ROW = re.compile(
    r"\.attn\.(?!hook_out)|_input$|_attn_in$|hook_mlp_in$|hook_scale$|experts|router|\.hook_sae_|\.hook_(q|k|v|z)$"
)
"""Hook points that do not carry one row of the stream for each token, or that a run passes only on request."""


class TransformerLensHooks(Hooks):
    """The hook points of a model, under its own names and others (see `find_tensor`)."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def names(self) -> Sequence[str]:
        own = self.model.hook_dict
        return [*own, *_aliases(self.model, own)]

    @property
    def n_vocab(self) -> int:
        n = getattr(self.model.cfg, "d_vocab", None)
        if n is None or n < 1:
            raise UsageError("the model reads no tokens: use adapters.huggingface on the Hugging Face model itself")
        return n

    @property
    def n_positions(self) -> int | None:
        theirs = getattr(getattr(self.model, "original_model", None), "config", None)
        if hasattr(theirs, "get_text_config"):
            return n_positions(theirs)
        return getattr(getattr(self.model, "cfg", None), "n_ctx", None)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _run(self, tokens: Tokens, hooks: Mapping[str, Hook], last: int | None) -> Tensor | None:
        own: dict[str, Any] = dict(self.model.hook_dict)
        found = self._find(*hooks, own=own)
        if not tokens.is_floating_point():
            hooks = {name: by_position(name, hook, *tokens.shape) for name, hook in hooks.items()}
        # by hook point: a bridge silently ignores hooks at its other names
        at_points: dict[Any, list[Hook]] = {}
        for name, at in found.items():
            if isinstance(at, str):
                self._refuse_switched_off(at, own[at])
                at_points.setdefault(own[at], []).append(hooks[name])

        def all_of_it(activation: Tensor, hook: Any) -> Tensor | None:
            changed = None
            for ours in at_points[hook]:
                now = ours(activation if changed is None else changed)
                changed = changed if now is None else now
            return changed

        with ExitStack() as stack:
            for name, at in found.items():
                if isinstance(at, Place):
                    stack.callback(at.register(hooks[name]).remove)
            stack.enter_context(of_last_positions(getattr(self.model, "unembed", None), last, tokens.shape[1]))
            # one filter for all of them: a bridge rebuilds its list of hook points, slowly, for each name
            fwd_hooks = [(lambda name: own.get(name) in at_points, all_of_it)] if at_points else []
            logits = self.model.run_with_hooks(tokens, fwd_hooks=fwd_hooks)
        return None if self._masked else logits

    def _refuse_switched_off(self, name: str, point: Any) -> None:
        """Let a bridge refuse a hook point that its settings switch off, as it does for names and not for a filter."""
        if hasattr(self.model, "original_model"):
            check = self.model.check_hooks_to_add
            with_point = len(signature(check).parameters) > 1  # from transformer-lens 4 on
            check(point, name, lambda activation, hook: None) if with_point else check(name)

    @override
    def require(self, name: str) -> str:
        if f"{name}.hook_sae_acts_post" in self.model.hook_dict:
            raise UsageError(f"a transcoder is attached at {name}: remove it with model.reset_saes() first")
        self._find(name)
        return name

    @override
    def own_name(self, name: str) -> str:
        found = self._find(name)[name]
        return found if isinstance(found, str) else name

    @override
    def block_tensors(self, block: int) -> list[str]:
        prefix, blocks, own = f"blocks.{block}.", getattr(self.model, "blocks", ()), self.model.hook_dict
        numbered_mlp(blocks, block, lambda there: getattr(there, "mlp", None))
        names = [name for name in self.names if name.startswith(prefix) and not NOT_A_ROW.search(name)]
        names += [prefix + name for name in ("mlp.hook_in", "mlp.hook_out") if prefix + name not in own]
        return list(dict.fromkeys(names))

    @override
    def mlp(self, block: int | str) -> HookedLayer:
        if not str(block).removeprefix("-").isdecimal():
            raise UsageError(f"block {block!r}: pass its number, such as 3 (names are for Hugging Face models)")
        return mlp_in(self.model, int(block))

    @override
    def suspects(self, hook_in: str, hook_out: str) -> Mapping[str, Callable[[Function], Function]]:
        found: dict[str, Callable[[Function], Function]] = {}
        if hook_in.endswith(".hook_normalized"):
            scaled = scale_of(self.model.get_submodule(hook_in.removesuffix(".hook_normalized")))
            cause = (
                f"the norm's scale is applied after {hook_in}. Use mlp_layer, or f(x * w + b) with the norm's w and b"
            )
            found[cause] = lambda f: lambda x: f(scaled(x))
        if hook_out.endswith(".hook_mlp_out"):
            block = self.model.get_submodule(hook_out.removesuffix(".hook_mlp_out"))
            for name in ("ln2_post", "ln2"):
                if (norm := getattr(block, name, None)) is not None:
                    cause = f"the model applies a norm ({name}) between the layer and {hook_out}. Use mlp_layer"
                    found[cause] = lambda f, norm=norm: lambda x: norm.forward(f(x)[None])[0]
        return found

    @override
    def _blocks_before(self, name: str) -> Sequence[nn.Module]:
        blocks, number = getattr(self.model, "blocks", None), block_of(name)
        return [*blocks][:number] if isinstance(blocks, nn.ModuleList) and name.startswith("blocks.") else []

    @override
    def vocabulary(self) -> Vocabulary | None:
        with suppress(AttributeError, NotImplementedError):  # a bridge of a model that has neither
            unembed = self.model.unembed
            matrices = self.model.embed.W_E, unembed.W_U
            if not self._masked and all(isinstance(W, Tensor) and W.ndim == 2 for W in matrices):
                return vocabulary_of(self.model, unembed, *matrices, lambda: self.model(self.random_tokens()))
        return None

    @property
    def _masked(self) -> bool:
        """Whether the model predicts masked tokens, not the next one."""
        cfg = getattr(self.model, "cfg", None)
        return fills_masks(getattr(cfg, "architecture", None)) or getattr(cfg, "attention_dir", "") == "bidirectional"

    def _find(self, *names: str, own: Mapping[str, Any] | None = None) -> dict[str, str | Place]:
        """Return the own name of each hook point, or a place. Raises UsageError for a name that stands for neither."""
        if own is None:
            own = dict(self.model.hook_dict)  # a bridge rebuilds it, slowly, whenever it is asked
        aliases = _aliases(self.model, own)
        found = {name: find_tensor(self.model, name, own, aliases) for name in names}
        if (unknown := next((name for name, at in found.items() if at is None), None)) is not None:
            raise self.no_hook(unknown)
        return {name: at for name, at in found.items() if at is not None}


def _aliases(model: Any, own: Mapping[str, Any]) -> dict[str, str]:
    """Return a TransformerBridge's second names, those of HookedTransformer, and what they stand for."""
    if not hasattr(model, "_collect_hook_aliases_from_registry"):
        return {}
    names = {**model.hook_aliases, **model._collect_hook_aliases_from_registry()}
    return {name: target for name, target in names.items() if isinstance(target, str) and target in own}
