"""Find the tensors of a model that a transcoder reads and writes, by how well it maps one to the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool
from torch import Tensor

from faithfulness_plugin.display import short_repr
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.language_model.rows import say_rows
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.declared_hooks import block_of, declared_hooks
from faithfulness_plugin.layers.hooks import Hooks, Tokens
from faithfulness_plugin.layers.replaced_layer import pair_of
from faithfulness_plugin.measure.ranked_pairs import CLEARLY, Ranking, ranked_pairs, what_to_pass
from faithfulness_plugin.results.markdown import markdown_table

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

SHOWN = 12
NEAR_THE_MLP = ("hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in", "mlp.hook_out", "hook_mlp_out")
"""The tensors of a block that a search through all blocks looks at."""


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

    __repr__ = short_repr

    def verdict(self) -> str:
        """Say whether the declared pair is the best one, and what to pass where it is not.

        Returns:
            One or two sentences.
        """
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

    def table(self) -> str:
        """Format the best pairs, and the declared one.

        Returns:
            A Markdown table.
        """
        rows = []
        for place, pair in enumerate(self.pairs):
            if place < SHOWN or pair.compared:
                marks = ["declared"] * pair.compared + ["autoencoder's"] * pair.autoencoder
                numbers = [f"{pair.fvu:.3g}", f"{pair.l0:.1f}", f"{pair.norm_in:.3g}", f"{pair.norm_out:.3g}"]
                names = [_together(pair.hook_in), _together(pair.hook_out)]
                rows.append([str(place + 1), *names, *numbers, ", ".join(marks)])
        l0 = "L0" if self.declared_l0 is None else f"L0 (declared: {self.declared_l0:.1f})"
        table = markdown_table(["", "reads", "writes", "FVU", l0, "norm read", "norm written", ""], rows)
        left = len(self.pairs) - len(rows)
        return table + (f"\n{left} more pairs, with higher FVU, are left out (--json has all).\n" if left else "")

    def to_dict(self) -> dict[str, Any]:
        """Convert all pairs and the verdict for JSON.

        Returns:
            Fields by name.
        """
        same_names = ("hook_in", "hook_out", "fvu", "l0", "norm_in", "norm_out")
        pairs = [
            {name: getattr(pair, name) for name in same_names}
            | {
                "rows_for_half": None if pair.spread is None else pair.spread.rows_for_half,
                "declared": pair.compared,
                "autoencoder": pair.autoencoder,
            }
            for pair in self.pairs
        ]
        return {
            "declared": self.declared,
            "declared_l0": self.declared_l0,
            "rows": self.n_rows,
            "clearly_another": self.clearly_another,
            "verdict": self.verdict(),
            "pairs": pairs,
        }


def _together(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (also {', '.join(names[1:])})"


def hook_candidates(
    model: Any,
    transcoder: "SAE[Any]",
    tokens: Tokens,
    *,
    layer: int | None = None,
    hook_in: str | None = None,
    hook_out: str | None = None,
    kept: Bool[Tensor, "batch pos"] | None = None,
    norms_above: float | None = None,
) -> HookCandidates:
    """Measure a transcoder at every pair of tensors around a block, in one run of the model over a few prompts.

    FVU = ||t(x) - y||^2 / ||y - E y||^2 for each tensor x as wide as the transcoder's input and each y as wide as its
    output that the model passes later; x = y is what an autoencoder is trained on. Equal tensors are one, under all of
    their names. t(x) is computed once for each distinct x.

    Args:
        model: a TransformerBridge, a HookedTransformer or a plain Hugging Face model.
        transcoder: any SAELens transcoder, in `eval` mode.
        tokens: a few prompts.
        layer: the block; None takes the one that the file names. If it names none, all blocks are searched, at the
            tensors around their MLPs.
        hook_in: the tensor read by the pair to compare with the others; None takes the declared one.
        hook_out: the tensor written by it, likewise.
        kept: the tokens that are looked at; None keeps all.
        norms_above: leaves out rows whose norm is above this factor times the median at any of the tensors that are
            compared. Attention sinks are such rows, and an FVU that counts them says little of the others. None keeps
            all.

    Returns:
        All pairs, the lowest FVU first, beside what the file says.

    Raises:
        UsageError: a missing block or hook; no tensors have the transcoder's widths.
    """
    hooks, declared = hooks_of(model), declared_hooks(transcoder)
    compared: tuple[str, str] | None = None
    unknown: str | None = None
    asked = {"hook_in": hook_in, "hook_out": hook_out}
    for name in filter(None, asked.values()):
        hooks.require(name)
    if any((*asked.values(), declared.hook_in)) or declared.block is not None or layer is not None:
        try:
            compared = pair_of(hooks, [transcoder], layer=layer, **asked, anyway=True)[:2]
        except ValueError as error:
            if layer is not None and declared.block not in (None, layer):
                raise
            unknown = str(error).rstrip(".")
            unknown = unknown[:1].upper() + unknown[1:]
    read_in = block_of(compared[0]) if compared else None
    block = next((b for b in (layer, read_in, declared.block) if b is not None), None)
    if block is None:
        blocks = [[name for name in names if name.endswith(NEAR_THE_MLP)] for names in _every_block(hooks)]
    else:
        blocks = [hooks.block_tensors(block)]
    if compared is not None:
        blocks[0] = [*dict.fromkeys([*blocks[0], *(name for name in compared if block_of(name) == block)])]
    found = ranked_pairs(hooks, transcoder, tokens, blocks, compared=compared, kept=kept, norms_above=norms_above)
    l0 = getattr(transcoder.cfg.metadata, "l0", None)
    return HookCandidates(
        **vars(found),
        declared=compared,
        declared_l0=None if l0 is None else float(l0),
        unknown=unknown,
        block=block,
        asked=any(asked.values()),
    )


def _every_block(hooks: Hooks) -> list[list[str]]:
    """Return the tensors of each block; none for a block without an MLP, in a model that mixes both."""
    found: list[list[str]] = []
    while True:
        try:
            found.append(hooks.block_tensors(len(found)))
        except ValueError as error:
            if "there is no block" in str(error):
                return found
            found.append([])


def candidates_on_text(source: LoadedModel, transcoder: "SAE[Any]", n_prompts: int, **asked: Any) -> HookCandidates:
    """Measure a transcoder at the tensors of its model, on prompts of a text, and say which rows count.

    Args:
        source: the model, with its text.
        transcoder: any SAELens transcoder, in `eval` mode.
        n_prompts: how many.
        asked: `layer`, `hook_in` and `hook_out` of `hook_candidates`.

    Returns:
        As `hook_candidates`.

    Raises:
        UsageError: as `hook_candidates`; no row is left.
    """
    tokens, rule = source.prompts(n_prompts, least=1), source.exclude
    kept = rule.places(tokens)
    counts = rule.counts(kept)
    if not counts.rows:
        raise UsageError(f"no row is left to look at ({counts}): leave out less, or give longer prompts")
    on_device, norms_above = tokens.to(source.hooks.device), rule.norms_above
    found = hook_candidates(source.hooks, transcoder, on_device, kept=kept, norms_above=norms_above, **asked)
    say_rows("rows", replace(counts, norms=counts.rows - found.n_rows), None)
    for pair in dict.fromkeys(pair for pair in (found.compared, found.best) if pair is not None):
        say_rows(f"rows at {pair.hook_out[0]}", None, pair.spread)
    return found
