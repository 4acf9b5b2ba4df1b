"""The replacement model: a language model whose layers transcoders replace, any set of them at once."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from faithfulness_plugin.display import line
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.plan import say_blocks
from faithfulness_plugin.language_model.widths import require_widths
from faithfulness_plugin.layers.declared_hooks import declared_hooks
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.replaced_layer import layer_of
from faithfulness_plugin.layers.spliced import Seen, Site, run_replaced, with_errors
from faithfulness_plugin.store.kept_rows import kept_rows
from faithfulness_plugin.store.left_out import LeftOut

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE


class ReplacementModel:
    """Runs a model with transcoders in the place of its layers, with or without error nodes.

    Tokens that are left out are the layers' own, as they are in training. A run with error nodes (e = f(x) - t(x), from
    the model's run on the same prompts) has the model's logits, up to rounding.

    Args:
        hooks: the model's.
        layers: the layers that are replaced, by block.
        transcoders: by block, in `eval` mode.
        exclude: token ids or a `LeftOut`: the tokens that are the layers' own. None leaves out none.

    Raises:
        UsageError: a block without a layer; a transcoder of another width than its layer.

    Blocks with parallel attention and MLP (Pythia, GPT-J, Phi) are replaced like all others. Their MLP reads what their
    attention reads: what a transcoder writes there reaches the next block, and not the attention of its own.
    """

    def __init__(
        self,
        hooks: Hooks,
        layers: Mapping[int, HookedLayer],
        transcoders: "Mapping[int, SAE[Any]]",
        exclude: Tensor | LeftOut | None = None,
    ) -> None:
        if missing := [block for block in transcoders if block not in layers]:
            raise UsageError(f"there is no layer for the transcoder of {say_blocks(missing)}: pass it among the layers")
        self.hooks, self.layers, self.exclude = hooks, dict(layers), exclude
        self.transcoders = dict(sorted(transcoders.items()))
        for block, transcoder in self.transcoders.items():
            require_widths(hooks, layers[block], {f"the transcoder of block {block}": transcoder})

    @classmethod
    def of(
        cls, hooks: Hooks, transcoders: "Sequence[SAE[Any]]", exclude: Tensor | LeftOut | None = None
    ) -> "ReplacementModel":
        """Build one from transcoders whose files say which layers they replace.

        Args:
            hooks: the model's.
            transcoders: one for each layer, in `eval` mode.
            exclude: as in the class.

        Returns:
            The replacement model.

        Raises:
            UsageError: two transcoders of one block, one that names none, a layer that the model does not have, or
                another width.
        """
        by_block = blocks_of({f"transcoder {n}": transcoder for n, transcoder in enumerate(transcoders)})
        layers = {block: layer_of(hooks, [transcoder]) for block, (_, transcoder) in by_block.items()}
        return cls(hooks, layers, {block: transcoder for block, (_, transcoder) in by_block.items()}, exclude)

    def __repr__(self) -> str:
        return line("ReplacementModel", {"blocks": list(self.transcoders), "hooks": self.hooks})

    @torch.no_grad()
    def kept(self, tokens: Int[Tensor, "prompts pos"]) -> dict[int, Bool[Tensor, "prompts pos"]]:
        """Find the tokens at which transcoders stand in their layers' places.

        Args:
            tokens: the prompts.

        Returns:
            Masks by block.

        Raises:
            UsageError: prompts that the model cannot be run on, or of which nothing is left.
        """
        return {
            block: kept_rows(self.hooks, self.layers[block], tokens, self.exclude).mask for block in self.transcoders
        }

    @torch.no_grad()
    def sites(
        self,
        tokens: Int[Tensor, "prompts pos"],
        blocks: Collection[int] | None = None,
        *,
        errors: bool = False,
        kept: Mapping[int, Bool[Tensor, "prompts pos"]] | None = None,
    ) -> list[Site]:
        """List what a run on prompts replaces, for `run_replaced` and changes of it.

        Args:
            tokens: the prompts.
            blocks: those whose layers are replaced; None for all that have a transcoder.
            errors: whether error nodes are added, which takes a run of the model.
            kept: what `kept` gives; None to compute it.

        Returns:
            The layers in the order of the blocks.

        Raises:
            UsageError: a block without a transcoder; as `kept`.
        """
        wanted = set(self.transcoders if blocks is None else blocks)
        if missing := sorted(wanted - set(self.transcoders)):
            raise UsageError(f"{say_blocks(missing)}: the set has transcoders of {say_blocks(list(self.transcoders))}")
        kept = self.kept(tokens) if kept is None else kept
        found = [Site(self.layers[b], kept[b], t) for b, t in self.transcoders.items() if b in wanted]
        return with_errors(self.hooks, tokens, found) if errors and found else found

    @torch.no_grad()
    def run(
        self,
        tokens: Int[Tensor, "prompts pos"],
        blocks: Collection[int] | None = None,
        *,
        errors: bool = False,
        stages: Sequence[str] = (),
    ) -> Seen:
        """Run the model with layers replaced.

        Args:
            tokens: the prompts.
            blocks: those whose layers are replaced; None for all that have a transcoder.
            errors: whether error nodes are added.
            stages: hooks whose activations are wanted.

        Returns:
            The logits and the activations at `stages`.

        Raises:
            UsageError: as `sites`.
        """
        return run_replaced(self.hooks, tokens, self.sites(tokens, blocks, errors=errors), stages=stages)


def blocks_of(transcoders: "Mapping[str, SAE[Any]]") -> "dict[int, tuple[str, SAE[Any]]]":
    """Sort transcoders by the blocks that their files name.

    Args:
        transcoders: by the name that messages call them.

    Returns:
        Name and transcoder by block, in the order of the blocks.

    Raises:
        UsageError: one that names no block, or two of one block.
    """
    found: dict[int, tuple[str, SAE[Any]]] = {}
    for name, transcoder in transcoders.items():
        if (block := declared_hooks(transcoder).block) is None:
            raise UsageError(f"{name} does not say which layer it replaces: a set needs that of each transcoder")
        if block in found:
            raise UsageError(
                f"{name} and {found[block][0]} are both of block {block}: a set has one transcoder for each layer"
            )
        found[block] = name, transcoder
    return dict(sorted(found.items()))
