"""TransformerLens: the layer between two hooks of a HookedTransformer or a TransformerBridge, and attaching."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.adapters.huggingface.find_mlp import mlp_of, no_mlp
from faithfulness_plugin.adapters.huggingface.flattened_rows import by_position
from faithfulness_plugin.adapters.huggingface.model_inputs import fills_masks
from faithfulness_plugin.adapters.huggingface.places import Place
from faithfulness_plugin.adapters.huggingface.positions import n_positions
from faithfulness_plugin.adapters.transformer_lens.names import TransformerLensNames
from faithfulness_plugin.adapters.transformer_lens.reached import require_reached
from faithfulness_plugin.layers.declared_hooks import declared_hooks
from faithfulness_plugin.layers.hooked_layer import Hook, HookedLayer, Hooks, Suspect, Tokens, between, check_layer
from faithfulness_plugin.layers.layer_weights import LayerWeights
from faithfulness_plugin.layers.mlp_weights import MlpWeights, mlp_weights
from faithfulness_plugin.layers.normed_mlp import normed_mlp
from faithfulness_plugin.measure.ranked_pairs import mismatch_warning
from faithfulness_plugin.transcoders.skip import attachable

NOT_A_ROW = re.compile(
    r"\.attn\.(?!hook_out)|_input$|_attn_in$|hook_mlp_in$|hook_scale$|experts|router|\.hook_sae_|\.hook_(q|k|v|z)$"
)
"""Hook points that do not carry one row of the stream for each token, or that a run passes only on request."""


class TransformerLensHooks(Hooks):
    """The hooks of a HookedTransformer, a TransformerBridge, or another HookedRootModule that takes tokens."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._names = TransformerLensNames(model)

    @property
    def names(self) -> Sequence[str]:
        own = self.model.hook_dict
        return [*own, *self._other_names(own)]

    @property
    def n_vocab(self) -> int:
        n = getattr(self.model.cfg, "d_vocab", None)
        if n is None or n < 1:
            raise ValueError("the model reads no tokens: use adapters.huggingface on the Hugging Face model itself")
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

    def _run(self, tokens: Tokens, hooks: Mapping[str, Hook]) -> Tensor | None:
        def ours(name: str, hook: Hook) -> Hook:
            return hook if tokens.is_floating_point() else by_position(name, hook, *tokens.shape)

        def as_theirs(ours: Hook) -> Callable[..., Tensor | None]:
            return lambda activation, hook: ours(activation)

        # by their own names: a bridge passes hooks at its other names by, without a word
        own = self.model.hook_dict  # a bridge makes it anew, and slowly, whenever it is asked
        other = self._other_names(own)
        found = {name: self._find(name, own, other) for name in hooks}
        hooks = {name: ours(name, hook) for name, hook in hooks.items()}
        fwd_hooks = [(at, as_theirs(hooks[name])) for name, at in found.items() if isinstance(at, str)]
        with ExitStack() as stack:
            for name, at in found.items():
                if isinstance(at, Place):
                    stack.callback(at.register(hooks[name]).remove)
            logits = self.model.run_with_hooks(tokens, fwd_hooks=fwd_hooks)
        cfg = getattr(self.model, "cfg", None)
        masked = fills_masks(getattr(cfg, "architecture", None)) or getattr(cfg, "attention_dir", "") == "bidirectional"
        return None if masked else logits

    def own_name(self, name: str) -> str:
        """The model's own name for a tensor that has several."""
        own = self.model.hook_dict
        found = self._find(name, own, self._other_names(own))
        return found if isinstance(found, str) else name

    def block_tensors(self, block: int) -> list[str]:
        prefix, blocks, own = f"blocks.{block}.", getattr(self.model, "blocks", ()), self.model.hook_dict
        if not 0 <= block < len(blocks):
            raise ValueError(f"there is no block {block}: the model has blocks 0 to {len(blocks) - 1}")
        if getattr(blocks[block], "mlp", None) is None:
            raise ValueError(f"block {block} has no MLP")
        names = [name for name in self.names if name.startswith(prefix) and not NOT_A_ROW.search(name)]
        names += [prefix + name for name in ("mlp.hook_in", "mlp.hook_out") if prefix + name not in own]
        return list(dict.fromkeys(names))

    def _find(self, name: str, own: Mapping[str, Any], other: Mapping[str, str]) -> str | Place:
        """A hook point's own name, or a place. Raises ValueError for a name that stands for neither."""
        found = self._names.find(name, own, other)
        if found is None:
            super().require(name)
        assert found is not None  # a name of the model's own is found
        return found

    def _other_names(self, own: Mapping[str, Any]) -> dict[str, str]:
        """A TransformerBridge's second names, those of HookedTransformer, and what they stand for."""
        if not hasattr(self.model, "_collect_hook_aliases_from_registry"):
            return {}
        names = {**self.model.hook_aliases, **self.model._collect_hook_aliases_from_registry()}
        return {name: target for name, target in names.items() if isinstance(target, str) and target in own}

    def require(self, name: str) -> str:
        if f"{name}.hook_sae_acts_post" in self.model.hook_dict:
            raise ValueError(f"a transcoder is attached at {name}: take it away with model.reset_saes() first")
        own = self.model.hook_dict
        self._find(name, own, self._other_names(own))
        return name

    def suspects(self, hook_in: str, hook_out: str) -> list[Suspect]:
        found = []
        if hook_in.endswith(".hook_normalized"):
            norm = self.model.get_submodule(hook_in.removesuffix(".hook_normalized"))
            scaled = _scale_of(norm)
            cause = (
                f"the norm's scale is applied after {hook_in}. Use mlp_layer, or f(x * w + b) with the norm's w and b"
            )
            found.append(Suspect(cause, lambda f: lambda x: f(scaled(x))))
        if hook_out.endswith(".hook_mlp_out"):
            block = self.model.get_submodule(hook_out.removesuffix(".hook_mlp_out"))
            for name in ("ln2_post", "ln2"):
                if (norm := getattr(block, name, None)) is not None:
                    cause = f"the model applies a norm ({name}) between the layer and {hook_out}. Use mlp_layer"
                    found.append(Suspect(cause, lambda f, norm=norm: lambda x: norm.forward(f(x)[None])[0]))
        return found


