"""Plain Hugging Face models: the layer between two modules, without TransformerLens."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from faithfulness_plugin.adapters.hooked_layer import Hook, HookedLayer, Hooks, between, check_layer
from faithfulness_plugin.adapters.positions import n_positions
from faithfulness_plugin.jacobian.mlp_weights import MlpWeights, mlp_weights

INPUT = ".input"
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")


class HuggingFaceHooks(Hooks):
    """The modules of a PreTrainedModel by name: NAME for what a module puts out, NAME.input for what it is given."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def names(self) -> Sequence[str]:
        modules = [name for name, _ in self.model.named_modules() if name]
        return modules + [name + INPUT for name in modules]

    @property
    def n_vocab(self) -> int:
        return self.model.config.get_text_config().vocab_size  # pyright: ignore  a PreTrainedModel's config

    @property
    def n_positions(self) -> int | None:
        return n_positions(getattr(self.model, "config", None))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _run(self, tokens: Int[Tensor, "batch pos"], hooks: Mapping[str, Hook]) -> Tensor:
        with ExitStack() as stack:
            for name, hook in hooks.items():
                stack.callback(self._register(name, hook).remove)
            return self.model(tokens, use_cache=False).logits

    def _register(self, name: str, hook: Hook) -> Any:
        def on_input(module: nn.Module, args: tuple[Any, ...]) -> Any:
            seen = hook(args[0])
            return None if seen is None else (seen, *args[1:])

        def on_output(module: nn.Module, args: Any, output: Any) -> Any:
            seen = hook(output[0] if isinstance(output, tuple) else output)
            return None if seen is None else (seen, *output[1:]) if isinstance(output, tuple) else seen

        if name.endswith(INPUT):
            return self.model.get_submodule(name.removesuffix(INPUT)).register_forward_pre_hook(on_input)
        return self.model.get_submodule(name).register_forward_hook(on_output)


def layer_between(model: nn.Module, hook_in: str, hook_out: str) -> HookedLayer:
    """The layer between any two modules of a model (NAME: its output, NAME.input: its input), as a function of rows,
    checked against it. It runs the model up to `hook_out` whenever it is called.

    Raises as `faithfulness_plugin.adapters.transformer_lens.layer_between`.
    """
    hooks = HuggingFaceHooks(model)
    layer = between(hooks, hook_in, hook_out)
    check_layer(hooks, layer, hook_in, hook_out)
    return layer


def mlp_layer(model: nn.Module, block: int) -> HookedLayer:
    """The MLP of a block as a function of rows, from `NAME.input` to `NAME`, checked against the model. Hooks on the
    MLP itself are passed by; those inside it are run.

    Raises:
        ValueError: there is no such block, or none of its modules is called like an MLP.
        LayerError: the model computes something else there.
    """
    name = _mlp_name(model, block)
    mlp = model.get_submodule(name)

    def function(x: Tensor) -> Tensor:
        y = mlp.forward(x.to(next(mlp.parameters()).dtype))
        return y[0] if isinstance(y, tuple) else y

    def weights() -> MlpWeights | None:
        return mlp_weights(mlp)

    hooks, layer = HuggingFaceHooks(model), HookedLayer(name + INPUT, name, function, weights=weights)
    check_layer(hooks, layer, layer.hook_in, layer.hook_out)
    return layer


def _mlp_name(model: nn.Module, block: int) -> str:
    """Of the MLP in that block of the first list of modules whose members have one."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        mlps = [called for called in MLP_NAMES if hasattr(module[0], called)]
        if not mlps:
            continue
        if not 0 <= block < len(module):
            raise ValueError(f"there is no block {block}: the model has blocks 0 to {len(module) - 1}")
        return f"{name}.{block}.{mlps[0]}"
    raise ValueError(
        f"no block of {type(model).__name__} has a module called {', '.join(MLP_NAMES)}: name two modules in "
        "layer_between(model, hook_in, hook_out)"
    )
