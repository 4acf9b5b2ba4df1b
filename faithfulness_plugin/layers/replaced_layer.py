"""The layer that transcoders replace: between the tensors that their files name, or that options ask for."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.any_model import hooks_of, layer_between, mlp_layer
from faithfulness_plugin.layers.check_layer import LayerError
from faithfulness_plugin.layers.declared_hooks import Declared, HasMetadata, block_of, declared_hooks
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.same_tensor import same_tensor

AT_AN_MLP = re.compile(r"blocks\.(\d+)\.(hook_mlp_out|mlp\.hook_in|mlp\.hook_out|ln2\.hook_normalized)")


class Pair(NamedTuple):
    """The tensors that a transcoder reads and writes, by name."""

    hook_in: str
    hook_out: str
    declared: tuple[str, str] | None = None
    """The tensors that the file names, where an option overrides them."""


def pair_of(
    model: nn.Module | Hooks,
    transcoders: Sequence[HasMetadata],
    *,
    layer: int | None = None,
    hook_in: str | None = None,
    hook_out: str | None = None,
    anyway: bool = False,
) -> Pair:
    """Return the tensors that transcoders of one layer read and write.

    Args:
        model: of any library, or its `Hooks`.
        transcoders: one or several, whose files may name hooks.
        layer: the block; where the files name no hooks, its MLP is meant. It never overrides hooks.
        hook_in: overrides what the files say is read.
        hook_out: overrides what the files say is written.
        anyway: an override may contradict them.

    Returns:
        The two names, and what the files say where an override contradicts them.

    Raises:
        UsageError: the files name none or several, another block than `layer`, or are contradicted.
    """
    hooks, said = hooks_of(model), list(dict.fromkeys(map(declared_hooks, transcoders)))
    for declared in said:
        if None not in (layer, declared.block) and layer != declared.block:
            raise UsageError(f"layer {layer} was asked for, and the transcoder says that it is {_place(declared)}")
    if any(declared.autoencoder for declared in said):
        hook_in, hook_out = _one_tensor(hooks, hook_in or hook_out, hook_out or hook_in, said)
    overridden = hook_in is not None or hook_out is not None
    if hook_in is None or hook_out is None:
        declared = _agreed(hooks, said)
        declared = declared._replace(hook_out=declared.hook_out or hook_out)
        named = _declared_pair(hooks, declared, layer, overridden=overridden)
        if not overridden:
            return named
        hook_in, hook_out = hook_in or named.hook_in, hook_out or named.hook_out
        said = [Declared(named.hook_in, named.hook_out)]
    for name in (hook_in, hook_out):
        if None not in (layer, block_of(name)) and block_of(name) != layer:
            raise UsageError(f"layer {layer} was asked for, and {name}, which is in block {block_of(name)}: pass one")
    return _overriding(hooks, Pair(hook_in, hook_out), said, anyway)


def layer_of(
    model: nn.Module | Hooks,
    transcoders: Sequence[HasMetadata],
    *,
    block: int | None = None,
    hook_in: str | None = None,
    hook_out: str | None = None,
    anyway: bool = False,
) -> HookedLayer:
    """Return the layer that transcoders replace, checked against the model.

    Args:
        model: of any library, or its `Hooks`.
        transcoders: one or several of that layer.
        block: the block, as `layer` of `pair_of`.
        hook_in: as in `pair_of`.
        hook_out: as in `pair_of`.
        anyway: as in `pair_of`.

    Returns:
        The layer of `layer_and_pair`.

    Raises:
        UsageError: as `layer_and_pair`, and LayerError likewise.
    """
    found, _ = layer_and_pair(model, transcoders, block=block, hook_in=hook_in, hook_out=hook_out, anyway=anyway)
    return found


def layer_and_pair(
    model: nn.Module | Hooks,
    transcoders: Sequence[HasMetadata],
    *,
    block: int | None = None,
    hook_in: str | None = None,
    hook_out: str | None = None,
    anyway: bool = False,
) -> tuple[HookedLayer, Pair]:
    """Return the layer between the tensors that `pair_of` names, checked against the model, and their names.

    Args:
        model: of any library, or its `Hooks`.
        transcoders: one or several of that layer.
        block: the block, as `layer` of `pair_of`.
        hook_in: as in `pair_of`.
        hook_out: as in `pair_of`.
        anyway: as in `pair_of`.

    Returns:
        The block's MLP where the two are its own input and output, else whatever the model computes between them; the
        identity at the one tensor of an autoencoder. And the pair.

    Raises:
        UsageError: as `pair_of`; one tensor is read and written, and that is not what was asked for; there is no such
            hook.
        LayerError: what is written is no function of what is read.
    """
    hooks = hooks_of(model)
    pair = pair_of(hooks, transcoders, layer=block, hook_in=hook_in, hook_out=hook_out, anyway=anyway)
    return _at_pair(hooks, pair, autoencoder=any(declared_hooks(t).autoencoder for t in transcoders)), pair


def _at_pair(hooks: Hooks, pair: Pair, *, autoencoder: bool) -> HookedLayer:
    _require_stream(hooks, pair.hook_out)
    if same_tensor(hooks, pair.hook_in, pair.hook_out):
        if not autoencoder:
            raise UsageError(
                f"{pair.hook_in} is read and written: that is an autoencoder, no transcoder. Read it with "
                "autoencoder=True (--autoencoder) to measure it as one"
            )
        name = hooks.own_name(pair.hook_in)
        return HookedLayer(name, name, lambda rows: rows)
    block = block_of(pair.hook_in)
    try:
        mlp = None if block is None else mlp_layer(hooks, block)
    except ValueError:
        mlp = None  # no MLP of a known kind; there may still be a layer between the two
    if mlp and same_tensor(hooks, pair.hook_in, mlp.hook_in) and same_tensor(hooks, pair.hook_out, mlp.hook_out):
        return mlp
    return layer_between(hooks, pair.hook_in, pair.hook_out)


def _agreed(hooks: Hooks, said: list[Declared]) -> Declared:
    """Return what all of them say. Raises UsageError where they differ."""
    first = said[0] if said else Declared()
    for other in said[1:]:
        if not _same(hooks, first.hook_in, other.hook_in):
            names = ", ".join(sorted(str(declared.hook_in) for declared in said))
            raise UsageError(
                f"which layer do the transcoders replace? Their metadata say {names}: pass those of one layer"
            )
        if None not in (first.hook_out, other.hook_out) and not _same(hooks, first.hook_out, other.hook_out):
            names = ", ".join(sorted({str(d.hook_out) for d in said if d.hook_out is not None}))
            raise UsageError(f"the transcoders write at different places: {names}; pass those of one place")
    return next((declared for declared in said if declared.hook_out is not None), first)


def _declared_pair(hooks: Hooks, declared: Declared, layer: int | None, *, overridden: bool) -> Pair:
    """Complete what a file says: by the block's MLP where it names no hooks, or not where the transcoder writes."""
    read, write = declared.hook_in, declared.hook_out
    if read is None:
        block = declared.layer if layer is None else layer
        if overridden:
            raise UsageError("the transcoder names no hooks: pass both, where it reads (hook_in) and writes (hook_out)")
        if block is None:
            raise UsageError(
                "which layer do the transcoders replace? Their metadata say None: pass --layer, the number of a block, "
                "or --hook-in and --hook-out (layer, or hook_in and hook_out)"
            )
        mlp = _mlp(hooks, block)
        return Pair(mlp.hook_in, mlp.hook_out)
    if not overridden:
        for name in filter(None, (read, write)):
            try:
                hooks.require(name)
            except ValueError as error:
                raise UsageError(f"the transcoder says {name}: {error}") from error
    return Pair(read, write) if write is not None else _at_mlp(hooks, read)


