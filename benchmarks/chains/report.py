"""Tables and sentences of the second track, from its result."""

from collections.abc import Sequence

import numpy as np

from faithfulness_plugin.benchmarks.chains.methods import KINDS
from faithfulness_plugin.benchmarks.chains.schema import ChainScores, ChainsResult
from faithfulness_plugin.benchmarks.chains.tasks import CHAINS, chain_task
from faithfulness_plugin.benchmarks.suite.at_layer_l0 import at_layer_l0, seed_scores
from faithfulness_plugin.benchmarks.suite.compare import difference
from faithfulness_plugin.benchmarks.suite.report import failures
from faithfulness_plugin.results.intervals import RANGE
from faithfulness_plugin.results.tables import Table

SHOWN = {
    "hops_kept": "hops kept",
    "edge_precision": "edges, precision",
    "edge_recall": "edges, recall",
    "fvu": "FVU",
    "fvu_last": "FVU, last layer",
}
"""The scores that tables show at the chain's L0, with their columns' titles."""
SPARSER = 0.75
"""The share of the chain's L0 at which scores are read once more: what a penalty rewards beyond the chain itself."""
REWRITTEN, KEPT = 0.3, 0.9
"""Fewer hops kept than the one say that a circuit is rewritten, more than the other that it is kept."""


def tables(result: ChainsResult) -> str:
    """Format each chain's scores at its own L0, and what failed.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    shown = [task_table(result, name) for name in result.config.tasks if any(t.task == name for t in result.trials)]
    return "\n".join([*(t.render("markdown") for t in shown), *(f"{line}\n" for line in failures(result.trials))])


def page(result: ChainsResult) -> str:
    """Write the leaderboard: sentences, the scores at each chain's own L0, and those along the sweeps.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    parts = [
        "# Cross-layer transcoders: which hops are kept",
        f"{len(result.methods)} methods at {len(result.config.tasks)} chains, {len(result.seeds)} seeds of a frozen "
        f"list, {len(result.trials):,} trials of {result.config.n_steps:,} steps "
        f"({sum(trial.seconds for trial in result.trials) / 60:.0f} minutes of one core). What chains and scores are, "
        "and how to add a method: [docs/cross-layer.md](../../../../docs/cross-layer.md#the-benchmarks-second-track).",
        overview(result),
    ]
    for name in result.config.tasks:
        parts += [f"## {chain_task(name).title}", chain_task(name).summary]
        found = [of(result, name, share) for share in (1.0, SPARSER) for of in (task_table, gains_table)]
        found.append(sweep_table(result, name))
        parts += [table.render("markdown").strip() for table in found]
    return "\n\n".join(parts) + "\n"


