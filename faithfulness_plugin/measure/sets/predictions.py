"""What the model predicts with one, some and all layers of a set replaced."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from faithfulness_plugin.language_model.layer_rows import to_digits
from faithfulness_plugin.language_model.replacement import ReplacementModel
from faithfulness_plugin.layers.spliced import run_replaced
from faithfulness_plugin.measure.sets.schema import ReplacedNumbers
from faithfulness_plugin.metrics.next_token import NextToken

Which = tuple[tuple[int, ...], bool]
"""The blocks whose layers are replaced, and whether with error nodes."""


def replaced_together(blocks: Sequence[int]) -> list[Which]:
    """Choose which layers are replaced: each alone, 2, 4, 8 ... evenly spread, all, and all with error nodes.

    Args:
        blocks: those that have a transcoder.

    Returns:
        The blocks that are replaced together, each once.

        >>> [list(blocks) for blocks, errors in replaced_together(range(5)) if not errors][5:]
        [[0, 4], [0, 1, 3, 4], [0, 1, 2, 3, 4]]
    """
    found: list[Which] = [((block,), False) for block in blocks]
    size = 2
    while size < len(blocks):
        places = [round(i * (len(blocks) - 1) / (size - 1)) for i in range(size)]
        found.append((tuple(blocks[place] for place in places), False))
        size *= 2
    return list(dict.fromkeys([*found, (tuple(blocks), False), (tuple(blocks), True)]))


@torch.no_grad()
def predictions(
    model: ReplacementModel,
    tokens: Int[Tensor, "prompts pos"],
    kept: Mapping[int, Bool[Tensor, "prompts pos"]],
    batch_size: int,
    chosen: Sequence[Which] | None = None,
) -> tuple[list[float], list[ReplacedNumbers]]:
    """Compare the next tokens that are predicted with those of the model as it is.

    Args:
        model: the set in its model.
        tokens: the prompts.
        kept: the tokens that count, by block.
        batch_size: prompts that the model is run on at a time.
        chosen: which layers are replaced together; None for `replaced_together`.

    Returns:
        The model's own cross-entropy in nats, prompt by prompt, and the numbers of each choice of layers.
    """
    chosen = replaced_together(list(model.transcoders)) if chosen is None else chosen
    clean: list[Tensor] = []
    found: dict[Which, list[tuple[Tensor, Tensor, Tensor]]] = {which: [] for which in chosen}
    worst = dict.fromkeys(chosen, 0.0)
    for start in range(0, len(tokens), batch_size):
        part = slice(start, start + batch_size)
        prompts, masks = tokens[part], {block: mask[part] for block, mask in kept.items()}
        logits = model.hooks.run(prompts, {})
        own = NextToken(logits, prompts)
        clean.append(own.cross_entropy.double().sum(-1))
        for which in chosen:
            sites = model.sites(prompts, which[0], errors=which[1], kept=masks)
            changed = run_replaced(model.hooks, prompts, sites).logits
            ce, kl = (values.double().sum(-1) for values in own.compare(changed))
            # [batch, pos]: the last token's prediction is held out of all three
            agreed = (logits.argmax(-1) == changed.argmax(-1))[:, :-1].double().sum(-1)
            found[which].append((ce, kl, agreed))
            off = (changed - logits).abs().max() / logits.float().square().mean().sqrt()
            worst[which] = max(worst[which], off.item())
    return to_digits(torch.cat(clean).tolist()), list(_records(found, worst))


def _records(
    found: Mapping[Which, list[tuple[Tensor, Tensor, Tensor]]], worst: Mapping[Which, float]
) -> Iterator[ReplacedNumbers]:
    for (blocks, errors), parts in found.items():
        ce, kl, agreed = (to_digits(torch.cat(of).tolist()) for of in zip(*parts, strict=True))
        yield ReplacedNumbers(
            blocks=list(blocks), errors=errors, ce=ce, kl=kl, agreed=agreed, logits_error=worst[blocks, errors]
        )