def layer_between(model: Any, hook_in: str, hook_out: str) -> HookedLayer:
    """The layer between any two hooks of a model, as a function of rows, checked against it.

    It runs the model up to `hook_out`, on one-token prompts, whenever it is called: for an MLP `mlp_layer` is faster.

    Raises:
        ValueError: there is no such hook (the nearest is named).
        LayerError: what `hook_out` carries is no function of what `hook_in` carries, token by token.
    """
    hooks = TransformerLensHooks(model)
    layer = between(hooks, hook_in, hook_out)
    check_layer(hooks, layer, hook_in, hook_out)
    return layer


def mlp_layer(model: Any, block: int) -> HookedLayer:
    """The MLP of a block as a function of rows, with the hooks between which it stands, checked against the model.

    | model | hook_in | hook_out | f |
    | --- | --- | --- | --- |
    | TransformerBridge | mlp.hook_in | mlp.hook_out | the MLP |
    | TransformerBridge, OPT and BERT | mlp.in.hook_in | mlp.out.hook_out | the MLP |
    | HookedSAETransformer | mlp.hook_in | hook_mlp_out | the MLP, and the norm after it where there is one |
    | HookedTransformer, pre-norm | ln2.hook_normalized | hook_mlp_out | the same of x * w + b, unless that is folded |
    | HookedTransformer, no norm before the MLP | hook_resid_mid (parallel attention: hook_resid_pre) | hook_mlp_out | |

    (each after `blocks.BLOCK.`). Hooks on the MLP itself are passed by (but for a bridge in compatibility mode, whose
    MLP computes from weights of its own); those inside it are run.

    Raises:
        ValueError: there is no such block, or it has no MLP.
        LayerError: the model computes something else there (a hook that changes activations, as it may be).
    """
    hooks, prefix, blocks = TransformerLensHooks(model), f"blocks.{block}.", getattr(model, "blocks", None)
    if blocks is None:
        lists = [name for name, child in model.named_children() if name.endswith("blocks")]
        raise ValueError(
            f"the model has no list called blocks{', but ' * bool(lists)}{' and '.join(lists)}: use mlp_layer of "
            "adapters.huggingface on the Hugging Face model itself"
        )
    if not 0 <= block < len(blocks):
        raise ValueError(f"there is no block {block}: the model has blocks 0 to {len(blocks) - 1}")
    here = blocks[block]
    if not _has_mlp(here):
        others = [number for number, other in enumerate(blocks) if _has_mlp(other)]
        raise ValueError(no_mlp(block, here, others))
    bridged = hasattr(here, "original_component")
    layer = _of_bridge(here, prefix) if bridged else _of_hooked(model, here, prefix)
    check_layer(hooks, layer, layer.hook_in, layer.hook_out)
    return layer


