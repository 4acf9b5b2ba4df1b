"""Samples from a language model's text, read at the layer's hooks."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from faithfulness_plugin.inspection.sample import MEMORY, Origins, RowSample, allocate_rows, build_sample
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.store.fill import rows_kept
from faithfulness_plugin.store.kept_rows import kept_rows
from faithfulness_plugin.store.left_out import LeftOut


@torch.no_grad()
def text_sample(
    hooks: Hooks,
    layer: HookedLayer,
    tokens: Int[Tensor, "prompts pos"],
    *,
    exclude: Int[Tensor, " ids"] | LeftOut | None = None,
    prompts_per_pass: int = 8,
    memory: float = MEMORY,
    seed: int = 0,
    on_prompts: Callable[[int], None] = lambda _: None,
) -> RowSample:
    """Sample a language model's layer on text: what the model itself carries at the layer's two hooks, token by token.

    The model is run once, and only as far as the layer (twice where norms decide which rows count).

    Args:
        hooks: the model's (`TransformerLensHooks(model)`).
        layer: which one (`mlp_layer(model, block)`).
        tokens: the prompts.
        exclude: token ids that transcoders of this layer are not trained on (special tokens), or a `LeftOut`, which
            leaves out positions and rows of extreme norm as well. None keeps all.
        prompts_per_pass: prompts that the model is run on at a time.
        memory: GiB. Rows that would take too much of it lie in a file meanwhile.
        seed: decides the sketches by which near-duplicates are found.
        on_prompts: receives the number of prompts after each pass.

    Returns:
        The sample, with each row's prompt and position.

    Raises:
        ValueError: all tokens are excluded; NaN or Inf among the rows; prompts that the model cannot be run on (see
            `Hooks.require_tokens`).
    """
    found = kept_rows(hooks, layer, tokens, exclude, batch_size=prompts_per_pass)
    origins, kept = Origins.of_kept(tokens.cpu(), found.mask.cpu(), found.counts), found.mask
    rooms: list[Tensor] = []
    filled = 0
    for start in range(0, len(tokens), prompts_per_pass):
        some = tokens[start : start + prompts_per_pass]
        here = kept[start : start + prompts_per_pass]
        if here.any():
            carried = rows_kept(hooks, {layer.hook_in, layer.hook_out}, some, here, prompts_per_pass)
            parts = [carried[layer.hook_in].cpu(), carried[layer.hook_out].cpu()]
            rooms = rooms or [allocate_rows(len(origins.prompt), part.shape[1], part.dtype, memory) for part in parts]
            for room, part in zip(rooms, parts, strict=True):
                room[filled : filled + len(part)] = part
            filled += len(parts[0])
        on_prompts(len(some))
    x, y = rooms
    return build_sample(x, y, origins, memory=memory, seed=seed)
