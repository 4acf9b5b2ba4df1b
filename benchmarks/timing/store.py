"""Training from a store of derivatives beside training from the model, and two processes beside one.

`python -m` runs this module as one of the processes of a timed training: torchrun starts them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin import TopKTrainingTranscoderConfig, train_transcoder
from faithfulness_plugin.benchmarks.timing.configs import StoreSpeedConfig
from faithfulness_plugin.benchmarks.timing.harness import MeasurementResult, Note, ratio_range
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.language_model.loaded import LoadedModel, WantedStore
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Environment, Record, processor
from faithfulness_plugin.results.timing import in_turn, torch_threads
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.store.fill import rows_at
from faithfulness_plugin.store.left_out import LeftOut
from faithfulness_plugin.training.processes import joined
from faithfulness_plugin.training.train import TrainingResult
from faithfulness_plugin.transcoders.seeded import made_with_seed

PROBES = {"probe": "difference"}
WARM_UP_STEPS = 3
STORE, CONFIG, TOGETHER = "store", "config.json", "together.json"


class Together(Record):
    """Training in some processes."""

    processes: int
    threads: int = Field(description="a process")
    rows_per_second: float
    losses: list[float] = Field(description="losses of every step")

    @property
    def name(self) -> str:
        """Return how many of both, in words."""
        processes = f"{self.processes} process{'es' * (self.processes > 1)}"
        return f"{processes} of {self.threads} thread{'s' * (self.threads > 1)}"


class StoreSpeedResult(MeasurementResult):
    """One measurement."""

    schema_version: Literal[1] = 1
    model: str
    processor: str
    config: StoreSpeedConfig
    filling: float | None = Field(default=None, description="rows a second, model and derivatives included")
    bytes_per_row: float | None = None
    from_store: list[float] = Field(default_factory=list, description="tokens a second, each round")
    from_model: list[float] = Field(default_factory=list, description="tokens a second, each round")
    difference: float | None = Field(
        default=None,
        description="between the weights of a transcoder trained from the store and of one whose layer was asked again "
        "at the same rows and probes: the largest, relative to the largest weight",
    )
    together: list[Together] = Field(default_factory=list)


class StoreSpeed(Experiment[StoreSpeedConfig, StoreSpeedResult]):
    """One part: all of it is measured with one store, in some minutes."""

    parts = "measurements"
    config_class = StoreSpeedConfig

    @override
    def fresh(self, config: StoreSpeedConfig) -> StoreSpeedResult:
        return StoreSpeedResult(
            complete=False,
            environment=Environment.here(),
            model=model_title(config.model),
            processor=processor(),
            config=config,
        )

    @override
    def progress(self, result: StoreSpeedResult) -> tuple[int, int]:
        return int(result.complete), 1

    @override
    def run(self, result: StoreSpeedResult, running: Running) -> Iterator[tuple[StoreSpeedResult, str]]:
        with torch_threads(result.config.threads):
            measured = _measure(result.config, running.note)
        yield result.model_copy(update={"complete": True, **measured}), "all of it"

    @override
    def tables(self, result: StoreSpeedResult) -> str:
        c, (half, one, two) = result.config, result.together
        stored, live = (statistics.median(rates) for rates in (result.from_store, result.from_model))
        apart = max(abs(a - b) / abs(a) for a, b in zip(one.losses, two.losses, strict=True))
        rows = [
            ["filling the store (model, layer, Jv)", f"{result.filling:,.0f} rows a second"],
            ["the store's size", f"{(result.bytes_per_row or 0) / 1e3:.1f} kB a row ({c.model.dtype})"],
            ["training from the model", f"{live:,.0f} tokens a second"],
            ["training from the store", f"{stored:,.0f} tokens a second"],
            ["store / model, paired", ratio_range(result.from_store, result.from_model, 1)],
            ["weights, from the store and from the layer asked again", f"equal up to {result.difference:.1e}"],
            *([of.name, f"{of.rows_per_second:,.0f} rows a second"] for of in result.together),
            *([f"{two.name} / {of.name}", f"{two.rows_per_second / of.rows_per_second:.2f}"] for of in (half, one)),
            ["losses, 2 processes and 1", f"equal up to {apart:.1e} over {len(one.losses)} steps"],
        ]
        where = (
            f"{result.model}, block {c.block}; TopK k {c.k} of {c.d_sae}, jvp with difference probes, batches of "
            f"{c.batch_size}; {c.n_steps} steps, median of {c.rounds} rounds, {c.threads} threads "
            f"({result.processor}). Processes: batches of {c.together_batch_size} rows in all."
        )
        return where + "\n\n" + markdown_table(["what", "measured"], rows)


def _measure(c: StoreSpeedConfig, note: Note) -> dict[str, Any]:
    """Measure everything with one store, in some minutes; return the fields of the result.

    Raises:
        TrainConfigError: the model, its block or the text cannot be used as configured.
    """
    with tempfile.TemporaryDirectory() as folder:
        measured = _in_this_process(c, Path(folder), note)
        half = max(1, c.threads // 2)
        note("training in one process and in two")  # the model is out of memory by now
        together = [_together(c, Path(folder), *size) for size in ((1, half), (1, c.threads), (2, half))]
    return {**measured, "together": together}


def _in_this_process(c: StoreSpeedConfig, folder: Path, note: Note) -> dict[str, Any]:
    source = LoadedModel(c, note)
    tokens, (layer,) = source.prompts(c.prompts), source.mlps([c.block], "block").values()
    begun = time.perf_counter()
    (store,) = source.filled_stores(
        [WantedStore(folder / STORE, layer, [PROBES])],
        tokens,
        prompts_per_shard=c.prompts_per_shard,
        dtype=c.model.dtype,
    )
    filling = store.index.n_rows / (time.perf_counter() - begun)

    def train(layer: Any, rows: Iterator[Tensor]) -> tuple[TrainingResult, float]:
        return _train(c, store, layer, rows, c.batch_size, c.n_steps, log_every=c.n_steps)

    def stored() -> StoredRows:
        return StoredRows(store, PROBES, batch_size=c.batch_size, seed=c.seed)

    packed = stored().layer
    rates = in_turn(
        {
            "from_store": lambda: train(packed, stored())[1],
            "from_model": lambda: train(layer, _rows_of_model(c, source.hooks, layer, tokens, source.exclude))[1],
        },
        c.rounds,
        warm_up=0,
        seed=c.seed,
        note=lambda text: note(f"training, {text}"),
    )
    note("asking the layer again at the same rows")
    kept, asked = (
        train(packed, rows)[0].transcoder.W_enc.detach() for rows in (stored(), _asked_again(stored(), layer))
    )
    return {
        "filling": filling,
        "bytes_per_row": sum(shard.n_bytes for shard in store.index.shards.values()) / store.index.n_rows,
        "difference": ((kept - asked).abs().max() / kept.abs().max()).item(),
        **rates,
    }


def _train(
    c: StoreSpeedConfig,
    store: DerivativeStore,
    layer: Any,
    rows: Iterator[Tensor],
    batch_size: int,
    n_steps: int,
    log_every: int,
) -> tuple[TrainingResult, float]:
    """Train a transcoder from the seed, and return its rows a second as well, the logging included."""
    shape: dict[str, Any] = {"d_in": store.index.d_in, "d_out": store.index.d_out, "d_sae": c.d_sae, "k": c.k}
    config = TopKTrainingTranscoderConfig(**shape, jacobian=PROBES, jacobian_coefficient=0.5)
    transcoder = made_with_seed(config, c.seed)
    begun = time.perf_counter()
    trained = train_transcoder(
        transcoder, layer, rows, n_steps=n_steps, lr=1e-3, batch_size=batch_size, log_every=log_every, progress=False
    )
    return trained, n_steps * batch_size / (time.perf_counter() - begun)


def _rows_of_model(
    c: StoreSpeedConfig, hooks: Hooks, layer: HookedLayer, tokens: Tensor, exclude: LeftOut
) -> Iterator[Tensor]:
    """Yield batches of rows; the model runs whenever they are used up."""
    prompts, made = cycle(tokens.split(c.prompts_per_pass)), []
    while True:
        while sum(map(len, made)) < c.batch_size:
            made.append(rows_at(hooks, {layer.hook_in}, next(prompts), exclude, c.prompts_per_pass)[layer.hook_in])
        batch, *made = torch.cat(made).tensor_split([c.batch_size])
        yield batch


def _asked_again(rows: StoredRows, layer: HookedLayer) -> Iterator[Tensor]:
    """Yield the stored rows with responses that are not the store's: the layer is asked at the same rows and probes."""
    product = rows.layer.product
    assert product is not None
    for batch in rows:
        kept = rows.layer.unpack(batch)
        assert kept.v is not None
        y, Jv = product.build_estimator().layer_products(layer, kept.x, kept.v, kept.step)
        yield rows.layer.pack(LayerResponse(kept.x, y, kept.v, Jv))


