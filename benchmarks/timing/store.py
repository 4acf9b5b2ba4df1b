"""Training from a store of derivatives beside training from the model, and two processes beside one.

`python -m` runs this module as one of the processes of a timed training: torchrun starts them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from sae_lens.util import get_special_token_ids
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin import TopKTrainingTranscoderConfig, train_transcoder
from faithfulness_plugin.adapters.sae_lens.runner import made_with_seed
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks, mlp_layer
from faithfulness_plugin.benchmarks.timing.harness import ratio_range
from faithfulness_plugin.jacobian.matching import layer_products
from faithfulness_plugin.jacobian.packed_rows import LayerSays
from faithfulness_plugin.language_model.config import ModelSource, TextSource, TrainConfigError
from faithfulness_plugin.language_model.model import load_model, model_title
from faithfulness_plugin.language_model.stores import Wanted, filled_stores
from faithfulness_plugin.language_model.text import cut_prompts
from faithfulness_plugin.layers.hooked_layer import HookedLayer, Hooks
from faithfulness_plugin.results.markdown import markdown_table
from faithfulness_plugin.results.schema import Environment, Record, Result, processor
from faithfulness_plugin.results.timing import in_turn, seconds
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.store.fill import rows_at
from faithfulness_plugin.store.left_out import LeftOut
from faithfulness_plugin.training.processes import joined

PROBES = {"probe": "difference"}
WARM_UP = 3
"""Steps of a training in several processes that are not timed."""
STORE, CONFIG, TOGETHER = "store", "config.json", "together.json"


class StoreSpeedConfig(Record):
    """What is timed."""

    model: ModelSource = ModelSource()
    text: TextSource = TextSource()
    block: int = Field(default=10, ge=0)
    d_sae: int = Field(default=2304, ge=1)
    k: int = Field(default=32, ge=1)
    prompts: int = Field(default=128, ge=2, description="in the store")
    prompts_per_shard: int = Field(default=32, ge=1)
    context_size: int = Field(default=128, ge=2)
    prompts_per_pass: int = Field(default=8, ge=1)
    batch_size: int = Field(default=512, ge=2, description="rows a step")
    n_steps: int = Field(default=40, ge=1)
    together_batch_size: int = Field(
        default=4096, ge=2, description="rows a step, of all processes that train together"
    )
    together_steps: int = Field(default=12, ge=1)
    rounds: int = Field(default=3, ge=1, description="of both, in turns")
    threads: int = Field(ge=1, description="of torch, in all; two processes have half of them each")
    seed: int = 0


class Together(Record):
    """Training in some processes."""

    processes: int
    threads: int = Field(description="a process")
    rows_per_second: float
    losses: list[float] = Field(description="of every step")

    @property
    def name(self) -> str:
        """Return how many of both, in words."""
        processes = f"{self.processes} process{'es' * (self.processes > 1)}"
        return f"{processes} of {self.threads} thread{'s' * (self.threads > 1)}"


class StoreSpeedResult(Result):
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

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json")


def measure(c: StoreSpeedConfig, note: Callable[[str], None]) -> dict[str, Any]:
    """Return the fields that are measured, after some minutes.

    Raises:
        TrainConfigError: the model, its block or the text cannot be used as configured.
    """
    with tempfile.TemporaryDirectory() as name:
        measured = _measure_in_this_process(c, Path(name), note)
        together = []  # the model is out of memory by now
        half = max(1, c.threads // 2)
        for processes, threads in ((1, half), (1, c.threads), (2, half)):
            note(f"training in {processes} process{'es' * (processes > 1)} of {threads} thread{'s' * (threads > 1)}")
            together.append(_train_together(c, Path(name), processes, threads))
    return {**measured, "together": together}


def _measure_in_this_process(c: StoreSpeedConfig, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
    note(f"loading {model_title(c.model)}")
    model = load_model(c.model, "cpu")
    hooks, exclude = TransformerLensHooks(model), torch.tensor(get_special_token_ids(model.tokenizer))
    tokens = cut_prompts(c.text, model.tokenizer, c.context_size, c.seed, c.prompts, hooks=hooks)
    try:
        layer = mlp_layer(model, c.block)
    except ValueError as error:
        raise TrainConfigError(f"block: {error}") from error
    note("filling a store")
    begun = time.perf_counter()
    (store,) = filled_stores(
        [Wanted(folder / STORE, layer, [PROBES])],
        hooks,
        tokens,
        model=model_title(c.model),
        width=model.cfg.d_model,
        exclude=LeftOut.of(exclude),
        prompts_per_shard=c.prompts_per_shard,
        prompts_per_pass=c.prompts_per_pass,
        dtype=c.model.dtype,
        seed=c.seed,
        on_shard=lambda number, of: None,
    )
    filling = store.index.n_rows / (time.perf_counter() - begun)

    def stored() -> StoredRows:
        return StoredRows(store, PROBES, batch_size=c.batch_size, seed=c.seed)

    def from_model() -> float:
        return _train(c, store, layer, _rows_of_model(c, hooks, layer, tokens, exclude))[1]

    packed = stored().layer
    rates = in_turn(
        {"from_store": lambda: _train(c, store, packed, stored())[1], "from_model": from_model},
        c.rounds,
        warm_up=0,
        seed=c.seed,
        note=lambda text: note(f"training, {text}"),
    )
    note("asking the layer again at the same rows")
    kept, asked = (_train(c, store, packed, rows)[0].W_enc for rows in (stored(), _asked_again(stored(), layer)))
    return {
        "filling": filling,
        "bytes_per_row": sum(shard.n_bytes for shard in store.index.shards.values()) / store.index.n_rows,
        "difference": ((kept - asked).abs().max() / kept.abs().max()).item(),
        **rates,
    }


def _transcoder(c: StoreSpeedConfig, store: DerivativeStore) -> Any:
    widths: dict[str, Any] = {"d_in": store.index.d_in, "d_out": store.index.d_out, "d_sae": c.d_sae}
    return made_with_seed(TopKTrainingTranscoderConfig(**widths, k=c.k, jacobian=PROBES, jacobian_coefficient=0.5), c.seed)


def _train(c: StoreSpeedConfig, store: DerivativeStore, layer: Any, rows: Iterator[Tensor]) -> tuple[Any, float]:
    """Return a trained transcoder, and the tokens a second of its training."""
    transcoder = _transcoder(c, store)
    training = partial(
        train_transcoder, transcoder, layer, rows, n_steps=c.n_steps, lr=1e-3, batch_size=c.batch_size, progress=False
    )
    return transcoder, c.n_steps * c.batch_size / seconds(training)


def _rows_of_model(
    c: StoreSpeedConfig, hooks: Hooks, layer: HookedLayer, tokens: Tensor, exclude: Tensor
) -> Iterator[Tensor]:
    """Yield batches of rows; the model runs whenever they are used up."""
    left = torch.empty(0)
    place = 0
    while True:
        while len(left) < c.batch_size:
            prompts = tokens[torch.arange(place, place + c.prompts_per_pass) % len(tokens)]
            place += c.prompts_per_pass
            fresh = rows_at(hooks, {layer.hook_in}, prompts, exclude, c.prompts_per_pass)[layer.hook_in]
            left = torch.cat([left, fresh]) if len(left) else fresh
        yield left[: c.batch_size]
        left = left[c.batch_size :]


def _asked_again(rows: StoredRows, layer: HookedLayer) -> Iterator[Tensor]:
    """Yield the stored rows with responses that are not the store's: the layer is asked at the same rows and probes."""
    product = rows.layer.product
    assert product is not None
    for batch in rows:
        kept = rows.layer.unpack(batch)
        assert kept.v is not None
        y, Jv = layer_products(product, layer, kept.x, kept.v, kept.step)
        yield rows.layer.pack(LayerSays(kept.x, y, kept.v, Jv))