def _has_mlp(block: Any) -> bool:
    if hasattr(block, "original_component"):
        return mlp_of(block.original_component) is not None
    return getattr(block, "mlp", None) is not None


def attach(
    model: Any,
    transcoder: Any,
    *,
    use_error_term: bool = False,
    exclude_special_tokens: bool | list[int] | None = None,
) -> Any:
    """`model.add_sae` of a HookedSAETransformer or a SAETransformerBridge, for any transcoder: with its skip
    connection, which SAELens leaves out, at the tensors that its file names, Hugging Face's names included, and with an
    error instead of a log line where a hook is missing or is never passed.

    A small run of the model on random tokens, before anything is attached, shows that the transcoder will be reached:
    the model passes its input and then its output, and what is written there changes the logits.

    Args:
        use_error_term: add what the transcoder leaves of the layer's output.
        exclude_special_tokens: leave those tokens to the layer; by default as in its training, where the metadata tell.

    Returns:
        The transcoder that was attached, as `attachable` makes it; `model.reset_saes()` takes it away again. Its
        `cfg.metadata.hook_name` and `hook_name_out` are the model's hook points at which it stands.

    Raises:
        ValueError: the model takes no transcoders; the transcoder's metadata do not name its hooks, or the model has
            none of that name; it would never be reached there. The model is then as it was.
    """
    if not hasattr(model, "acts_to_saes"):
        raise ValueError(
            f"a {type(model).__name__} takes no transcoders: load the model as sae_lens's HookedSAETransformer or "
            "SAETransformerBridge (sae_lens.analysis.sae_transformer_bridge), with boot_transformers or from_pretrained"
        )
    metadata, hooks, declared = transcoder.cfg.metadata, TransformerLensHooks(model), declared_hooks(transcoder)
    if not declared.hook_in or not declared.hook_out:
        raise ValueError(
            "the transcoder does not say between which hooks it stands: set cfg.metadata.hook_name and hook_name_out"
        )
    before = model._acts_to_saes.get(declared.hook_in)  # add_sae says that it takes its place, but its hook stays
    if before is not None:
        model.reset_saes(declared.hook_in)
    try:
        hook_in, hook_out = (_hook_point(hooks, name) for name in (declared.hook_in, declared.hook_out))
        require_reached(hooks, hook_in, hook_out)
    except ValueError:
        _put_back(model, before)
        raise
    length = min(32, hooks.n_positions or 32)
    layer = HookedLayer(hook_in, hook_out, transcoder)
    if (warning := mismatch_warning(hooks, transcoder, hooks.random_tokens(length=length), layer)) is not None:
        warnings.warn(f"{warning}. (On random tokens; `faithfulness hooks` compares on text.)", stacklevel=2)
    metadata.hook_name, metadata.hook_name_out = hook_in, hook_out
    attached, excluded = attachable(transcoder), exclude_special_tokens
    excluded = metadata.exclude_special_tokens if excluded is None else excluded
    if excluded and not hasattr(model, "_token_masks"):
        warnings.warn(
            "a SAETransformerBridge cannot leave special tokens to the layer: the transcoder, which was not trained on "
            "them, stands there as well. Pass exclude_special_tokens=False if that is meant, or use a "
            "HookedSAETransformer",
            stacklevel=2,
        )
        excluded = False
    options = {"exclude_special_tokens": excluded} if excluded else {}
    model.add_sae(attached, use_error_term=use_error_term, **options)
    try:
        with torch.no_grad():
            hooks.run(hooks.random_tokens(), {})
    except RuntimeError as error:  # OPT's blocks flatten rows on the way to the MLP
        model.reset_saes(hook_in)
        _put_back(model, before)
        raise ValueError(
            f"with a transcoder from {hook_in} to {hook_out} the model does not run ({' '.join(str(error).split())}): "
            "nothing was attached"
        ) from error
    return attached


def _put_back(model: Any, before: Any) -> None:
    """Attaches again what stood there before, if anything did."""
    if before is not None:
        masks = {"exclude_special_tokens": before.exclude_special_tokens} if hasattr(model, "_token_masks") else {}
        model.add_sae(before.sae, use_error_term=before.use_error_term, **masks)


