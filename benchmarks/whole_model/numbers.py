"""What is measured of one set: layers, predictions, the truth of its attribution graphs, and their scores."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from faithfulness_plugin.attribution import attribute, graph_scores, prune
from faithfulness_plugin.attribution.replaced_layers import ReplacedLayers
from faithfulness_plugin.attribution.truth import TruthRecord, truth_records
from faithfulness_plugin.benchmarks.whole_model.bench import ModelBench
from faithfulness_plugin.benchmarks.whole_model.config import SetRun
from faithfulness_plugin.benchmarks.whole_model.schema import GraphRecord, LayerSums, SetRecord
from faithfulness_plugin.benchmarks.whole_model.truth_of import TruthOf
from faithfulness_plugin.language_model.layer_rows import Rows, to_digits
from faithfulness_plugin.measure.references import shuffled_decoder
from faithfulness_plugin.measure.sets.predictions import predictions
from faithfulness_plugin.metrics.jacobian_error import jacobian_products
from faithfulness_plugin.transcoders.skip import output_of

JACOBIAN_ROWS = 2
"""Rows of each held-out prompt for whole Jacobians."""


def set_record(
    run: SetRun, transcoders: Mapping[int, Any], seconds: float | None, model: ModelBench, note: Callable[[str], None]
) -> SetRecord:
    """Measure a set.

    Args:
        run: which set.
        transcoders: by block, in `eval` mode.
        seconds: what training took.
        model: the model, as it is.
        note: receives a line about what is being done.

    Returns:
        The record.
    """
    note(f"measuring: {run.name}")
    held_out, blocks = model.prompts.held_out, tuple(transcoders)
    kept = dict.fromkeys(blocks, model.kept(held_out))
    _, (everything, with_errors) = predictions(
        model.replacement(transcoders),
        held_out,
        kept,
        model.config.prompts_per_pass,
        [(blocks, False), (blocks, True)],
    )
    return SetRecord(
        arm=run.arm,
        seed=run.seed,
        layers=[_layer_sums(block, transcoder, model) for block, transcoder in transcoders.items()],
        ce=everything.ce,
        kl=everything.kl,
        agreed=everything.agreed,
        with_errors=with_errors.logits_error,
        truth=_truth(run, model.replaced(transcoders), model, note),
        graphs=list(_graphs(model.replaced(transcoders), model)),
        seconds=seconds,
    )


@torch.no_grad()
def _layer_sums(block: int, transcoder: Any, model: ModelBench) -> LayerSums:
    x, y = model.rows_of(block)
    mask = model.kept(model.prompts.held_out)
    rows = Rows(x, mask.nonzero()[:, 0].to(x.device), len(mask))
    acts = transcoder.encode(x)
    some = rows.spread_by_prompt(JACOBIAN_ROWS)
    jacobians = jacobian_products(transcoder, model.layers[block], some.x, among=x).along["data"]
    return LayerSums(
        block=block,
        error=rows.by_prompt((output_of(transcoder, x, acts) - y).square().sum(-1)),
        variance=rows.by_prompt((y - y.mean(0)).square().sum(-1)),
        jacobian_error=some.by_prompt(jacobians.squared_error),
        jacobian=some.by_prompt(jacobians.layer),
        l0=(acts > 0).float().sum(-1).mean().item(),
        dead_fraction=(~(acts > 0).any(0)).float().mean().item(),
    )


def _truth(run: SetRun, replaced: ReplacedLayers, model: ModelBench, note: Callable[[str], None]) -> list[TruthOf]:
    config, tokens = model.config, model.prompts.truth
    claimed = None
    if run.arm.control == "shuffled decoders":
        shuffled = {block: shuffled_decoder(of, config.seed) for block, of in replaced.transcoders.items()}
        claimed = model.replaced(shuffled)
    found: list[TruthRecord] = []
    each = truth_records(
        replaced,
        list(tokens.split(1)),
        claimed=claimed,
        kept=list(behind_the_first(model.kept(tokens))),
        n_each=config.interventions,
        n_targets=config.targets,
        seed=config.seed,
    )
    for n, records in enumerate(each, start=1):
        found += records
        if n % 10 == 0 or n == len(tokens):
            note(f"{run.name}: interventions on {n} of {len(tokens)} prompts")
    return by_kind(found)


def behind_the_first(kept: Bool[Tensor, "prompts pos"]) -> Bool[Tensor, "prompts pos"]:
    """Leave out first tokens: their rows are outliers, and a token must have another one in front of it.

    Args:
        kept: tokens that transcoders stand for.

    Returns:
        The others of them.
    """
    return kept & (torch.arange(kept.shape[1], device=kept.device) > 0)


def by_kind(records: list[TruthRecord]) -> list[TruthOf]:
    """Group the records of prompts by the kind of intervention, what responds, and the distance.

    Args:
        records: of all prompts.

    Returns:
        The groups.
    """
    groups: dict[tuple[Any, ...], list[TruthRecord]] = {}
    for record in records:
        groups.setdefault((record.kind, record.on, record.distance), []).append(record)
    return [
        TruthOf(
            kind=kind,
            on=on,
            distance=distance,
            prompts=[record.prompt for record in of],
            sums=[to_digits(record.sums.parts().tolist()) for record in of],
        )
        for (kind, on, distance), of in sorted(groups.items())
    ]


def _graphs(replaced: ReplacedLayers, model: ModelBench) -> Iterator[GraphRecord]:
    config, tokens = model.config, model.prompts.truth
    for number in range(config.graph_prompts):
        begun, prompt = time.perf_counter(), tokens[number : number + 1]
        kept = behind_the_first(model.kept(prompt))[0]
        graph = attribute(replaced, prompt, kept=kept, max_features=config.graph_features)
        scores, pruned = graph_scores(graph), graph_scores(graph, prune(graph))
        yield GraphRecord(
            prompt=number,
            features=graph.n_active,
            replacement=scores.replacement,
            completeness=scores.completeness,
            pruned_replacement=pruned.replacement,
            pruned_completeness=pruned.completeness,
            seconds=time.perf_counter() - begun,
        )
