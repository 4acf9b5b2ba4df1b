"""Names of a plain Hugging Face model's tensors: modules' own names, and TransformerLens's."""

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from faithfulness_plugin.adapters.huggingface.block_tensors import UNDERSTOOD, BlockTensors, Ends
from faithfulness_plugin.adapters.huggingface.places import Place, Side

INPUT, OUTPUT = ".input", ".output"
OF_A_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class HuggingFaceNames:
    """From names to places.

    | name | tensor |
    | --- | --- |
    | `NAME`, `NAME.output` | what a module puts out |
    | `NAME.input` | what it is given |
    | `blocks.N.hook_resid_mid` and the like | TransformerLens's, found by `BlockTensors` |

    NAME may leave out what is in front of it ("layers.3.mlp" for "model.layers.3.mlp"), if there is one such module.

    Args:
        ends: where the MLP of a block begins and ends. Raises ValueError for a block that there is not.
        call: runs the model on `inputs`, any that it reads; `BlockTensors` looks at that run.
    """

    def __init__(
        self, model: nn.Module, ends: Callable[[int], Ends], call: Callable[[Tensor], Any], inputs: Callable[[], Tensor]
    ) -> None:
        self._model, self._ends, self._call, self._inputs = model, ends, call, inputs
        self._blocks: dict[int, BlockTensors] = {}

    def block(self, number: int) -> BlockTensors:
        """The tensors of a block by TransformerLens's names."""
        if number not in self._blocks:
            self._blocks[number] = BlockTensors(self._model, self._ends(number), self._call, self._inputs())
        return self._blocks[number]

    def place(self, name: str) -> Place | None:
        """The place of a name, or None for a name that is neither a module's nor of TransformerLens's kind.

        Raises ValueError for one of TransformerLens's names that this model has no tensor for.
        """
        endings: tuple[tuple[str, Side], ...] = ((INPUT, "input"), (OUTPUT, "output"), ("", "output"))
        for ending, side in endings:
            if name.endswith(ending) and (found := module_named(self._model, name.removesuffix(ending))):
                return Place(self._model.get_submodule(found), side)
        if (match := OF_A_BLOCK.fullmatch(name)) is None:
            return None
        number, tensor = int(match[1]), match[2]
        there = self.block(number)
        if tensor in there:
            return there[tensor]
        if tensor not in UNDERSTOOD:
            raise ValueError(
                f"{name} is no tensor that is found in a Hugging Face model ({', '.join(UNDERSTOOD)} of a block are): "
                "name the module that puts it out (NAME, or NAME.input for what it is given)"
            )
        raise ValueError(f"{name}: block {number} of {type(self._model).__name__} {_reason(tensor)}")

    def own_name(self, name: str) -> str:
        """The model's own name for what a name stands for: NAME, NAME.input, or `blocks.N.X` for what no module puts
        out."""
        place = self.place(name)
        if place is None or place.view is not None:
            return name
        own = next(own for own, module in self._model.named_modules() if module is place.module)
        return own + INPUT * (place.side == "input")


def module_named(model: nn.Module, name: str) -> str | None:
    """The whole name of the module that this name is, or ends in; None for none, or several."""
    names = [own for own, _ in model.named_modules() if own]
    if name in names:
        return name
    ends = [own for own in names if own.endswith("." + name)]
    return ends[0] if len(ends) == 1 and re.search(r"(^|\.)\d+(\.|$)", name) else None


def _reason(tensor: str) -> str:
    if tensor == "hook_resid_mid":
        return "has no residual stream between attention and MLP, which read the same (parallel attention)"
    if tensor == "hook_mlp_out":
        return "adds to the residual stream what no module puts out: name the MLP's own output, mlp.hook_out"
    if tensor.endswith("hook_normalized"):
        return "has no norm there of a kind that is known (its output is no scaled, shifted LayerNorm or RMSNorm)"
    return "has no such norm"
