"""The tensors of one block of a plain Hugging Face model under TransformerLens's names, found by what they carry."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.adapters.huggingface.places import Place, before_the_scale, scaled_output
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.comparison import same_values
from faithfulness_plugin.layers.hooks import Reached

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


@dataclass(frozen=True, eq=False)
class Seen:
    """What one module was given and put out, [batch, pos, d]."""

    name: str
    module: nn.Module
    given: Tensor | None
    put_out: Tensor

    @property
    def reads(self) -> Place:
        return Place(self.module, "input")

    @property
    def writes(self) -> Place:
        return Place(self.module, "output")


class BlockTensors:
    """Finds the places of a block's tensors, by name after `blocks.N.`.

    One small forward pass shows what every module of the block is given and puts out. Then

    - ln2 is the module whose output is what the MLP is given; `ln2.hook_normalized` is its output before its scale;
    - `hook_resid_mid` is what ln2 is given, where that is not the block's own input (parallel attention);
    - `hook_mlp_out`, what is added to the residual stream, is the first output from the MLP's on to which the block's
    output responds by a multiple of whatever is added there. A multiple other than 1 (Granite's residual multiplier)
    belongs to the tensor.

    Args:
        model: a PreTrainedModel.
        block: the block's name.
        begins: the name of the module whose input is the MLP's.
        ends: the name of the module whose output is the MLP's.
        call: runs the model.
        inputs: any that the model reads.
    """

    def __init__(
        self,
        model: nn.Module,
        block: str,
        begins: str,
        ends: str,
        call: Callable[[Tensor], Any],
        inputs: Tensor,
    ) -> None:
        self._n = len(inputs)
        self._block = model.get_submodule(block)
        with torch.no_grad():
            self._trace(block, lambda: call(inputs))
            self._whole = self._of(block)
            self.places: dict[str, Place] = dict(self._find(self._of(begins), self._of(ends)))

    def modules(self) -> Iterator[str]:
        """Name the modules, and their inputs, that carry one row a position, attention's own parts left out.

        Returns:
            The names, in the order in which the model passes them.
        """
        for seen in self.seen:
            if ATTENTION.search(seen.name.removeprefix(self._whole.name)):
                continue
            for carried, side in ((seen.given, ".input"), (seen.put_out, "")):
                if carried is not None and carried.ndim == 3 and carried.shape[:2] == self._whole.put_out.shape[:2]:
                    yield seen.name + side

    def _trace(self, block: str, call: Callable[[], Any]) -> None:
        """Run the model up to the block's end, and keep what passes through the block's modules, in order."""
        given: dict[str, Tensor] = {}
        self.seen: list[Seen] = []
        self._call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

        def copied(value: Any) -> Any:
            return value.clone() if isinstance(value, Tensor) else value

        def keep_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._call = tuple(map(copied, args)), {name: copied(value) for name, value in kwargs.items()}

        with ExitStack() as stack, suppress(Reached):
            handle = self._block.register_forward_pre_hook(keep_call, with_kwargs=True)
            stack.callback(handle.remove)
            for name, module in self._block.named_modules(prefix=block):

                def keep_given(activation: Tensor, name: str = name) -> None:
                    given[name] = _rows(activation, self._n)

                def keep_put_out(activation: Tensor, name: str = name, module: nn.Module = module) -> None:
                    self.seen.append(Seen(name, module, given.get(name), _rows(activation, self._n)))
                    if name == block:
                        raise Reached

                stack.callback(Place(module, "input").register(keep_given).remove)
                stack.callback(Place(module, "output").register(keep_put_out).remove)
            call()

    def _of(self, name: str) -> Seen:
        found = next((seen for seen in self.seen if seen.name == name and seen.given is not None), None)
        if found is None:
            raise UsageError(f"a run of the model does not pass {name}: name its tensors by its modules")
        return found

    def _find(self, begins: Seen, ends: Seen) -> Iterator[tuple[str, Place]]:
        yield "mlp.hook_in", begins.reads
        yield "mlp.hook_out", ends.writes
        yield "hook_resid_pre", self._whole.reads
        yield "hook_resid_post", self._whole.writes
        ln2 = self._norm_before(begins)
        if ln2 is None:  # the MLP reads the stream itself
            yield "hook_resid_mid", begins.reads
            yield "hook_mlp_in", begins.reads
        else:
            yield "hook_mlp_in", ln2.reads
            if not same_values(ln2.given, self._whole.given):
                yield "hook_resid_mid", ln2.reads
            yield from _norm("ln2", ln2)
        added = self._added(ends)
        if added is None:
            return
        after, scale = added
        yield "hook_mlp_out", after.writes if scale == 1 else scaled_output(after.module, scale)
        follows = after.name != ends.name and same_values(after.given, ends.put_out)
        if follows and not same_values(after.put_out, ends.put_out):
            yield from _norm("ln2" if ln2 is None else "ln2_post", after)  # OLMo 2 has one norm a branch, behind it

    def _norm_before(self, mlp: Seen) -> Seen | None:
        outside = (s for s in self.seen if s.name != self._whole.name and not f"{s.name}.".startswith(f"{mlp.name}."))
        norms = [s for s in outside if same_values(s.put_out, mlp.given) and not same_values(s.given, s.put_out)]
        return norms[-1] if norms else None

    def _added(self, ends: Seen) -> tuple[Seen, float] | None:
        """Return the tensor that is added to the stream, as a multiple of a module's output."""
        for seen in self.seen[self.seen.index(ends) :]:
            if seen is self._whole or seen.put_out.shape != self._whole.put_out.shape:
                continue
            if (scale := self._response(seen)) is not None:
                return seen, self._exact(scale)
        return None

    def _response(self, seen: Seen) -> float | None:
        """Return c, where the block's output moves by c times what is added to this output; None if otherwise."""
        generator = torch.Generator().manual_seed(1)
        size = seen.put_out.double().square().mean().sqrt()
        step = torch.randn(seen.put_out.shape, generator=generator).to(seen.put_out) * size.to(seen.put_out.dtype)
        handle = seen.writes.register(lambda y: y + step.reshape(y.shape))
        args, kwargs = self._call
        try:
            moved = self._block(*args, **kwargs)
        finally:
            handle.remove()
        moved = _rows(moved[0] if isinstance(moved, tuple) else moved, self._n)
        response, step = (moved.double() - self._whole.put_out.double()), step.double()
        c = ((response * step).sum() / step.square().sum()).item()
        exact = seen.put_out.dtype in (torch.float32, torch.float64)
        near = (response - c * step).norm() <= (1e-3 if exact else 5e-2) * response.norm()
        return c if near and abs(c) > 1e-6 else None

    def _exact(self, measured: float) -> float:
        """Return the number that the block keeps for it (a residual multiplier), else 1 or the measured one."""
        kept = (1.0, *(v for v in vars(self._block).values() if isinstance(v, float)))
        near = [c for c in kept if abs(c - measured) <= 1e-2 * abs(c)]
        return min(near, key=lambda c: abs(c - measured), default=measured)


def _norm(name: str, norm: Seen) -> Iterator[tuple[str, Place]]:
    yield f"{name}.hook_in", norm.reads
    yield f"{name}.hook_out", norm.writes
    if norm.given is not None and (place := before_the_scale(norm.module, norm.given, norm.put_out)) is not None:
        yield f"{name}.hook_normalized", place


def _rows(activation: Tensor, n: int) -> Float[Tensor, "batch pos d"] | Tensor:
    """Copy an activation, since some models add to it in place; rows of a flattened batch become [batch, pos, d]."""
    copied = activation.detach().clone()
    flat = copied.ndim == 2 and copied.is_floating_point() and len(copied) % n == 0
    return copied.reshape(n, -1, copied.shape[-1]) if flat else copied
