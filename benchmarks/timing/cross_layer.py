"""What a cross-layer transcoder costs by how many pairs of layers it keeps decoders for."""

from functools import partial
from time import process_time
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.benchmarks.timing.configs import CrossLayerCostConfig
from faithfulness_plugin.benchmarks.timing.harness import (
    Measurement,
    MeasurementResult,
    Note,
    Part,
    Quartiles,
    paired,
)
from faithfulness_plugin.layers.layer_chain import LayerChain
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Record
from faithfulness_plugin.results.timing import in_turn
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.cross_layer import CrossLayerTrainingTranscoder
from faithfulness_plugin.transcoders.cross_layer_config import CrossLayerTrainingTranscoderConfig
from faithfulness_plugin.transcoders.standard import StandardTrainingTranscoderConfig

TERMS: dict[str, dict[str, Any]] = {
    "no term": {},
    "own and direct": {"jacobian": {"own": 1.0, "direct": 1.0}, "jacobian_coefficient": 1.0},
    "own and total": {"jacobian": {"own": 1.0, "total": 1.0}, "jacobian_coefficient": 1.0},
}


class Cost(Record):
    """One bandwidth with one term."""

    term: str
    bandwidth: int
    pairs: int = Field(description="pairs (l, m) that have a decoder")
    parameters: int = Field(description="numbers that are trained")
    bytes: int = Field(description="of weights, gradients and Adam's two moments")
    milliseconds: Quartiles = Field(description="CPU time a step")
    ratio: Quartiles = Field(description="the same as a multiple of per-layer training's, paired by round")


class CrossLayerCostResult(MeasurementResult):
    """All terms, or as many as were measured."""

    benchmark: Literal["cross-layer-cost"] = "cross-layer-cost"
    schema_version: Literal[1] = 1
    config: CrossLayerCostConfig
    processor: str
    terms: list[list[Cost]] = Field(default_factory=list, description="one list for each term, by bandwidth")


class CrossLayerCost(Measurement[CrossLayerCostConfig, CrossLayerCostResult]):
    """One part for each term."""

    config_class, result_class = CrossLayerCostConfig, CrossLayerCostResult

    @override
    def plan(self, config: CrossLayerCostConfig) -> list[Part]:
        return [Part(term, "terms", partial(_measure, config, term)) for term in TERMS]

    @override
    def tables(self, result: CrossLayerCostResult) -> str:
        c = result.config
        rows = [
            [
                of.term,
                "1, per layer" if of.bandwidth == 1 else str(of.bandwidth),
                str(of.pairs),
                f"{of.parameters:,}",
                f"{of.bytes / 2**20:.1f}",
                of.milliseconds.text(1),
                of.ratio.text(2),
            ]
            for term in result.terms
            for of in term
        ]
        lines = [f"{term[0].term}, {_line(term)}" for term in result.terms]
        unfinished = [] if result.complete else ["PARTIAL: not everything was measured."]
        header = ["term", "bandwidth", "pairs", "parameters", "MiB", "CPU ms a step", "times per-layer"]
        caption = (
            f"{c.n_layers} layers of {c.d}, {c.d_sae} features each, {c.batch} rows a step, {c.threads} "
            f"thread{'s' * (c.threads > 1)} of {result.processor}. MiB: weights, gradients and Adam's moments. Medians "
            f"over {c.rounds} rounds (quartiles). Along the number of pairs time is a straight line: "
            f"{'; '.join(lines)}. {' '.join(unfinished)}"
        )
        return f"{markdown_table(header, rows)}\n\n{caption.strip()}\n"


def pairs_of(n_layers: int, bandwidth: int) -> int:
    """Count the pairs (l, m), l <= m, that have a decoder.

    Args:
        n_layers: L.
        bandwidth: layers that a feature writes to.

    Returns:
        How many.
    """
    return sum(min(n_layers - source, bandwidth) for source in range(n_layers))


def _line(term: list[Cost]) -> str:
    """Fit CPU time over pairs by least squares."""
    pairs, times = np.array([(cost.pairs, cost.milliseconds.median) for cost in term]).T
    slope, intercept = np.polyfit(pairs, times, 1)
    r_squared = 1 - (times - slope * pairs - intercept).var() / times.var()
    return f"{slope:.2f} ms a pair from {intercept:.1f} ms (R² {r_squared:.3f})"


def _measure(config: CrossLayerCostConfig, term: str, note: Note) -> list[Cost]:
    chain, rows = _chain(config)
    arms = {b: partial(_seconds, _transcoder(config, term, b), chain, rows, config.n_steps) for b in config.bandwidths}
    measured = in_turn(arms, config.rounds, seed=config.seed, note=note)
    costs = []
    for bandwidth, of in measured.items():
        transcoder = _transcoder(config, term, bandwidth)
        trained = [p for p in transcoder.parameters() if p.requires_grad]
        costs.append(
            Cost(
                term=term,
                bandwidth=bandwidth,
                pairs=pairs_of(config.n_layers, bandwidth),
                parameters=sum(p.numel() for p in trained),
                bytes=4 * sum(p.numel() * p.element_size() for p in trained),
                milliseconds=Quartiles.of([1e3 * seconds for seconds in of]),
                ratio=Quartiles.of(paired(of, measured[config.bandwidths[0]])),
            )
        )
    return costs


def _chain(config: CrossLayerCostConfig) -> tuple[LayerChain, Tensor]:
    """Build MLPs of the chain, and rows that its link makes."""
    d = config.d
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        layers = [nn.Sequential(nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d)) for _ in range(config.n_layers)]
        x = torch.randn(config.batch * (config.n_steps + 1), d)
    chain = LayerChain([layer.requires_grad_(False) for layer in layers], link="residual")
    return chain, chain.rows(x)


def _transcoder(config: CrossLayerCostConfig, term: str, bandwidth: int) -> CrossLayerTrainingTranscoder:
    each = StandardTrainingTranscoderConfig(d_in=config.d, d_sae=config.d_sae)
    return CrossLayerTrainingTranscoder(
        CrossLayerTrainingTranscoderConfig(n_layers=config.n_layers, per_layer=each, bandwidth=bandwidth, **TERMS[term])
    )


def _seconds(transcoder: CrossLayerTrainingTranscoder, chain: LayerChain, rows: Tensor, n_steps: int) -> float:
    """Return CPU seconds a step of `train_transcoder`."""
    batch, begun = len(rows) // (n_steps + 1), process_time()
    train_transcoder(transcoder, chain, rows, n_steps=n_steps, batch_size=batch, log_every=n_steps, progress=False)
    return (process_time() - begun) / n_steps
