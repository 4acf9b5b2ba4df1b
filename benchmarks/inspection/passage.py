"""Does the datapoint score find the features of a passage that was repeated in the training of a real layer's?"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from sae_lens.util import get_special_token_ids
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.benchmarks.inspection.area_under_curve import area_under_curve
from faithfulness_plugin.benchmarks.inspection.configs import PassageConfig
from faithfulness_plugin.benchmarks.inspection.cost import InspectionCost, cost_table, inspection_cost
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult, RunRecord
from faithfulness_plugin.inspection.records import feature_records
from faithfulness_plugin.inspection.subjects import text_subject
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.metrics.passage_memorization import RARE, passage_memorization
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.intervals import FEW, RANGE, interval
from faithfulness_plugin.results.markdown import interval_text, markdown_table
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME
from faithfulness_plugin.results.schema import Environment, Record, Result, ResultError, processor, read_result
from faithfulness_plugin.transcoders.load import load_transcoder


class PassageScored(Record):
    """One transcoder of a real layer on text in which a passage is repeated."""

    name: str
    matched: str = Field(description="what it was matched with; none for no term")
    repeated: bool = Field(description="whether the passage was repeated in its training")
    seed: int
    fvu: float
    own: int = Field(description="the passage's own features: firing there, and on 0.1 % of other rows at most")
    live: int = Field(description="features that fire on the sample")
    flagged: int
    auc: float | None = Field(
        description="AUC of the score for own features among live ones; None where there are none"
    )
    auc_concentration: float | None = Field(description="AUC of the concentration alone")
    own_in_first: int | None = Field(
        description="own features among the first ones by score, as many as there are own ones"
    )
    largest: float = Field(description="the largest score of an own feature, or of any where there is none")
    share: float = Field(description="share of the passage's output that its own features carry")
    auc_unfaithful: float | None = Field(
        default=None, exclude_if=lambda value: value is None, description="AUC of 1 - faithfulness"
    )
    auc_unbacked: float | None = Field(
        default=None, exclude_if=lambda value: value is None, description="AUC of carried * (1 - faithfulness)"
    )
    auc_moves: float | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="AUC of the share of the Jacobian alone, the smallest first: what it gives without the output",
    )


class PassageResult(Result):
    """The score on a real layer with a repeated passage, and what inspecting costs."""

    benchmark: Literal["inspection-passage"] = "inspection-passage"
    schema_version: Literal[1] = 1
    model: str
    processor: str
    config: PassageConfig
    scored: list[PassageScored]
    measured: InspectionCost | None

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"model": self.model, **self.config.model_dump()}


class PassageScores(Experiment[PassageConfig, PassageResult]):
    """The first part is what inspecting one transcoder costs; the others are the transcoders."""

    parts = "parts"
    config_class = PassageConfig

    @override
    def fresh(self, config: PassageConfig) -> PassageResult:
        """Build the empty result. Raises ResultError for transcoders of which none was trained on a passage."""
        trained = trained_transcoders(config.transcoders)
        if trained.config.passage is None or not any(of.repeated for of in trained.trained):
            raise ResultError(f"{config.transcoders} holds no transcoder that was trained with a repeated passage")
        return PassageResult(
            complete=False,
            environment=Environment.here(packages=("transformers", "plotly")),
            model=trained.model,
            processor=processor(),
            config=config,
            scored=[],
            measured=None,
        )

    @override
    def progress(self, result: PassageResult) -> tuple[int, int]:
        total = 1 + len(trained_transcoders(result.config.transcoders).trained)
        return len(result.scored) + (result.measured is not None), total

    @override
    def run(self, result: PassageResult, running: Running) -> Iterator[tuple[PassageResult, str]]:
        config, trained = result.config, trained_transcoders(result.config.transcoders)
        folder = Path(config.transcoders) / TRANSCODERS
        if result.measured is None:
            running.note("inspecting one of them, as a user would")
            first = folder / trained.trained[0].run.folder
            cost = inspection_cost(first, trained.config, config.cost_tokens, config.memory)
            result = result.model_copy(update={"measured": cost})
            yield result, "what inspecting costs"
        done = {of.name for of in result.scored}
        missing = [of for of in trained.trained if of.run.folder not in done]
        passage = Passage(trained, config, running.note) if missing else None
        for of in missing:
            assert passage is not None
            scored = passage.score(load_transcoder(folder / of.run.folder).eval(), of)
            result = result.model_copy(update={"scored": [*result.scored, scored], "complete": of is missing[-1]})
            yield result, f"{scored.name}: AUC {scored.auc}"

    @override
    def tables(self, result: PassageResult) -> str:
        return f"{passage_table(result)}\n{cost_table(result.measured, result.processor)}"


class Passage:
    """Samples text with the passage in it, at the layer that the transcoders replace.

    Args:
        trained: the result beside the transcoders.
        config: how much text.
        note: receives a line about what is being done.
    """

    def __init__(self, trained: RealLayersResult, config: PassageConfig, note: Callable[[str], None]) -> None:
        assert trained.config.passage is not None
        self.text, (block, *_) = trained.config.passage.text, trained.config.passage.blocks
        self.context_size = trained.config.context_size
        self.n_passages = 0
        source = LoadedModel(trained.config.model_copy(update={"device": "cpu"}), note, plain=True)
        self.subject = text_subject(
            source,
            block=block,
            n_tokens=config.tokens,
            memory=config.memory,
            more=lambda tokenizer: self._prompts(tokenizer, config),
        )
        origins = self.subject.sample.origins
        assert origins is not None
        self.at_passage = origins.prompt >= len(origins.tokens) - self.n_passages

    def _prompts(self, tokenizer: Any, config: PassageConfig) -> Tensor:
        """Return the passage alone in a prompt, as it was trained on, again and again, and filled up with tokens that
        are left out."""
        ids = tokenizer(self.text, add_special_tokens=False)["input_ids"]
        special = get_special_token_ids(tokenizer)
        n_rows = sum(token not in special for token in ids)
        self.n_passages = max(2, round(config.tokens * config.share / (1 - config.share) / n_rows))
        prompt = [tokenizer.bos_token_id, *ids]
        prompt += [tokenizer.bos_token_id] * (self.context_size - len(prompt))
        return torch.tensor([prompt]).repeat(self.n_passages, 1)

    def score(self, transcoder: Any, of: RunRecord) -> PassageScored:
        """Score the features of one transcoder.

        Args:
            transcoder: in `eval` mode.
            of: what it was trained on.

        Returns:
            How well the datapoint score finds the passage's own features.
        """
        sample = self.subject.sample
        records = feature_records(transcoder, sample, layer=self.subject.layer)
        assert records.faithfulness is not None
        once = sample.x[self.at_passage][: int(self.at_passage.sum()) // self.n_passages]
        truth = passage_memorization(transcoder, self.subject.layer, once, sample.x[~self.at_passage])
        own = np.zeros(records.d_sae, dtype=bool)
        own[np.array(truth.features, dtype=int)[np.array(truth.rate_elsewhere) <= RARE]] = True
        live, score, n_own = ~records.dead, records.datapoint.score, int(own.sum())
        first = np.argsort(-score, kind="stable")[:n_own]
        return PassageScored(
            name=of.run.folder,
            matched=of.arm.name,
            repeated=of.repeated,
            seed=of.seed,
            fvu=records.fvu,
            own=n_own,
            live=int(live.sum()),
            flagged=int(records.flagged.sum()),
            auc=area_under_curve(score[live], own[live]),
            auc_concentration=area_under_curve(records.datapoint.concentration[live], own[live]),
            own_in_first=int(own[first].sum()) if n_own else None,
            largest=float(score[own].max() if n_own else score.max()),
            share=truth.share,
            auc_unfaithful=area_under_curve(
                1 - np.nan_to_num(records.faithfulness.faithfulness[live], nan=1.0), own[live]
            ),
            auc_unbacked=area_under_curve(records.unbacked[live], own[live]),
            auc_moves=area_under_curve(-records.faithfulness.moves[live], own[live]),
        )


@cache
def trained_transcoders(folder: str) -> RealLayersResult:
    """Read the result beside the transcoders.

    Args:
        folder: the result's.

    Returns:
        The result.

    Raises:
        ResultError: as `read_result`.
    """
    return read_result(Path(folder) / RESULT_FILENAME, RealLayersResult)


COLUMNS: dict[str, tuple[int, Callable[[PassageScored], float | None]]] = {
    "own features": (1, lambda of: of.own),
    "share of the output": (3, lambda of: of.share),
    "AUC, score": (3, lambda of: of.auc),
    "AUC, concentration": (3, lambda of: of.auc_concentration),
    "own among as many first": (2, lambda of: None if of.own_in_first is None else of.own_in_first / of.own),
    "largest score of one": (3, lambda of: of.largest),
    "flagged": (1, lambda of: of.flagged),
}
"""The table's columns: how many digits each shows, and the value it takes from a scored transcoder."""
FAITHFULNESS: dict[str, tuple[int, Callable[[PassageScored], float | None]]] = {
    "AUC, 1 - faithfulness": (3, lambda of: of.auc_unfaithful),
    "AUC, unbacked": (3, lambda of: of.auc_unbacked),
}
"""Further columns, of results that have them."""


