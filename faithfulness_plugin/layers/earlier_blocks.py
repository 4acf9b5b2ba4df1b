"""Runs of a model that begin at a block: what the blocks before it put out is kept for each batch of tokens."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from faithfulness_plugin.layers.comparison import same_values
from faithfulness_plugin.layers.declared_hooks import block_of


class EarlierBlocks:
    """Keeps what the blocks before one put out, from the first run on some tokens to all later ones.

    Args:
        blocks: the first ones of the model, in the order in which a run passes them.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.blocks = list(blocks)
        self._kept: dict[tuple[tuple[int, ...], bytes], Any] = {}

    @contextmanager
    def on(self, tokens: Tensor, names: Iterable[str] = ()) -> Iterator[None]:
        """Pass the blocks over in a run of this thread on tokens that were run on before; on others, keep what they put
        out.

        Args:
            tokens: what the model is run on.
            names: tensors that the run has hooks at. It is left whole where one of them may be in these blocks, and on
                prompts of one token, by which layers are run as functions of rows, in forward mode as well.

        Yields:
            Nothing.
        """
        if tokens.shape[1] == 1 or any(
            (number := block_of(name)) is None or number < len(self.blocks) for name in names
        ):
            yield
            return
        key = tuple(tokens.shape), tokens.cpu().numpy().tobytes()
        if key in self._kept:
            with _passed_over(self.blocks, self._kept[key]):
                yield
            return
        here = threading.get_ident()

        def keep(module: nn.Module, args: object, output: object) -> None:
            if threading.get_ident() == here:
                self._kept[key] = _copied(output)

        handle = self.blocks[-1].register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()


def agreeing(blocks: Sequence[nn.Module], run: Callable[[EarlierBlocks | None], Tensor]) -> EarlierBlocks | None:
    """Find out whether a run that begins behind some blocks is a whole one to the bit.

    It is not where later blocks read more of earlier ones than what the last of them puts out, such as a shared cache.

    Args:
        blocks: those before the block at which runs are to begin.
        run: returns the logits on some tokens, the same whenever it is called.

    Returns:
        What passes the blocks over; None where logits differ, or there is no such block.
    """
    if not blocks:
        return None
    with suppress(Exception):  # whatever a model makes of blocks that did not run: it is then run as a whole
        earlier = EarlierBlocks(blocks)
        whole, first, later = run(None), run(earlier), run(earlier)
        if earlier._kept and same_values(first, whole) and same_values(later, whole):
            return EarlierBlocks(blocks)
    return None


@contextmanager
def _passed_over(blocks: Sequence[nn.Module], output: object) -> Iterator[None]:
    """Let blocks put out what the last of them did, in this thread."""
    here = threading.get_ident()
    own = [vars(block).get("forward") for block in blocks]  # a library may have put one there

    def standing_in(forward: Callable[..., Any]) -> Callable[..., Any]:
        def put_out(*args: Any, **named: Any) -> Any:
            # a copy: the next block may add to it in place
            return _copied(output) if threading.get_ident() == here else forward(*args, **named)

        return put_out

    for block in blocks:  # into the dictionary itself: a bridge's blocks pass on what is set to the blocks inside them
        vars(block)["forward"] = standing_in(block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                del vars(block)["forward"]
            else:
                vars(block)["forward"] = forward


def _copied(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach().clone()
    return tuple(map(_copied, output)) if isinstance(output, tuple) else output
