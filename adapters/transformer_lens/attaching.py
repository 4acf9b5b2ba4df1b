"""Attach any transcoder to a HookedSAETransformer or a SAETransformerBridge, where a run of the model reaches it."""

import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.declared_hooks import declared_hooks
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.measure.ranked_pairs import mismatch_warning
from faithfulness_plugin.rounding import beyond_rounding

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE


def attach(
    model: nn.Module,
    transcoder: "SAE[Any]",
    *,
    use_error_term: bool = False,
    exclude_special_tokens: bool | list[int] | None = None,
) -> "SAE[Any]":
    """Attach a transcoder where a run of the model reaches it.

    As `model.add_sae`, but with its skip connection, which SAELens leaves out, at the tensors that its file names,
    Hugging Face's names included, and with an error instead of a log line where a hook is missing or is never passed. A
    small run of the model on random tokens, before anything is attached, shows that the transcoder will be reached: the
    model passes its input and then its output, and what is written there changes the logits.

    Args:
        model: a HookedSAETransformer or a SAETransformerBridge; a plain TransformerBridge becomes one, in place.
        transcoder: any SAELens transcoder.
        use_error_term: add what the transcoder leaves of the layer's output.
        exclude_special_tokens: leave those tokens to the layer; None does as in its training, where the metadata tell.

    Returns:
        The transcoder that was attached, as `attachable` makes it; `model.reset_saes()` takes it away again. Its
        `cfg.metadata.hook_name` and `hook_name_out` are the model's hook points at which it stands.

    Raises:
        UsageError: the model takes no transcoders; the transcoder's metadata do not name its hooks, or the model has
            none of that name; it would never be reached there. The model is then as it was.
    """
    from faithfulness_plugin.transcoders.skip import attachable  # needs SAELens, which the other names here do not

    declared = declared_hooks(transcoder)
    if not declared.hook_in or not declared.hook_out:
        raise UsageError(
            "the transcoder does not say between which hooks it stands: set cfg.metadata.hook_name and hook_name_out"
        )
    plain = type(model)
    if not (hasattr(model, "acts_to_saes") or _takes_saes(model)):
        raise UsageError(
            f"a {type(model).__name__} takes no transcoders: load the model as sae_lens's HookedSAETransformer or "
            "SAETransformerBridge (sae_lens.analysis.sae_transformer_bridge), with boot_transformers or from_pretrained"
        )
    hooks, takes = TransformerLensHooks(model), cast(Any, model)
    before = takes._acts_to_saes.get(declared.hook_in)  # add_sae says that it takes its place, but its hook stays
    if before is not None:
        takes.reset_saes(declared.hook_in)
    try:
        ends = _hook_point(hooks, declared.hook_in), _hook_point(hooks, declared.hook_out)
        _require_reached(hooks, *ends)
        length = min(32, hooks.n_positions or 32)
        warning = mismatch_warning(
            hooks, transcoder, hooks.random_tokens(length=length), HookedLayer(*ends, transcoder)
        )
        if warning is not None:
            warnings.warn(f"{warning}. (On random tokens; `faithfulness hooks` compares on text.)", stacklevel=2)
        metadata = transcoder.cfg.metadata
        metadata.hook_name, metadata.hook_name_out = ends
        return _added(hooks, attachable(transcoder), use_error_term, exclude_special_tokens)
    except ValueError:
        if before is not None:
            masks = {"exclude_special_tokens": before.exclude_special_tokens} if _masks_tokens(model) else {}
            takes.add_sae(before.sae, use_error_term=before.use_error_term, **masks)
        model.__class__ = plain
        raise


def _takes_saes(model: Any) -> bool:
    """Make a plain bridge take transcoders, as SAELens's `boot_transformers` does; return False for other models."""
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
    from transformer_lens.model_bridge import TransformerBridge

    if type(model) is not TransformerBridge:
        return False
    model.__class__ = SAETransformerBridge
    model._acts_to_saes, model._transcoder_output_hooks = {}, {}
    return True


def _added(
    hooks: TransformerLensHooks, transcoder: Any, use_error_term: bool, excluded: bool | list[int] | None
) -> Any:
    """Attach it, and try a run. Raises UsageError where the model does not run with it."""
    model: Any = hooks.model
    metadata = transcoder.cfg.metadata
    excluded = metadata.exclude_special_tokens if excluded is None else excluded
    if excluded and not _masks_tokens(model):
        warnings.warn(
            "a SAETransformerBridge cannot leave special tokens to the layer: the transcoder, which was not trained on "
            "them, stands there as well. Pass exclude_special_tokens=False if that is meant, or use a "
            "HookedSAETransformer",
            stacklevel=3,
        )
        excluded = False
    options = {"exclude_special_tokens": excluded} if excluded else {}
    model.add_sae(transcoder, use_error_term=use_error_term, **options)
    try:
        with torch.no_grad():
            hooks.run(hooks.random_tokens(), {})
    except RuntimeError as error:  # OPT's blocks flatten rows on the way to the MLP
        model.reset_saes(metadata.hook_name)
        raise UsageError(
            f"with a transcoder from {metadata.hook_name} to {metadata.hook_name_out} the model does not run "
            f"({' '.join(str(error).split())}): nothing was attached"
        ) from error
    return transcoder


def _masks_tokens(model: Any) -> bool:
    """Return whether a model can leave tokens to the layer: a HookedSAETransformer can, a bridge cannot."""
    return hasattr(model, "_token_masks")


def _hook_point(hooks: TransformerLensHooks, name: str) -> str:
    """Return the hook point of a tensor, under the name that was given if it is one. Raises UsageError for none."""
    own = hooks.own_name(hooks.require(name))
    if own not in hooks.model.hook_dict:
        raise UsageError(f"{name}: the model has no hook point there, and nothing can be attached without one")
    passed = name not in hooks.model.hook_dict or own == name  # OPT's mlp.hook_in is a hook point that no run passes
    aliased = name in hooks.names and passed and not name.endswith("hook_mlp_in")
    return name if aliased else own


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
def _require_reached(hooks: TransformerLensHooks, hook_in: str, hook_out: str) -> None:
    """Check in two small runs on random tokens that the model passes the first hook point and then the second one, and
    that what stands in the second one's place changes the logits. The model is left as it was.

    Raises:
        UsageError: a transcoder that is attached there would not be part of the model.
    """
    model: Any = hooks.model
    own, tokens, passed = hooks.own_name(hook_out), hooks.random_tokens(), list[str]()
    where, _, last = own.rpartition(".")
    beside = model.get_submodule(where)._modules  # setting an attribute of a bridge would rename the hook point
    point, clean = beside[last], hooks.run(tokens, {})
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
        raise UsageError(f"a run of the model does not pass {hook_in}, and {never}")
    if "written" not in passed:
        raise UsageError(f"a run of the model does not pass what stands in the place of {hook_out}, and {never}")
    if read and passed.index("written") < passed.index("read"):
        raise UsageError(f"a run of the model passes {hook_out} before {hook_in}, and {never}")
    if not beyond_rounding(clean, changed).any():
        raise UsageError(f"what is written at {hook_out} does not change the logits: nothing was attached")
