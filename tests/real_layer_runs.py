"""Runs of `faithfulness experiment real-layers` on a tiny model."""

from pathlib import Path
from typing import Any

from faithfulness_plugin.benchmarks.real_layers.bench import Bench
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig
from faithfulness_plugin.benchmarks.real_layers.experiment import RealLayers, RealLayersOptions
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult
from faithfulness_plugin.results.experiment import Running, complete
from faithfulness_plugin.results.settings_file import make_config

TERMS = [
    {"term": term, "probe": probe, "coefficient": 0.5}
    for term in ("jvp", "secant")
    for probe in ("isotropic", "difference", "pair")
]
GATES = {"term": "jvp", "probe": "pair", "coefficient": 0.5, "gate_bandwidth": 1.0}
AUGMENTED = [{"term": "augmentation", "probe": probe, "coefficient": 0.5} for probe in ("isotropic", "difference")]
COST = {"seconds", "peak_memory"}
PERMUTED = [{}, {"skip": True}, {**TERMS[-1], "skip": True}, {"skip": True, "control": "constant map"}]


def config(hub: dict[str, Any], **changed: Any) -> RealLayersConfig:
    return make_config({**hub, **changed}, "here", RealLayersConfig)


def run(wanted: RealLayersConfig, out: Path, stores: Path, **options: Any) -> RealLayersResult:
    return complete(RealLayers(), wanted, out, options=RealLayersOptions(stores=str(stores)), **options)


def bench_of(wanted: RealLayersConfig, out: Path, stores: Path) -> Bench:
    return Bench(wanted, stores, Running(out))
