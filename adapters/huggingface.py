"""Plain Hugging Face models: the layer between two modules, without TransformerLens."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from faithfulness_plugin.adapters.find_mlp import mlp_in, weights_up_to
from faithfulness_plugin.adapters.flattened_rows import by_position
from faithfulness_plugin.adapters.hooked_layer import (
    Hook,
    HookedLayer,
    Hooks,
    LayerError,
    Reached,
    Tokens,
    between,
    check_layer,
)
from faithfulness_plugin.adapters.model_inputs import ModelInputs, fills_masks
from faithfulness_plugin.adapters.routers import converting_routers, left_as_they_are

INPUT = ".input"


class HuggingFaceHooks(Hooks):
    """The modules of a PreTrainedModel by name: NAME for what a module puts out, NAME.input for what it is given."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.inputs = ModelInputs(model)
        self._routers = converting_routers(model)

    @property
    def names(self) -> Sequence[str]:
        modules = [name for name, _ in self.model.named_modules() if name]
        return modules + [name + INPUT for name in modules]

    @property
    def n_vocab(self) -> int:
        return self.inputs.n_vocab

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
        main, more = self.inputs.arguments(tokens)
        with ExitStack() as stack:
            for name, hook in hooks.items():
                stack.callback(self._register(name, by_position(name, hook, len(tokens), length)).remove)
            stack.enter_context(left_as_they_are(self._routers))
            logits = getattr(self.model(main, **more), "logits", None)
        one_each = logits is not None and logits.ndim == 3 and logits.shape[1] == length
        next_token = one_each and not self.inputs.has_decoder and not fills_masks(type(self.model).__name__)
        return logits if next_token else None

    def _register(self, name: str, hook: Hook) -> Any:
        def on_input(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if args:
                seen = hook(args[0])
                return None if seen is None else ((seen, *args[1:]), named)
            parameters = inspect.signature(module.forward).parameters
            first = next((parameter for parameter in (*parameters, *named) if parameter in named), None)
            if first is None:
                raise LayerError(f"{name} carries nothing: the module is given no input")
            seen = hook(named[first])
            return None if seen is None else (args, {**named, first: seen})

        def on_output(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, ModelOutput):
                first = next(iter(output))
                seen = hook(output[first])
                return None if seen is None else type(output)(**{**output, first: seen})
            seen = hook(output[0] if isinstance(output, tuple) else output)
            return None if seen is None else (seen, *output[1:]) if isinstance(output, tuple) else seen

        if name.endswith(INPUT):
            module = self.model.get_submodule(name.removesuffix(INPUT))
            return module.register_forward_pre_hook(on_input, with_kwargs=True)
        return self.model.get_submodule(name).register_forward_hook(on_output)


def layer_between(model: nn.Module, hook_in: str, hook_out: str) -> HookedLayer:
    """The layer between any two modules of a model (NAME: its output, NAME.input: its input), as a function of rows,
    checked against it. It runs the model up to `hook_out` whenever it is called.

    Raises as `faithfulness_plugin.adapters.transformer_lens.layer_between`.
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