def _at_mlp(hooks: Hooks, read: str) -> Pair:
    """Complete a file that names only one tensor, next to an MLP: the transcoder writes the MLP's output."""
    match = AT_AN_MLP.fullmatch(read)
    if match is None:
        raise UsageError(
            f"the transcoders say that they read at {read}, and not where they write: pass hook_out (--hook-out)"
        )
    mlp = _mlp(hooks, int(match[1]))
    return Pair(mlp.hook_in if same_tensor(hooks, read, mlp.hook_out) else read, mlp.hook_out)


def _same(hooks: Hooks, one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return False
    try:
        return one == other or same_tensor(hooks, one, other)
    except ValueError:
        return False  # a name that this model does not have is another tensor than one that it has


def _one_tensor(
    hooks: Hooks, hook_in: str | None, hook_out: str | None, said: Sequence[Declared]
) -> tuple[str | None, str | None]:
    """Return the one tensor of an autoencoder, twice. Raises UsageError where two were asked for, or none is named: the
    block's MLP is then not meant."""
    if hook_in != hook_out and not _same(hooks, hook_in, hook_out):
        raise UsageError(
            f"an autoencoder reads the tensor that it writes, and {hook_in} and {hook_out} are two: pass hook_in alone"
        )
    if hook_in is None and all(declared.hook_in is None for declared in said):
        raise UsageError("the autoencoder names no tensor: pass the one that it reads and writes (--hook-in)")
    return hook_in, hook_out


def _overriding(hooks: Hooks, asked: Pair, said: Sequence[Declared], anyway: bool) -> Pair:
    """Return the pair that was asked for, if the files do not contradict it, or `anyway`."""
    for name in asked[:2]:
        hooks.require(name)
    for declared in said:
        for ours, theirs in ((asked.hook_in, declared.hook_in), (asked.hook_out, declared.hook_out)):
            if theirs is None or _same(hooks, ours, theirs):
                continue
            if not anyway:
                raise UsageError(
                    f"{ours} was asked for, and the transcoder says {theirs}, which is another tensor: leave "
                    "hook_in and hook_out out, or pass --hooks-anyway (anyway=True) if the file is wrong"
                )
            return asked._replace(declared=(str(declared.hook_in), str(declared.hook_out)))
    return asked


def _require_stream(hooks: Hooks, hook_out: str) -> None:
    """Raise UsageError for a tensor where the MLP's branch begins: what is written there reaches that branch alone."""
    own, block = hooks.own_name(hooks.require(hook_out)), block_of(hook_out)
    try:
        entry, mlp_in = (hooks.own_name(hooks.require(f"blocks.{block}.{n}")) for n in ("hook_mlp_in", "mlp.hook_in"))
    except ValueError:
        return
    stream = own.endswith(("hook_resid_mid", "hook_resid_pre"))  # a hook point in the stream itself
    if own == entry and not stream and (own != mlp_in or hook_out.endswith(("hook_resid_mid", "hook_mlp_in"))):
        raise UsageError(
            f"{hook_out}: in this kind of model what is written there reaches the MLP's branch, and not the residual "
            "stream. Use a HookedTransformer, or another hook"
        )


def _mlp(hooks: Hooks, block: int) -> HookedLayer:
    try:
        return mlp_layer(hooks, block)
    except LayerError:
        raise
    except (ValueError, IndexError) as error:
        raise UsageError(f"block {block}: {error}") from error


def _place(declared: Declared) -> str:
    if declared.hook_in is None:
        return f"of layer {declared.layer}"
    return f"at {declared.hook_in}, in block {declared.block}"
