"""Which module or pair of modules of a Hugging Face model is a block's MLP."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from faithfulness_plugin.jacobian.mlp_weights import MlpWeights, mlp_weights, weights_of_pair

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
    weights: Callable[[], MlpWeights | None]


def mlp_of(block: nn.Module) -> Mlp | None:
    """The MLP of a block, where it has one: a module that is called like one or is of a class that is called like one,
    in the block or in the last of its sublayers (T5), or two linear layers with an activation between them."""
    for path, module in _candidates(block):
        if _takes_rows(module):
            return Mlp(path, path, _call(module), lambda module=module: mlp_weights(module))
        if (pair := _pair(module, path + ".")) is not None:
            return pair
    return _pair(block, "")


def _candidates(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    children = dict(block.named_children())
    yield from ((name, children[name]) for name in MLP_NAMES if name in children and not _is_linear(children[name]))
    yield from ((name, child) for name, child in children.items() if MLP_CLASS.search(type(child).__name__))
    if isinstance(sublayers := children.get("layer"), nn.ModuleList) and len(sublayers):
        last = len(sublayers) - 1
        yield from ((f"layer.{last}.{name}", module) for name, module in _candidates(sublayers[last]))


def _takes_rows(module: nn.Module) -> bool:
    """Whether it can be called with its input alone."""
    parameters = inspect.signature(module.forward).parameters.values()
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
    """What a module computes, past the hooks on it, in its own dtype."""
    plain = getattr(module, "original_component", module)  # a TransformerBridge puts its own around it

    def function(x: Tensor) -> Tensor:
        y = plain.forward(x.to(next(plain.parameters()).dtype))
        return y[0] if isinstance(y, tuple) else y

    return function


def _submodule(owner: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        owner = dict(owner.named_children()).get(name)  # pyright: ignore  None ends the search
        if owner is None:
            return None
    return owner


def _is_linear(module: nn.Module) -> bool:
    plain: Any = getattr(module, "original_component", module)
    return isinstance(plain, nn.Linear) or hasattr(plain, "nf")  # GPT-2's Conv1D


def mlp_in(model: nn.Module, block: int | str, entered: Callable[[list[str]], str | None]) -> tuple[str, Mlp]:
    """The name of a block and its MLP.

    Args:
        block: its number in a list of blocks that have MLPs, or its name.
        entered: chooses among several such lists, by name: the one that a run of the model enters first.

    Raises:
        ValueError: there is no such block, or it has no MLP; the message says which have one.
    """
    if isinstance(block, str):
        named = dict(model.named_modules()).get(block)
        if named is None:
            raise ValueError(f"the model has no module {block}: name one of its blocks")
        if (mlp := mlp_of(named)) is None:
            raise ValueError(f"{block} ({_kind(named)}) has no MLP in it: name the block around an MLP")
        return block, mlp
    lists = {name: list(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    with_mlps = {name: blocks for name, blocks in lists.items() if any(map(mlp_of, blocks))}
    outer = [name for name in with_mlps if not any(name.startswith(other + ".") for other in with_mlps)]
    if not outer:
        blocks = next((f" (block 0 is a {_kind(blocks[0])})" for blocks in lists.values() if blocks), "")
        raise ValueError(
            f"no block of {type(model).__name__} has an MLP{blocks}, neither by its name ({', '.join(MLP_NAMES)}) nor "
            "by its class: name two modules in layer_between(model, hook_in, hook_out)"
        )
    chosen = (entered(outer) if len(outer) > 1 else None) or outer[0]
    blocks = with_mlps[chosen]
    if not 0 <= block < len(blocks):
        more = f" in {chosen}, and others in {', '.join(sorted(set(outer) - {chosen}))}" if len(outer) > 1 else ""
        raise ValueError(f"there is no block {block}: the model has blocks 0 to {len(blocks) - 1}{more}")
    if (mlp := mlp_of(blocks[block])) is None:
        raise ValueError(
            no_mlp(f"block {block} ({_kind(blocks[block])})", [i for i, b in enumerate(blocks) if mlp_of(b)])
        )
    return f"{chosen}.{block}", mlp


def no_mlp(block: str, others: list[int]) -> str:
    """The message for a block without an MLP, where other blocks may have one."""
    if not others:
        return f"{block} has no MLP, nor has any other: use layer_between(model, hook_in, hook_out)"
    few = ", ".join(map(str, others[:8])) + (", ..." if len(others) > 8 else "")
    return f"{block} has no MLP: choose {'block' if len(others) == 1 else 'one of blocks'} {few}"


def _kind(block: nn.Module) -> str:
    """The class of a block, and of what it is made of, norms left out."""
    parts = [type(child).__name__ for child in block.children() if "Norm" not in type(child).__name__]
    return type(block).__name__ + (f" of {', '.join(parts)}" if parts else "")