def _together(c: StoreSpeedConfig, folder: Path, processes: int, threads: int) -> Together:
    (folder / CONFIG).write_text(c.model_dump_json())
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", Together.__module__, str(folder), str(threads)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the training in {processes} processes failed: {done.stderr.strip()[-300:]}")
    return Together.model_validate_json((folder / TOGETHER).read_bytes())


def _as_one_process(folder: Path, threads: int) -> None:
    """Train with the other processes that torchrun started; the first one writes how it went."""
    torch.set_num_threads(threads)
    c = StoreSpeedConfig.model_validate_json((folder / CONFIG).read_bytes())
    with joined("cpu") as here:
        store = DerivativeStore.open(folder / STORE)
        for n_steps in (WARM_UP_STEPS, c.together_steps):
            rows = StoredRows(
                store, PROBES, batch_size=c.together_batch_size, seed=c.seed, rank=here.rank, processes=here.size
            )
            trained, rate = _train(c, store, rows.layer, rows, c.together_batch_size, n_steps, log_every=1)
        losses = [record["loss"] for record in trained.history]
        if here.first:
            together = Together(processes=here.size, threads=threads, rows_per_second=rate, losses=losses)
            (folder / TOGETHER).write_text(together.model_dump_json())


if __name__ == "__main__":
    _as_one_process(Path(sys.argv[1]), int(sys.argv[2]))