def _hook_point(hooks: TransformerLensHooks, name: str) -> str:
    """The hook point of a tensor, under the name that was given if it is one. Raises ValueError where there is none."""
    own = hooks.own_name(hooks.require(name))
    if own not in hooks.model.hook_dict:
        raise ValueError(f"{name}: the model has no hook point there, and nothing can be attached without one")
    passed = name not in hooks.model.hook_dict or own == name  # OPT's mlp.hook_in is a hook point that no run passes
    aliased = name in hooks.names and passed and not name.endswith("hook_mlp_in")
    return name if aliased else own


def _of_bridge(block: Any, prefix: str) -> HookedLayer:
    if getattr(getattr(block, "mlp", None), "name", None) is None:
        return _of_parts(block, prefix)
    processed = getattr(block.mlp, "_use_processed_weights", False)

    def function(x: Tensor) -> Tensor:
        # with weights that the bridge has processed, it computes by itself; the module's are the old ones
        x = x.to(next(block.mlp.parameters()).dtype)
        y = block.mlp(x) if processed else block.mlp.original_component.forward(x)
        return y[0] if isinstance(y, tuple) else y

    def weights() -> LayerWeights | None:
        return mlp_weights(block.mlp.original_component)

    hook_in, hook_out = prefix + "mlp.hook_in", prefix + "mlp.hook_out"
    return HookedLayer(hook_in, hook_out, function, weights=weights, runs_model=processed)


def _of_parts(block: Any, prefix: str) -> HookedLayer:
    """The MLP of a bridge whose block has it under another name (Granite's shared_mlp, Nemotron-H's mixer) or as two
    linear layers without a module around them (OPT, BERT)."""
    mlp = mlp_of(block.original_component)
    assert mlp is not None
    parts = block.named_modules(remove_duplicate=False)
    own = {getattr(part, "name", None): key for key, part in parts if "original_component" not in key}
    ends = [next((own[n] for n in (name, f"{name}.dense") if n in own), None) for name in (mlp.first, mlp.last)]
    if None in ends:
        raise ValueError(
            f"the bridge has no hooks at {mlp.first}, the MLP of this block: use mlp_layer of adapters.huggingface on "
            "the Hugging Face model itself"
        )
    hook_in, hook_out = f"{prefix}{ends[0]}.hook_in", f"{prefix}{ends[1]}.hook_out"
    return HookedLayer(hook_in, hook_out, mlp.function, weights=mlp.weights, runs_model=True)


def _of_hooked(model: Any, block: Any, prefix: str) -> HookedLayer:
    names = model.hook_dict
    post_norm, has_norm = _is_post_norm(block), hasattr(block.ln2, "hook_normalized")
    after = block.ln2_post if model.cfg.use_normalization_before_and_after else None
    after = block.ln2 if post_norm and has_norm else after
    before: Callable[[Tensor], Tensor] | None = None
    if prefix + "mlp.hook_in" in names:
        hook_in = "mlp.hook_in"
    elif has_norm and not post_norm:
        hook_in, before = "ln2.hook_normalized", _scale_of(block.ln2)
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


def _is_post_norm(block: Any) -> bool:
    from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

    return block.cfg.original_architecture in POST_NORM_ARCHITECTURES


def _scale_of(norm: Any) -> Callable[[Tensor], Tensor]:
    """x * w + b, where the norm has them and has not folded them away. In half precision the norm is computed in
    single, and cast here."""

    def scaled(x: Tensor) -> Tensor:
        x, w, b = x.to(norm.cfg.dtype), getattr(norm, "w", None), getattr(norm, "b", None)
        x = x if w is None else x * w
        return x if b is None else x + b

    return scaled


def _scaled(mlp: MlpWeights, norm: Any) -> MlpWeights:
    """The MLP's weights for inputs before the norm's scale."""
    w, b = getattr(norm, "w", None), getattr(norm, "b", None)

    def affine(W: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if W is None:
            return None, None
        shift = None if b is None else b @ W
        bias = shift if bias is None else bias if shift is None else bias + shift
        return (W if w is None else w[:, None] * W), bias

    (W_in, b_in), (W_gate, b_gate) = affine(mlp.W_in, mlp.b_in), affine(mlp.W_gate, mlp.b_gate)
    assert W_in is not None
    return mlp._replace(W_in=W_in, b_in=b_in, W_gate=W_gate, b_gate=b_gate)
