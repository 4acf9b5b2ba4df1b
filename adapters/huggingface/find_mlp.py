"""Find the module, or the pair of modules, that is the MLP of a Hugging Face model's block."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from faithfulness_plugin.adapters.huggingface.routers import converting_routers, left_as_they_are
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.layer_weights import MlpWeights
from faithfulness_plugin.layers.mlp_weights import bare_module, mlp_weights, normed_mlp, weights_of_pair
from faithfulness_plugin.layers.normed_mlp import LayerWeights
from faithfulness_plugin.messages import listed

T = TypeVar("T")

MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "shared_mlp")
MLP_CLASS = re.compile(r"(MLP|Mlp|MoE|SparseMoeBlock|FeedForward|FFN|Dense(Gated)?ActDense)$")
PAIRS = (
    ("fc1", "fc2"),  # OPT, BART, Whisper
    ("intermediate", "output.dense"),  # BERT, whose norm and residual connection are in `output`
    ("ffn", "ffn_output"),  # ALBERT
    ("dense_h_to_4h", "dense_4h_to_h"),  # Bloom, whose MLP adds the residual stream itself
    ("up_proj", "down_proj"),  # MPT, likewise
)
ACTIVATIONS = ("activation_fn", "activation", "act_fn", "act", "gelu_impl")


@dataclass(frozen=True)
class Mlp:
    """An MLP inside a block: from the input of the module `first` to the output of the module `last`, both by their
    names inside the block."""

    first: str
    last: str
    function: Callable[[Tensor], Tensor]
    weights: Callable[[], LayerWeights | None]


def mlp_of(block: nn.Module) -> Mlp | None:
    """Find the MLP of a block: a module whose name or class is an MLP's, in the block or in the last of its sublayers
    (T5), or two linear layers with an activation between them.

    Args:
        block: a block of a Hugging Face model.

    Returns:
        The MLP; None for a block without one.
    """
    for path, module in _candidates(block):
        if _takes_rows(module):
            return Mlp(path, path, _call(module), lambda module=module: mlp_weights(bare_module(module)))
        if (pair := _pair(module, path + ".")) is not None:
            return pair
    if (pair := _pair(block, "")) is not None:
        return pair
    # Zamba's hybrid blocks have a whole block inside
    whole = [(n, child) for n, child in block.named_children() if type(child).__name__.endswith("DecoderLayer")]
    inner = ((name, mlp_of(child)) for name, child in whole)
    return next((replace(mlp, first=f"{n}.{mlp.first}", last=f"{n}.{mlp.last}") for n, mlp in inner if mlp), None)


def _candidates(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    children = dict(block.named_children())
    yield from ((name, children[name]) for name in MLP_NAMES if name in children and not _is_linear(children[name]))
    classes = {name: type(bare_module(child)).__name__ for name, child in children.items()}
    yield from ((name, children[name]) for name in classes if MLP_CLASS.search(classes[name]))
    if isinstance(sublayers := children.get("layer"), nn.ModuleList) and len(sublayers):
        last = len(sublayers) - 1
        yield from ((f"layer.{last}.{name}", module) for name, module in _candidates(sublayers[last]))


def _takes_rows(module: nn.Module) -> bool:
    """Return whether a module can be called with its input alone."""
    parameters = inspect.signature(bare_module(module).forward).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(needed) == 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _pair(owner: nn.Module, prefix: str) -> Mlp | None:
    if hasattr(owner, "gate_proj"):  # an MLP itself, and more than two layers
        return None
    for first_name, last_name in PAIRS:
        first, last = _submodule(owner, first_name), _submodule(owner, last_name)
        if first is None or last is None or not _is_linear(last):
            continue
        act = next((getattr(owner, name) for name in ACTIVATIONS if hasattr(owner, name)), None)
        if _is_linear(first) and act is None:
            continue
        return Mlp(
            prefix + first_name,
            prefix + last_name,
            _through(first, act if _is_linear(first) else None, last),
            lambda first=first, act=act, last=last: weights_of_pair(first, act, last),
        )
    return None


def _through(first: nn.Module, act: Callable[[Tensor], Tensor] | None, last: nn.Module) -> Callable[[Tensor], Tensor]:
    into, out = _call(first), _call(last)
    return lambda x: out(into(x) if act is None else act(into(x)))


def _call(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what a module computes, past the hooks on it, in its own dtype."""
    # a bridge computes from weights of its own once it has processed them
    plain = module if getattr(module, "_use_processed_weights", False) else bare_module(module)
    routers = converting_routers(plain)

    def function(x: Tensor) -> Tensor:
        dtype = list(plain.parameters())[-1].dtype  # a router, which comes first, may have another
        with left_as_they_are(routers):
            y = plain.forward(x.to(dtype))
        return y[0] if isinstance(y, tuple) else y

    return function


