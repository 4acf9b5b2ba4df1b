"""The embedding, the unembedding and the final norm of a model, found by what a run of it carries."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness_plugin.adapters.huggingface.places import Place
from faithfulness_plugin.layers.comparison import same_values
from faithfulness_plugin.layers.vocabulary import NormScale, Vocabulary, norm_scale

A_BLOCK = re.compile(r"\.\d+$")


@torch.no_grad()
def vocabulary_of(
    model: nn.Module, unembed: nn.Module, embedding: Tensor, unembedding: Tensor, call: Callable[[], Any]
) -> Vocabulary | None:
    """Join a model's two matrices with the norm before the last of them.

    The final norm is the module whose output is what the unembedding reads. Where that is the last block's own output,
    there is none.

    Args:
        model: any that has the unembedding as a module.
        unembed: the module that makes the logits.
        embedding: its matrix W_E, [n_vocab, d_model].
        unembedding: W_U, [d_model, n_vocab].
        call: runs the model on a few tokens, the same each time.

    Returns:
        All three; None where something else stands before the unembedding (a projection, as in some OPT), or the two
        matrices are of other widths.
    """
    if embedding.shape[1] != unembedding.shape[0]:
        return None
    read: list[Tensor] = []
    handle = Place(unembed, "input").register(lambda h: read.append(h.detach().clone()))
    try:
        call()
    finally:
        handle.remove()
    if not read or read[0].shape[-1] != unembedding.shape[0]:
        return None
    found = _modules_that_put_out(model, read[0], call)
    norms = [norm_scale(given, put_out) for _, given, put_out in found]
    norm = next((norm for norm in reversed(norms) if norm is not None and norm.divides), None)
    if norm is None and any(A_BLOCK.search(name) for name, _, _ in found):
        norm = NormScale(torch.ones_like(unembedding[:, 0]), centred=False, divides=False)
    return None if norm is None else Vocabulary(embedding.detach(), unembedding.detach(), norm)


def _modules_that_put_out(
    model: nn.Module, wanted: Tensor, call: Callable[[], Any]
) -> list[tuple[str, Tensor, Tensor]]:
    """Return the modules whose output is this tensor and whose input is not, with both, in the order of a run."""
    given: dict[str, Tensor] = {}
    found: list[tuple[str, Tensor, Tensor]] = []

    def keep(name: str, y: Tensor) -> None:
        x = given.pop(name, None)
        if x is not None and same_values(y, wanted) and not same_values(x, y):
            found.append((name, x, y.detach().clone()))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                see = Place(module, "input").register(lambda x, name=name: given.update({name: x.detach().clone()}))
                stack.callback(see.remove)
                stack.callback(Place(module, "output").register(lambda y, name=name: keep(name, y)).remove)
        call()
    return found