def passage_table(result: PassageResult) -> str:
    """Format the transcoders of an arm a row, means over seeds.

    Args:
        result: complete or partial.

    Returns:
        Markdown.
    """
    arms: dict[str, list[PassageScored]] = {}
    for of in result.scored:
        arms.setdefault(f"{'passage repeated' if of.repeated else 'not repeated'}, {of.matched}", []).append(of)
    measured = any(of.auc_unfaithful is not None for of in result.scored)
    columns = COLUMNS | FAITHFULNESS if measured else COLUMNS
    rows = [[arm, *(_mean(map(read, of), digits) for digits, read in columns.values())] for arm, of in arms.items()]
    seeds = len({of.seed for of in result.scored})
    few, partial = f", {RANGE}" if seeds < FEW else "", "" if result.complete else "PARTIAL. "
    caption = (
        f"{partial}{result.model}; {result.config.tokens:,} tokens of text and the passage as "
        f"{100 * result.config.share:g} % of the rows; {seeds} seeds, mean ± 95 % interval (Student's t){few}. Own "
        "features fire at the passage and on 0.1 % of other rows at most; AUC: over the features that fire."
    )
    return f"{markdown_table(['transcoder', *columns], rows)}\n\n{caption}\n"


def _mean(values: Iterable[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return interval_text(interval(known), digits) if known else "—"