def _submodule(owner: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        owner = dict(owner.named_children()).get(name)  # pyright: ignore  None ends the search
        if owner is None:
            return None
    return owner


def _is_linear(module: nn.Module) -> bool:
    plain: Any = bare_module(module)
    return isinstance(plain, nn.Linear) or hasattr(plain, "nf")  # GPT-2's Conv1D


def mlp_in(model: nn.Module, block: int | str, entered: Callable[[list[str]], str | None]) -> tuple[str, Mlp]:
    """Find a block and its MLP.

    Args:
        model: a Hugging Face model.
        block: its number in a list of blocks that have MLPs, or its name.
        entered: chooses among several such lists, by name: the one that a run of the model enters first.

    Returns:
        The block's name and its MLP.

    Raises:
        UsageError: there is no such block, or it has no MLP; the message says which have one.
    """
    if isinstance(block, str):
        named = dict(model.named_modules()).get(block)
        if named is None:
            raise UsageError(f"the model has no module {block}: name one of its blocks")
        if (mlp := mlp_of(named)) is None:
            raise UsageError(f"{block} ({_kind_of(named)}) has no MLP in it: name the block around an MLP")
        return block, mlp
    lists = {name: list(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    with_mlps = {name: blocks for name, blocks in lists.items() if any(map(mlp_of, blocks))}
    outer = [name for name in with_mlps if not any(name.startswith(other + ".") for other in with_mlps)]
    if not outer:
        kind = next((f" (block 0 is a {_kind_of(blocks[0])})" for blocks in lists.values() if blocks), "")
        raise UsageError(
            f"no block of {type(model).__name__} has an MLP{kind}, neither by its name ({', '.join(MLP_NAMES)}) nor "
            "by its class: name two modules in layer_between(model, hook_in, hook_out)"
        )
    chosen = (entered(outer) if len(outer) > 1 else None) or outer[0]
    blocks = with_mlps[chosen]
    more = f" in {chosen}, and others in {', '.join(sorted(set(outer) - {chosen}))}" if len(outer) > 1 else ""
    return f"{chosen}.{block}", numbered_mlp(blocks, block, mlp_of, more)


def numbered_mlp(
    blocks: Sequence[nn.Module] | nn.ModuleList, number: int, find: Callable[[Any], T | None], more: str = ""
) -> T:
    """Look for an MLP in a block of a list.

    Args:
        blocks: the list.
        number: which block.
        find: returns a block's MLP, or None.
        more: words about where the blocks are, for messages.

    Returns:
        What `find` found.

    Raises:
        UsageError: there is no such block, or it has no MLP; the message says which have one.
    """
    if not 0 <= number < len(blocks):
        raise UsageError(f"there is no block {number}: the model has blocks 0 to {len(blocks) - 1}{more}")
    if (found := find(blocks[number])) is not None:
        return found
    others = [i for i, other in enumerate(blocks) if find(other) is not None]
    few = listed([str(other) for other in others], 8)
    choose = f": choose {'block' if len(others) == 1 else 'one of blocks'} {few}"
    otherwise = ", nor has any other: use layer_between(model, hook_in, hook_out)"
    kind = _kind_of(blocks[number])
    raise UsageError(f"block {number} has no MLP (it is a {kind}){choose if others else otherwise}")


def weights_up_to(model: nn.Module, name: str) -> LayerWeights | None:
    """Guess, by names, the weights of the MLP that ends in a module, or that the module is the norm after.
    `checked_mlp_weights` compares them with the layer.

    Args:
        model: a Hugging Face model.
        name: the module that puts out the layer's output.

    Returns:
        The weights; None where no MLP ends there.
    """
    modules, path = dict(model.named_modules()), name.split(".")
    for length in range(len(path) - 1, 0, -1):
        block = ".".join(path[:length])
        if name in modules and (mlp := mlp_of(modules[block])) is not None:
            weights = mlp.weights()
            if name == f"{block}.{mlp.last}" or not isinstance(weights, MlpWeights):
                return weights
            return normed_mlp(weights, modules[name])
    return None


def _kind_of(block: nn.Module) -> str:
    """Return the class of a block and the classes of its parts, without norms and hooks."""
    parts = [type(bare_module(child)).__name__ for child in bare_module(block).children()]
    parts = [part for part in parts if "Norm" not in part and part != "HookPoint"]
    return type(bare_module(block)).__name__ + (f" of {', '.join(parts)}" if parts else "")
