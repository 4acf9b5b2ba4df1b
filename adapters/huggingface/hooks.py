"""Plain Hugging Face models: the layer between two modules, without TransformerLens."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness_plugin.adapters.huggingface.block_tensors import Ends
from faithfulness_plugin.adapters.huggingface.find_mlp import mlp_in, weights_up_to
from faithfulness_plugin.adapters.huggingface.flattened_rows import by_position
from faithfulness_plugin.adapters.huggingface.model_inputs import ModelInputs, fills_masks
from faithfulness_plugin.adapters.huggingface.names import INPUT, HuggingFaceNames
from faithfulness_plugin.adapters.huggingface.places import Place
from faithfulness_plugin.adapters.huggingface.positions import n_positions
from faithfulness_plugin.adapters.huggingface.routers import converting_routers, left_as_they_are
from faithfulness_plugin.layers.hooked_layer import (
    Hook,
    HookedLayer,
    Hooks,
    Reached,
    Tokens,
    between,
    check_layer,
)


class HuggingFaceHooks(Hooks):
    """The tensors of a PreTrainedModel by name: NAME for what a module puts out, NAME.input for what it is given, and
    TransformerLens's names of a block's tensors (`HuggingFaceNames`)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.inputs = ModelInputs(model)
        self._names = HuggingFaceNames(model, self._ends, self._call, self.random_tokens)
        self._routers = converting_routers(model)

    @property
    def names(self) -> Sequence[str]:
        modules = [name for name, _ in self.model.named_modules() if name]
        return modules + [name + INPUT for name in modules]

    @property
    def n_vocab(self) -> int:
        return self.inputs.n_vocab

    @property
    def n_positions(self) -> int | None:
        return n_positions(getattr(self.model, "config", None))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def random_tokens(self, n_prompts: int = 2, length: int = 8, seed: int = 0) -> Tokens:
        """Random inputs of the kind that the model reads: tokens, pictures or sound."""
        return self.inputs.made_up(n_prompts, length, torch.Generator().manual_seed(seed)).to(self.device)

    def blank(self, n: int) -> Tokens:
        return self.inputs.blank(n).to(self.device)

    def _run(self, tokens: Tokens, hooks: Mapping[str, Hook]) -> Tensor | None:
        length = None if tokens.is_floating_point() else tokens.shape[1]
        places = {name: self._place(name) for name in hooks}  # to find one, the model may be run
        with ExitStack() as stack:
            for name, hook in hooks.items():
                placed = places[name].register(by_position(name, hook, len(tokens), length))
                stack.callback(placed.remove)
            stack.enter_context(left_as_they_are(self._routers))
            logits = getattr(self._call(tokens), "logits", None)
        one_each = logits is not None and logits.ndim == 3 and logits.shape[1] == length
        next_token = one_each and not self.inputs.has_decoder and not fills_masks(type(self.model).__name__)
        return logits if next_token else None

    def _call(self, tokens: Tokens) -> Any:
        main, more = self.inputs.arguments(tokens)
        return self.model(main, **more)

    def require(self, name: str) -> str:
        self._place(name)
        return name

    def own_name(self, name: str) -> str:
        return self._names.own_name(name)

    def block_names(self, block: int) -> list[str]:
        """TransformerLens's names of the tensors of a block."""
        return [f"blocks.{block}.{name}" for name in self._names.block(block)]

    def block_tensors(self, block: int) -> list[str]:
        """TransformerLens's names, and the modules of the block that carry one row a position."""
        there = self._names.block(block)
        return [*self.block_names(block), *there.modules()]

    def _place(self, name: str) -> Place:
        place = self._names.place(name)
        if place is None:
            super().require(name)
        assert place is not None  # a name of its own has a place
        return place

    def _ends(self, block: int) -> Ends:
        """Where the MLP of a block begins and ends."""
        name, mlp = mlp_in(self.model, block, lambda lists: _entered_first(self, lists))
        return Ends(name, f"{name}.{mlp.first}", f"{name}.{mlp.last}")


def layer_between(model: nn.Module, hook_in: str, hook_out: str) -> HookedLayer:
    """The layer between any two modules of a model (NAME: its output, NAME.input: its input), as a function of rows,
    checked against it. It runs the model up to `hook_out` whenever it is called.

    Raises as `faithfulness_plugin.adapters.transformer_lens.hooks.layer_between`.
    """
    hooks = HuggingFaceHooks(model)
    layer = between(hooks, hook_in, hook_out)
    layer.weights = lambda: weights_up_to(model, hook_out)
    check_layer(hooks, layer, hook_in, hook_out)
    return layer


def mlp_layer(model: nn.Module, block: int | str) -> HookedLayer:
    """The MLP of a block as a function of rows, from `NAME.input` to `NAME`, checked against the model. Hooks on the
    MLP itself are passed by; those inside it are run. Where two modules of the block make up its MLP (fc1 and fc2 of
    OPT, intermediate and output.dense of BERT), the layer is from the first one's input to the second one's output.

    Args:
        block: its number, or its name where a model has several lists of blocks ("decoder.block.1" of T5). A number
            counts in the list that a run of the model enters first: an encoder's, where a decoder stands behind it.

    Raises:
        ValueError: there is no such block, or it has no MLP (the message says which blocks have one).
        LayerError: the model computes something else there.
    """
    hooks = HuggingFaceHooks(model)
    name, mlp = mlp_in(model, block, lambda lists: _entered_first(hooks, lists))
    layer = HookedLayer(f"{name}.{mlp.first}{INPUT}", f"{name}.{mlp.last}", mlp.function, weights=mlp.weights)
    check_layer(hooks, layer, layer.hook_in, layer.hook_out)
    return layer


def _entered_first(hooks: HuggingFaceHooks, lists: list[str]) -> str | None:
    """The first of some lists of blocks that a run of the model comes to."""
    entered: list[str] = []

    def enter(name: str) -> Hook:
        def stop(activation: Tensor) -> None:
            entered.append(name)
            raise Reached

        return stop

    with suppress(Exception):  # where it does not run on such inputs, the check of the layer says why
        hooks.visit(hooks.random_tokens(), {f"{name}.0{INPUT}": enter(name) for name in lists})
    return entered[0] if entered else None
