"""Scores features of a real layer's transcoders where a passage was repeated in training, and where it was not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.util import get_special_token_ids
from torch import Tensor

from faithfulness_plugin.benchmarks.inspection.cost import measured
from faithfulness_plugin.benchmarks.inspection.schema import PassageConfig, PassageResult, PassageScored
from faithfulness_plugin.benchmarks.inspection.subjects import Subject, text_subject
from faithfulness_plugin.benchmarks.inspection.toy import area_under_curve
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.inspection.records import feature_records
from faithfulness_plugin.metrics.passage_memorization import RARE, passage_memorization
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, ResultError, processor, read_result, write_text
from faithfulness_plugin.transcoders.load import load_transcoder


def open_passage(out: Path, config: PassageConfig, *, overwrite: bool = False) -> PassageResult:
    """The result that stands in `out`, to be completed, or an empty one.

    Raises ResultError as `begin_or_go_on`, and for transcoders that were not trained with a repeated passage."""
    trained = _trained(config)
    if trained.config.passage is None or not any(of.repeated for of in trained.trained):
        raise ResultError(f"{config.transcoders} holds no transcoder that was trained with a repeated passage")
    fresh = PassageResult(
        complete=False,
        environment=Environment.here(packages=("transformers", "plotly", "itables")),
        model=trained.model,
        processor=processor(),
        config=config,
        scored=[],
        measured=None,
    )
    return begin_or_go_on(out, fresh, overwrite=overwrite)


def complete_passage(
    result: PassageResult,
    out: Path,
    *,
    note: Callable[[str], None] = lambda _: None,
    on_scored: Callable[[PassageScored], None] = lambda _: None,
) -> PassageResult:
    """Measures what is missing; the file in `out` holds what is done."""
    config, trained = result.config, _trained(result.config)
    folder = Path(config.transcoders) / TRANSCODERS
    done = {of.name for of in result.scored}
    missing = [of for of in trained.trained if of.run.folder not in done]
    if result.measured is None:
        note("looking at one of them, as a user would")
        cost = measured(folder / trained.trained[0].run.folder, trained, config)
        result = result.model_copy(update={"measured": cost})
        write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
    if missing:
        passage = Passage(trained, config, note)
        for of in missing:
            scored = passage.score(load_transcoder(folder / of.run.folder).eval(), of)
            result = result.model_copy(update={"scored": [*result.scored, scored], "complete": of is missing[-1]})
            write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
            on_scored(scored)
    return result


class Passage:
    """Text with the passage in it, at the layer that the transcoders replace."""

    def __init__(self, trained: RealLayersResult, config: PassageConfig, note: Callable[[str], None]) -> None:
        assert trained.config.passage is not None
        self.text, (self.block, *_) = trained.config.passage.text, trained.config.passage.blocks
        self.context_size = trained.config.context_size
        self.n_passages = 0
        self.subject: Subject = text_subject(
            trained.config.model,
            trained.config.text,
            [],
            block=self.block,
            n_tokens=config.tokens,
            context_size=self.context_size,
            seed=trained.config.seed,
            device="cpu",
            memory=config.memory,
            rows=trained.config.rows,
            more=lambda tokenizer: self._prompts(tokenizer, config),
            note=note,
        )
        sample = self.subject.sample
        assert sample.origins is not None
        self.at_passage = sample.origins.prompt >= len(sample.origins.tokens) - self.n_passages

    def _prompts(self, tokenizer: Any, config: PassageConfig) -> Tensor:
        """The passage alone in a prompt, as it was trained on, again and again; filled up with tokens that are left
        out."""
        ids = tokenizer(self.text, add_special_tokens=False)["input_ids"]
        special = get_special_token_ids(tokenizer)
        n_rows = sum(token not in special for token in ids)
        self.n_passages = max(2, round(config.tokens * config.share / (1 - config.share) / n_rows))
        whole = [tokenizer.bos_token_id, *ids]
        prompt = [*whole, *[tokenizer.bos_token_id] * (self.context_size - len(whole))]
        return torch.tensor([prompt]).repeat(self.n_passages, 1)

    def score(self, transcoder: Any, of: Any) -> PassageScored:
        """One transcoder's features."""
        sample = self.subject.sample
        records = feature_records(transcoder, sample)
        once = sample.x[self.at_passage][: int(self.at_passage.sum()) // self.n_passages]
        truth = passage_memorization(transcoder, self.subject.layer, once, sample.x[~self.at_passage])
        own = np.zeros(records.d_sae, dtype=bool)
        pairs = zip(truth.features, truth.rate_elsewhere, strict=True)
        own[[feature for feature, rate in pairs if rate <= RARE]] = True
        live, score = ~records.dead, records.datapoint.score
        first = np.argsort(-score, kind="stable")[: int(own.sum())]
        return PassageScored(
            name=of.run.folder,
            matched=of.arm.name,
            repeated=of.repeated,
            seed=of.seed,
            fvu=records.fvu,
            own=int(own.sum()),
            live=int(live.sum()),
            flagged=int(records.flagged.sum()),
            auc=area_under_curve(score[live], own[live]),
            auc_concentration=area_under_curve(records.datapoint.concentration[live], own[live]),
            own_in_first=int(own[first].sum()) if own.any() else None,
            largest=float(score[own].max() if own.any() else score.max()),
            share=truth.share,
        )


def _trained(config: PassageConfig) -> RealLayersResult:
    return read_result(Path(config.transcoders) / RESULT_FILENAME, RealLayersResult)