def _train_together(c: StoreSpeedConfig, folder: Path, processes: int, threads: int) -> Together:
    (folder / CONFIG).write_text(c.model_dump_json())
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run(
        [sys.executable, "-m", *launcher, "-m", Together.__module__, str(folder), str(threads)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
    )
    return Together.model_validate_json((folder / TOGETHER).read_bytes())


class _TimedRows(StoredRows):
    """Stored rows that note when the warm-up is over."""

    begun = 0.0

    def __next__(self) -> Tensor:
        if self.batch == WARM_UP:
            self.begun = time.perf_counter()
        return super().__next__()


def _train_as_one_process(folder: Path, threads: int) -> None:
    """Train with the other processes that torchrun started; the first one writes how it went."""
    torch.set_num_threads(threads)
    c = StoreSpeedConfig.model_validate_json((folder / CONFIG).read_bytes())
    with joined("cpu") as processes:
        store = DerivativeStore.open(folder / STORE)
        share = {"rank": processes.rank, "processes": processes.size}
        rows = _TimedRows(store, PROBES, batch_size=c.together_batch_size, seed=c.seed, **share)
        n_steps = WARM_UP + c.together_steps
        trained = train_transcoder(
            _transcoder(c, store), rows.layer, rows, n_steps=n_steps, lr=1e-3, log_every=1, progress=False
        )
        took = time.perf_counter() - rows.begun
        if processes.first:
            together = Together(
                processes=processes.size,
                threads=threads,
                rows_per_second=c.together_steps * c.together_batch_size / took,
                losses=[record["loss"] for record in trained.history],
            )
            (folder / TOGETHER).write_text(together.model_dump_json())


def table(result: StoreSpeedResult) -> str:
    """Return rates, ratios, and how equal the results are."""
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
        f"{c.batch_size}; {c.n_steps} steps, median of {c.rounds} rounds, {c.threads} threads ({result.processor}). "
        f"Processes: batches of {c.together_batch_size} rows in all."
    )
    return where + "\n\n" + markdown_table(["what", "measured"], rows)


if __name__ == "__main__":
    _train_as_one_process(Path(sys.argv[1]), int(sys.argv[2]))
