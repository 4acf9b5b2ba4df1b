"""The tensors of a plain Hugging Face model by name: modules' own names, and TransformerLens's."""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.adapters.huggingface.block_tensors import UNDERSTOOD, BlockTensors
from faithfulness_plugin.adapters.huggingface.find_mlp import mlp_in, weights_up_to
from faithfulness_plugin.adapters.huggingface.flattened_rows import by_position
from faithfulness_plugin.adapters.huggingface.model_inputs import ModelInputs, fills_masks
from faithfulness_plugin.adapters.huggingface.places import Place, Side, side_of, whole_name
from faithfulness_plugin.adapters.huggingface.positions import n_positions
from faithfulness_plugin.adapters.huggingface.routers import converting_routers, left_as_they_are
from faithfulness_plugin.adapters.huggingface.vocabulary import vocabulary_of
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hook, Hooks, Reached, Tokens
from faithfulness_plugin.layers.last_positions import of_last_positions
from faithfulness_plugin.layers.normed_mlp import LayerWeights
from faithfulness_plugin.layers.vocabulary import Vocabulary

OF_A_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
IN_A_LIST = re.compile(r"([^\d]+)\.(\d+)(?:\.|$)")


class HuggingFaceHooks(Hooks):
    """The tensors of a PreTrainedModel by name.

    | name | tensor |
    | --- | --- |
    | `NAME`, `NAME.output` | what a module puts out |
    | `NAME.input` | what it is given |
    | `blocks.N.hook_resid_mid` and the like | TransformerLens's, found by `BlockTensors` |
    | `hook_embed` | the embeddings of tokens |

    NAME may leave out what is in front of it ("layers.3.mlp" for "model.layers.3.mlp"), if there is one such module.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.inputs = ModelInputs(model)
        self._blocks: dict[int, BlockTensors] = {}
        self._routers = converting_routers(model)

    @property
    def names(self) -> Sequence[str]:
        modules = [name for name, _ in self.model.named_modules() if name]
        return modules + [name + ".input" for name in modules]

    @property
    def n_vocab(self) -> int:
        return self.inputs.n_vocab

    @property
    def n_positions(self) -> int | None:
        return n_positions(getattr(self.model, "config", None))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @override
    def random_tokens(self, n_prompts: int = 2, length: int = 8, seed: int = 0) -> Tokens:
        """Draw random inputs of the kind that the model reads: tokens, pictures or sound."""
        return self.inputs.made_up(n_prompts, length, torch.Generator().manual_seed(seed)).to(self.device)

    @override
    def blank(self, n: int) -> Tokens:
        return self.inputs.blank(n).to(self.device)

    def _run(self, tokens: Tokens, hooks: Mapping[str, Hook], last: int | None) -> Tensor | None:
        length = None if tokens.is_floating_point() else tokens.shape[1]
        places = {name: self.place(name) for name in hooks}  # to find one, the model may be run
        with ExitStack() as stack:
            for name, hook in hooks.items():
                stack.callback(places[name].register(by_position(name, hook, len(tokens), length)).remove)
            stack.enter_context(left_as_they_are(self._routers))
            stack.enter_context(of_last_positions(self._unembedding(), last, length))
            logits = getattr(self._call(tokens), "logits", None)
        one_each = logits is not None and logits.ndim == 3 and logits.shape[1] in (length, last)
        next_token = one_each and not self.inputs.has_decoder and not fills_masks(type(self.model).__name__)
        return logits if next_token else None

    def _call(self, tokens: Tokens) -> Any:
        main, more = self.inputs.arguments(tokens)
        return self.model(main, **more)

    @override
    def require(self, name: str) -> str:
        self.place(name)
        return name

    def place(self, name: str) -> Place:
        """Find the place of a tensor.

        Args:
            name: a module's, with .input or .output, or one of TransformerLens's.

        Returns:
            Where torch's hooks read it.

        Raises:
            UsageError: this model has no tensor of that name.
        """
        modules = [own for own, _ in self.model.named_modules() if own]
        meant: tuple[tuple[str, Side], ...] = (side_of(name), (name, "output"))
        for whole, side in meant:
            if (found := whole_name(whole, modules)) is not None:
                return Place(self.model.get_submodule(found), side)
        if name == "hook_embed" and (embedding := self._embedding()) is not None:
            return Place(embedding, "output")
        if (match := OF_A_BLOCK.fullmatch(name)) is None:
            raise self.no_hook(name)
        number, tensor = int(match[1]), match[2]
        found = self._block(number).places.get(tensor)
        if found is not None:
            return found
        if tensor not in UNDERSTOOD:
            raise UsageError(
                f"{name} is no tensor that is found in a Hugging Face model ({', '.join(UNDERSTOOD)} of a block are): "
                "name the module that puts it out (NAME, or NAME.input for what it is given)"
            )
        raise UsageError(f"{name}: block {number} of {type(self.model).__name__} {_why_missing(tensor)}")

    @override
    def own_name(self, name: str) -> str:
        """Return NAME or NAME.input for what a module puts out or is given; the name itself for any other tensor."""
        place = self.place(name)
        if place.view is not None:
            return name
        own = next(own for own, module in self.model.named_modules() if module is place.module)
        return own + ".input" * (place.side == "input")

    def block_names(self, block: int) -> list[str]:
        """Name the tensors of a block as TransformerLens does.

        Args:
            block: its number.

        Returns:
            The names of those that it has.
        """
        return [f"blocks.{block}.{name}" for name in self._block(block).places]

    @override
    def block_tensors(self, block: int) -> list[str]:
        """Return TransformerLens's names, and the modules of the block that carry one row a position."""
        return [*self.block_names(block), *self._block(block).modules()]

    @override
    def mlp(self, block: int | str) -> HookedLayer:
        """Return the MLP of a block, from `NAME.input` to `NAME`. Where two modules make it up (fc1 and fc2 of OPT,
        intermediate and output.dense of BERT), the layer is from the first one's input to the second one's output."""
        name, mlp = mlp_in(self.model, block, self._entered_first)
        return HookedLayer(f"{name}.{mlp.first}.input", f"{name}.{mlp.last}", mlp.function, weights=mlp.weights)

    @override
    def weights_up_to(self, hook_out: str) -> LayerWeights | None:
        return weights_up_to(self.model, hook_out)

    @override
    def vocabulary(self) -> Vocabulary | None:
        embedding, unembed = self._embedding(), self._unembedding()
        predicts_next = not self.inputs.has_decoder and not fills_masks(type(self.model).__name__)
        if embedding is None or not isinstance(unembed, nn.Linear) or not predicts_next:
            return None
        matrices = embedding.weight, unembed.weight.T
        return vocabulary_of(self.model, unembed, *matrices, lambda: self._call(self.random_tokens()))

    def _block(self, number: int) -> BlockTensors:
        if number not in self._blocks:
            name, mlp = mlp_in(self.model, number, self._entered_first)
            ends = f"{name}.{mlp.first}", f"{name}.{mlp.last}"
            self._blocks[number] = BlockTensors(self.model, name, *ends, self._call, self.random_tokens())
        return self._blocks[number]

    def _embedding(self) -> Any:
        """Return the module that embeds tokens, where there is one."""
        with suppress(NotImplementedError, AttributeError):
            return self.model.get_input_embeddings()  # pyright: ignore[reportCallIssue]  a PreTrainedModel's

    def _unembedding(self) -> nn.Module | None:
        """Return the module that makes logits, where there is one."""
        with suppress(NotImplementedError, AttributeError):
            return self.model.get_output_embeddings()  # pyright: ignore[reportCallIssue]  a PreTrainedModel's

    @override
    def _blocks_before(self, name: str) -> Sequence[nn.Module]:
        module = self.place(name).module
        own = next(own for own, found in self.model.named_modules() if found is module)
        match = IN_A_LIST.match(own)
        blocks = None if match is None else self.model.get_submodule(match[1])
        return [*blocks][: int(match[2])] if match is not None and isinstance(blocks, nn.ModuleList) else []

    def _entered_first(self, lists: list[str]) -> str | None:
        """Return the first of some lists of blocks that a run of the model enters."""
        entered: list[str] = []

        def enter(name: str) -> Hook:
            def stop(activation: Tensor) -> None:
                entered.append(name)
                raise Reached

            return stop

        with suppress(Exception):  # where it does not run on such inputs, the check of the layer says why
            self.visit(self.random_tokens(), {f"{name}.0.input": enter(name) for name in lists})
        return entered[0] if entered else None


def _why_missing(tensor: str) -> str:
    if tensor == "hook_resid_mid":
        return "has no residual stream between attention and MLP, which read the same (parallel attention)"
    if tensor == "hook_mlp_out":
        return "adds to the residual stream what no module puts out: name the MLP's own output, mlp.hook_out"
    if tensor.endswith("hook_normalized"):
        return "has no norm there of a kind that is known (its output is no scaled, shifted LayerNorm or RMSNorm)"
    return "has no such norm"
