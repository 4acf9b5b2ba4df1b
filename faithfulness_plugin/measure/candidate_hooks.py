"""Find the tensors of a model that a transcoder reads and writes, by how well it maps one to the other."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.declared_hooks import block_of, declared_hooks
from faithfulness_plugin.layers.hooks import Hooks, Tokens
from faithfulness_plugin.layers.replaced_layer import Pair, pair_of
from faithfulness_plugin.measure.ranked_pairs import CLEARLY, Ranking, near_the_mlp, ranked_pairs, what_to_pass


@dataclass(frozen=True)
class HookCandidates(Ranking):
    """The ranking, beside what the transcoder's file says."""

    declared: tuple[str, str] | None
    """The pair that is compared with the others: the file's, or the one that was asked for."""
    declared_l0: float | None
    """The average L0 that the file says."""
    unknown: str | None
    """Why the declared pair could not be compared."""
    block: int | None = None
    """The block that was searched; None for all."""
    asked: bool = False
    """Whether the pair that is compared was asked for."""

    def verdict(self) -> str:
        """One sentence: is the declared pair the best one, and what to pass where it is not."""
        best, compared = self.best, self.compared
        pass_this = what_to_pass(best, of_autoencoder=self.of_autoencoder)
        there = f"{best.hook_in[0]} to {best.hook_out[0]} (FVU {best.fvu:.3g})"
        called = "The pair that was asked for" if self.asked else "The declared pair"
        if best.fvu > CLEARLY:
            searched = "" if self.block is None else f" and of block {self.block}"
            if compared == best:
                return (
                    f"{called} is the best one, and fits badly: {there} leaves more than half of the variance. Is it "
                    f"trained, and of this model{searched}?"
                )
            return (
                f"No pair fits: the best one, {there}, leaves more than half of the variance. Is it of this model"
                f"{searched}?"
            )
        if compared is None:
            reason = self.unknown or "The file names no tensors"
            return f"{reason}. The best pair is {there}. {pass_this}".replace(" --hooks-anyway", "")
        if compared == best:
            return f"{called} is the best one: {there}."
        how = "clearly not the best one" if self.clearly_another else "not the best one"
        return f"{called} (FVU {compared.fvu:.3g}) is {how}: that is {there}. {pass_this}"


def hook_candidates(
    model: Any,
    transcoder: Any,
    tokens: Tokens,
    *,
    layer: int | None = None,
    hook_in: str | None = None,
    hook_out: str | None = None,
    kept: Bool[Tensor, "batch pos"] | None = None,
    norms_above: float | None = None,
) -> HookCandidates:
    """Measures a transcoder at every pair of tensors around a block, in one run of the model over a few prompts.

    FVU = ||t(x) - y||^2 / ||y - E y||^2 for each tensor x as wide as the transcoder's input and each y as wide as its
    output that the model passes later; x = y is what an autoencoder is trained on. Equal tensors are one, under all of
    their names. t(x) is computed once for each distinct x.

    Args:
        model: a TransformerBridge, a HookedTransformer or a plain Hugging Face model.
        tokens: [batch, pos].
        layer: the block; by default the one that the file names. If it names none, all blocks are searched, at the
            tensors around their MLPs.
        hook_in, hook_out: the pair to compare with the others, instead of the declared one.
        kept: the tokens that are looked at; all by default.
        norms_above: leaves out rows whose norm is above this factor times the median at any of the tensors that are
            compared. Attention sinks are such rows, and an FVU that counts them says little of the others.

    Raises ValueError for a block or hook that there is not, or where no tensors have the transcoder's widths.
    """
    hooks, declared = hooks_of(model), declared_hooks(transcoder)
    pair: Pair | None = None
    unknown: str | None = None
    asked = {"hook_in": hook_in, "hook_out": hook_out}
    for name in asked.values():
        if name is not None:
            hooks.require(name)
    if any((*asked.values(), declared.hook_in)) or declared.block is not None or layer is not None:
        try:
            pair = pair_of(hooks, [transcoder], layer=layer, **asked, anyway=True)
        except ValueError as error:
            if layer is not None and declared.block not in (None, layer):
                raise
            unknown = str(error).rstrip(".")
            unknown = unknown[:1].upper() + unknown[1:]
    block = next((b for b in (layer, block_of(pair.hook_in) if pair else None, declared.block) if b is not None), None)
    if block is not None:
        blocks = [hooks.block_tensors(block)]
    else:
        blocks = [list(near_the_mlp(names)) for names in _every_block(hooks)]
    compared = None if pair is None else (pair.hook_in, pair.hook_out)
    if compared is not None:
        blocks[0] = [*dict.fromkeys([*blocks[0], *(name for name in compared if block_of(name) == block)])]
    found = ranked_pairs(hooks, transcoder, tokens, blocks, compared=compared, kept=kept, norms_above=norms_above)
    l0 = getattr(transcoder.cfg.metadata, "l0", None)
    return HookCandidates(
        found.pairs,
        found.n_rows,
        found.of_autoencoder,
        declared=compared,
        declared_l0=None if l0 is None else float(l0),
        unknown=unknown,
        block=block,
        asked=any(asked.values()),
    )


def _every_block(hooks: Hooks) -> list[list[str]]:
    """The tensors of all blocks; of those that have an MLP, in a model that mixes them with others."""
    found: list[list[str]] = []
    while True:
        try:
            found.append(hooks.block_tensors(len(found)))
        except ValueError as error:
            if "there is no block" in str(error):
                return found
            found.append([])
