"""Tables of the inspection's results, from the results alone."""

import numpy as np

from faithfulness_plugin.benchmarks.inspection.schema import CONDITIONS, PassageResult, Scored, ToyScoresResult
from faithfulness_plugin.benchmarks.inspection.toy import area_under_curve
from faithfulness_plugin.results.intervals import FEW, RANGE, interval, share
from faithfulness_plugin.results.markdown import interval_text, markdown_table, share_text
from faithfulness_plugin.results.schema import Share


def toy_table(result: ToyScoresResult) -> str:
    """One condition a row, and what the score is worth over all of them."""
    rows = []
    for condition in CONDITIONS:
        of = [each for each in result.scored if each.condition == condition]
        if not of:
            continue
        there = [each for each in of if each.true]
        first = share(sum(each.first in each.true for each in there), len(there)) if there else None
        none = share(sum(not set(each.flagged) - set(each.true) for each in of), len(of))
        found = share(sum(set(each.true) <= set(each.flagged) for each in there), len(there)) if there else None
        others = [score for each in of for feature, score in each.scores.items() if feature not in each.true]
        rows.append(
            [
                condition,
                f"{len(there)} of {len(of)}",
                _share(first),
                _share(found),
                _share(none),
                f"{min(each.scores[f] for each in there for f in each.true):.2f}" if there else "—",
                f"{max(others):.2f}",
            ]
        )
    header = [
        "condition",
        "seeds with a datapoint feature",
        "of these: ranked first",
        "flagged",
        "of all: nothing else flagged",
        "least score of one",
        "largest of another feature",
    ]
    c, auc = result.config, curve(result.scored)
    caption = (
        f"y = |x|, d_in 16, d_sae 64, {c.n_seeds} seeds a condition, {c.n_steps:,} steps; features looked at on "
        f"{c.n_rows:,} rows of another seed. A datapoint feature: its m_i at p is above {c.truth:g} of the maximum. "
        f"Flagged: a score of {result.flag:g} or more. Shares with 95 % Wilson intervals. Area under the ROC curve "
        f"over the features of all seeds: {auc:.4f}."
    )
    return f"{markdown_table(header, rows)}\n\n{caption}\n"


def curve(scored: list[Scored]) -> float:
    """The area over the live features of all transcoders together."""
    pairs = [(score, feature in of.true) for of in scored for feature, score in of.scores.items()]
    scores, true = zip(*pairs, strict=True)
    area = area_under_curve(np.array(scores), np.array(true))
    return float("nan") if area is None else area


def passage_table(result: PassageResult) -> str:
    """Transcoders of a kind a row, means over seeds."""
    kinds = dict.fromkeys((of.repeated, of.matched) for of in result.scored)
    rows = []
    for repeated, matched in kinds:
        of = [each for each in result.scored if (each.repeated, each.matched) == (repeated, matched)]
        rows.append(
            [
                f"{'passage repeated' if repeated else 'not repeated'}, {matched}",
                _mean([each.own for each in of], 1),
                _mean([each.share for each in of], 3),
                _mean([each.auc for each in of if each.auc is not None], 3),
                _mean([each.auc_concentration for each in of if each.auc_concentration is not None], 3),
                _mean([each.own_in_first / each.own for each in of if each.own_in_first is not None], 2),
                _mean([each.largest for each in of], 3),
                _mean([each.flagged for each in of], 1),
            ]
        )
    header = [
        "transcoder",
        "own features",
        "share of the output",
        "AUC, score",
        "AUC, concentration",
        "own among as many first",
        "largest score of one",
        "flagged",
    ]
    seeds = len({of.seed for of in result.scored})
    few = f", {RANGE}" if seeds < FEW else ""
    caption = (
        f"{result.model}; {result.config.tokens:,} tokens of text and the passage as "
        f"{100 * result.config.share:g} % of the rows; {seeds} seeds, mean ± 95 % interval (Student's t){few}. Own "
        "features fire at the passage and on 0.1 % of other rows at most; AUC: over the features that fire."
    )
    return f"{markdown_table(header, rows)}\n\n{caption}\n"


def cost_table(result: PassageResult) -> str:
    """What looking at one transcoder costs."""
    m = result.measured
    if m is None:
        return ""
    names = {
        "the whole command": f"{m.seconds:.0f} s",
        "peak memory (model and transcoder included)": f"{m.peak:.1f} GiB (--memory {m.memory:g})",
        "page": f"{m.page_megabytes:.1f} MB",
        "page opened, until it answers": _seconds(m.load),
        "table and a feature's details": _seconds(m.table),
        "sorting": _seconds(m.sort),
    }
    caption = (
        f"{m.d_sae:,} features, {m.tokens:,} tokens, {m.threads} thread{'s' * (m.threads > 1)} of {result.processor}; "
        "Chromium, headless."
    )
    return f"{markdown_table(['what', 'measured'], [list(pair) for pair in names.items()])}\n\n{caption}\n"


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f} s"


def _share(of: Share | None) -> str:
    return "—" if of is None else share_text(of)


def _mean(values: list[float] | list[int], digits: int) -> str:
    return interval_text(interval(values), digits) if values else "—"