def overview(result: ChainsResult) -> str:
    """Format the headlines with sentences, for the docs.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    shown = [headlines(result, share).render("markdown").strip() for share in (1.0, SPARSER)]
    return "\n\n".join([*shown, words(result)])


def tasks_table() -> Table:
    """Format all chains.

    Returns:
        The table.
    """
    rows = [[name, task.title, f"{task.l0:.2f}", task.summary] for name, task in ((n, chain_task(n)) for n in CHAINS)]
    return Table(["chain", "title", "its L0", "what it is"], rows, "L0: units of all layers, a row without points.")


def at_share(result: ChainsResult, share: float) -> ChainsResult:
    """Copy a result whose sweeps are read where they pass a share of the chains' L0.

    Args:
        result: complete or partial.
        share: of the chains' own L0.

    Returns:
        The copy.
    """
    return result.model_copy(update={"layer_l0": {name: share * l0 for name, l0 in result.layer_l0.items()}})


def task_table(result: ChainsResult, name: str, share: float = 1.0) -> Table:
    """Format the scores of all methods at one chain, at a share of its own L0.

    Args:
        result: complete or partial.
        name: the task's.
        share: of the chain's L0.

    Returns:
        The table.
    """
    rows, read = [], at_share(result, share)
    for method in result.methods:
        found = at_layer_l0(read, name, method.name)
        rows.append([method.name, found.seeds, *(found.cell(score) for score in SHOWN)])
    partial = "" if result.complete else " PARTIAL result."
    caption = (
        f"{chain_task(name).title}: scores at {_place(share)} ({read.layer_l0[name]:.2f} of all layers together), "
        "interpolated in each seed's sweep, or of a transcoder within 5 % of it, whichever has the lower FVU; mean and "
        f"95 % interval over the seeds that reach it (Student's t), {RANGE}.{partial} Where fewer than half do, the "
        "nearest L0 and the hops kept there."
    )
    return Table(["method", "seeds there", *SHOWN.values()], rows, caption)


def sweep_table(result: ChainsResult, name: str) -> Table:
    """Format the means over seeds along the sweep of each method.

    Args:
        result: complete or partial.
        name: the task's.

    Returns:
        The table.
    """
    strengths = sorted({strength for method in result.methods for strength in method.strengths})
    rows = []
    for method in result.methods:
        of = {s: [t.scores for t in result.scored(name, method.name) if t.strength == s] for s in strengths}
        rows.append([method.name, *(_means(scores) for scores in of.values())])
    caption = f"{chain_task(name).title}, along the sweep: hops kept (L0; FVU), means over seeds."
    return Table(["method", *(f"strength {s:g}" for s in strengths)], rows, caption)


def headlines(result: ChainsResult, share: float = 1.0) -> Table:
    """Format hops kept and FVU of all methods at all chains.

    Args:
        result: complete or partial.
        share: of the chains' own L0, at which they are read.

    Returns:
        The table.
    """
    read = at_share(result, share)
    rows = [
        [method.name, *(_headline(read, task, method.name) for task in result.config.tasks)]
        for method in result.methods
    ]
    caption = (
        f"Hops kept, and FVU in brackets, at {_place(share)}: means over the seeds that reach it, of "
        f"{len(result.seeds)}; a dash where fewer than half do."
    )
    return Table(["method", *result.config.tasks], rows, caption)


def gains_table(result: ChainsResult, task: str, share: float = 1.0) -> Table:
    """Format what each term changes, beside the same kind without a term.

    Args:
        result: complete or partial.
        task: the task's name.
        share: of the chain's own L0, at which scores are read.

    Returns:
        The table.
    """
    rows, read = [], at_share(result, share)
    for method in result.methods:
        kind, _, term = method.name.rpartition("-")
        rival = f"{kind}-none"
        if term != "none" and rival in result.config.methods:
            n, scores = difference({method.name: read, rival: read}, task, method.name, rival)
            rows.append([method.name, rival, str(n), *(scores.get(score) for score in SHOWN)])
    caption = (
        f"{chain_task(task).title}, at {_place(share)}: differences to the same kind without a term, paired by seed, "
        f"mean and 95 % interval, {RANGE}; a dash where fewer than two seeds of both are there."
    )
    return Table(["method", "less", "seeds", *SHOWN.values()], rows, caption)


def words(result: ChainsResult) -> str:
    """Say in how many seeds circuits are rewritten, and in how many they are kept, without a term.

    Args:
        result: complete or partial.

    Returns:
        Markdown, a list.
    """
    lines = []
    for name in result.config.tasks:
        for share in (1.0, SPARSER):
            read = at_share(result, share)
            counts = filter(None, (_count(read, name, f"{kind}-none") for kind in KINDS))
            lines.append(f"- {chain_task(name).title}, at {_place(share)}: {'; '.join(counts)}.")
    return "\n".join(lines)


def _headline(read: ChainsResult, task: str, method: str) -> str | None:
    scores = at_layer_l0(read, task, method).scores
    return f"{scores['hops_kept'].mean:.2f} ({scores['fvu'].mean:.3f})" if scores else None


def _place(share: float) -> str:
    return "the chain's own L0" if share == 1 else f"{share:g} of the chain's own L0"


def _count(result: ChainsResult, task: str, method: str) -> str:
    """Say in how many seeds a method keeps less than .3 or more than .9 of the hops."""
    each = [seed_scores(result, task, method, seed) for seed in result.seeds if result.scored(task, method, seed)]
    kept = [scores["hops_kept"] for scores in each if scores is not None]
    if not kept:
        return f"no seed of {method} is there" if each else ""
    few, many = sum(k < REWRITTEN for k in kept), sum(k > KEPT for k in kept)
    return (
        f"{method} keeps {np.mean(kept):.2f} of the hops (below {REWRITTEN:g} in {few}, above {KEPT:g} in {many} of "
        f"{len(kept)} seeds)"
    )


def _means(scores: Sequence[ChainScores | None]) -> str | None:
    found = [s for s in scores if s is not None]
    if not found:
        return None
    kept, l0, fvu = (float(np.mean([getattr(s, name) for s in found])) for name in ("hops_kept", "l0", "fvu"))
    return f"{kept:.2f} ({l0:.2f}; {fvu:.3f})"
