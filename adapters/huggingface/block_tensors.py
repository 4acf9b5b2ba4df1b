"""The tensors of one block of a plain Hugging Face model under TransformerLens's names, found by what they carry."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.adapters.huggingface.places import Place, before_the_scale, scaled_output
from faithfulness_plugin.layers.hooked_layer import Reached

ATTENTION = re.compile(r"attn\.|attention\.")
UNDERSTOOD = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_mlp_in",
    "ln2.hook_in",
    "ln2.hook_normalized",
    "ln2.hook_out",
    "mlp.hook_in",
    "mlp.hook_out",
    "ln2_post.hook_in",
    "ln2_post.hook_normalized",
    "ln2_post.hook_out",
    "hook_mlp_out",
)
"""What can be named in a block, after `blocks.N.`."""


@dataclass(frozen=True)
class Ends:
    """Where an MLP begins and ends in its block."""

    block: str
    begins: str
    """The module whose input is the MLP's."""
    ends: str
    """The module whose output is the MLP's."""


@dataclass(frozen=True)
class Seen:
    """What one module was given and put out, [batch, pos, d]."""

    name: str
    module: nn.Module
    given: Tensor | None
    put_out: Tensor | None


class BlockTensors(Mapping[str, Place]):
    """The places of a block's tensors, by name after `blocks.N.`.

    One small forward pass shows what every module of the block is given and puts out. Then

    - ln2 is the module whose output is what the MLP is given; `ln2.hook_normalized` is its output before its scale;
    - `hook_resid_mid` is what ln2 is given, where that is not the block's own input (parallel attention);
    - `hook_mlp_out`, what is added to the residual stream, is the first output from the MLP's on to which the block's
      output answers by a multiple of whatever is added there. A multiple other than 1 (Granite's residual multiplier)
      belongs to the tensor.

    Args:
        model: a PreTrainedModel.
        ends: of the block's MLP.
        call: runs the model on `inputs`, any that it reads.
    """

    def __init__(self, model: nn.Module, ends: Ends, call: Callable[[Tensor], Any], inputs: Tensor) -> None:
        self._ends = ends
        self._n = len(inputs)
        self._block = model.get_submodule(ends.block)
        with torch.no_grad():
            self._trace(lambda: call(inputs))
            self._places = dict(self._found())

    def __getitem__(self, name: str) -> Place:
        return self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def modules(self) -> Iterator[str]:
        """The names of modules and their inputs that carry one row a position, attention's own parts left out."""
        whole = self._of(self._ends.block).put_out
        assert whole is not None
        for seen in self.seen:
            if ATTENTION.search(seen.name.removeprefix(self._ends.block)):
                continue
            for carried, side in ((seen.given, ".input"), (seen.put_out, "")):
                if carried is not None and carried.ndim == 3 and carried.shape[:2] == whole.shape[:2]:
                    yield seen.name + side

    def _trace(self, call: Callable[[], Any]) -> None:
        """Runs the model up to the block's end, and keeps what passes through the block's modules, in order."""
        given: dict[str, Tensor] = {}
        self.seen: list[Seen] = []
        self._call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

        def keep_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            copied = [a.clone() if isinstance(a, Tensor) else a for a in args]
            named = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
            self._call = (tuple(copied), named)

        with ExitStack() as stack, suppress(Reached):
            handle = self._block.register_forward_pre_hook(keep_call, with_kwargs=True)
            stack.callback(handle.remove)
            for name, module in self._block.named_modules(prefix=self._ends.block):

                def keep_given(activation: Tensor, name: str = name) -> None:
                    given[name] = _rows(activation, self._n)

                def keep_put_out(activation: Tensor, name: str = name, module: nn.Module = module) -> None:
                    put_out = _rows(activation, self._n)
                    self.seen.append(Seen(name, module, given.get(name), put_out))
                    if name == self._ends.block:
                        raise Reached

                stack.callback(Place(module, "input").register(keep_given).remove)
                stack.callback(Place(module, "output").register(keep_put_out).remove)
            call()

    def _of(self, name: str) -> Seen:
        found = next((seen for seen in self.seen if seen.name == name), None)
        if found is None or found.given is None or found.put_out is None:
            raise ValueError(f"a run of the model does not pass {name}: name its tensors by its modules")
        return found

    def _found(self) -> Iterator[tuple[str, Place]]:
        begins, ends, block = self._of(self._ends.begins), self._of(self._ends.ends), self._of(self._ends.block)
        mlp_in = Place(begins.module, "input")
        yield "mlp.hook_in", mlp_in
        yield "mlp.hook_out", Place(ends.module, "output")
        yield "hook_resid_pre", Place(block.module, "input")
        yield "hook_resid_post", Place(block.module, "output")
        ln2 = self._norm_before(begins)
        if ln2 is None:  # the MLP reads the stream itself
            yield "hook_resid_mid", mlp_in
            yield "hook_mlp_in", mlp_in
        else:
            read = Place(ln2.module, "input")
            yield "ln2.hook_in", read
            yield "hook_mlp_in", read
            yield "ln2.hook_out", Place(ln2.module, "output")
            if not _equal(ln2.given, block.given):
                yield "hook_resid_mid", read
            yield from _normalized("ln2", ln2)
        added = self._added(ends)
        if added is None:
            return
        after, scale = added
        yield "hook_mlp_out", Place(after.module, "output") if scale == 1 else scaled_output(after.module, scale)
        if after.name != ends.name and _equal(after.given, ends.put_out) and not _equal(after.put_out, ends.put_out):
            name = "ln2" if ln2 is None else "ln2_post"  # OLMo 2 has one norm a branch, behind it
            yield f"{name}.hook_in", Place(after.module, "input")
            yield f"{name}.hook_out", Place(after.module, "output")
            yield from _normalized(name, after)

    def _norm_before(self, mlp: Seen) -> Seen | None:
        inside = mlp.name + "."
        before = [s for s in self.seen if s.name not in (mlp.name, self._ends.block) and not s.name.startswith(inside)]
        norms = [s for s in before if _equal(s.put_out, mlp.given) and not _equal(s.given, s.put_out)]
        return norms[-1] if norms else None

    def _added(self, ends: Seen) -> tuple[Seen, float] | None:
        """The tensor that is added to the stream, as a multiple of a module's output."""
        place = next(i for i, seen in enumerate(self.seen) if seen is ends)
        whole = self._of(self._ends.block)
        assert whole.put_out is not None
        for seen in self.seen[place:]:
            if seen is whole or seen.put_out is None or seen.put_out.shape != whole.put_out.shape:
                continue
            if (scale := self._answer(seen, whole)) is not None:
                return seen, self._exact(scale)
        return None

    def _answer(self, seen: Seen, whole: Seen) -> float | None:
        """c, where the block's output moves by c times what is added to this output; None where it moves otherwise."""
        assert seen.put_out is not None
        assert whole.put_out is not None
        generator = torch.Generator().manual_seed(1)
        size = seen.put_out.double().square().mean().sqrt()
        step = torch.randn(seen.put_out.shape, generator=generator).to(seen.put_out) * size.to(seen.put_out.dtype)
        handle = Place(seen.module, "output").register(lambda y: y + step.reshape(y.shape))
        args, kwargs = self._call
        try:
            moved = self._block(*args, **kwargs)
        finally:
            handle.remove()
        moved = _rows(moved[0] if isinstance(moved, tuple) else moved, self._n)
        answer, step = (moved.double() - whole.put_out.double()), step.double()
        c = ((answer * step).sum() / step.square().sum()).item()
        exact = seen.put_out.dtype in (torch.float32, torch.float64)
        near = (answer - c * step).norm() <= (1e-3 if exact else 5e-2) * answer.norm()
        return c if near and abs(c) > 1e-6 else None

    def _exact(self, measured: float) -> float:
        """The number that the block keeps for it (a residual multiplier), else 1 or the measured one."""
        kept = [v for v in vars(self._block).values() if isinstance(v, float)]
        return min(
            (c for c in (1.0, *kept) if abs(c - measured) <= 1e-2 * abs(c)),
            key=lambda c: abs(c - measured),
            default=measured,
        )


def _normalized(name: str, norm: Seen) -> Iterator[tuple[str, Place]]:
    assert norm.given is not None
    assert norm.put_out is not None
    if (place := before_the_scale(norm.module, norm.given, norm.put_out)) is not None:
        yield f"{name}.hook_normalized", place


def _rows(activation: Tensor, n: int) -> Float[Tensor, "batch pos d"] | Tensor:
    """A copy, since some models add to activations in place; rows of a flattened batch as [batch, pos, d]."""
    copied = activation.detach().clone()
    flat = copied.ndim == 2 and copied.is_floating_point() and len(copied) % n == 0
    return copied.reshape(n, -1, copied.shape[-1]) if flat else copied


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)
