"""The measurement."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens.util import get_special_token_ids
from torch import Tensor

from faithfulness_plugin import train_transcoder
from faithfulness_plugin.benchmarks.timing.store_speed.schema import StoreSpeedConfig, StoreSpeedResult, Together
from faithfulness_plugin.benchmarks.timing.store_speed.worker import PROBES, transcoder_for
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.language_model.config import TrainConfigError
from faithfulness_plugin.language_model.model import load_model, model_title
from faithfulness_plugin.language_model.stores import Wanted, filled_stores
from faithfulness_plugin.language_model.text import cut_prompts
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, processor, write_text
from faithfulness_plugin.results.threads import torch_threads
from faithfulness_plugin.store import DerivativeStore, StoredRows
from faithfulness_plugin.store.fill import rows_at
from faithfulness_plugin.store.left_out import LeftOut


def open_result(out: Path, config: StoreSpeedConfig, *, overwrite: bool) -> StoreSpeedResult:
    """The result in `out`, or a fresh one, not written yet. Raises ResultError as `begin_or_go_on`."""
    fresh = StoreSpeedResult(
        complete=False,
        environment=Environment.here(),
        model=model_title(config.model),
        processor=processor(),
        config=config,
    )
    return begin_or_go_on(out, fresh, overwrite=overwrite, write=False)


def measure(result: StoreSpeedResult, out: Path, note: Callable[[str], None]) -> StoreSpeedResult:
    """All of it, in some minutes; written at the end. Raises TrainConfigError as `load_model` and `cut_prompts`."""
    if result.complete:
        return result
    with tempfile.TemporaryDirectory() as folder, torch_threads(result.config.threads):
        measured = _measured(result, Path(folder), note)
    write_text(out / RESULT_FILENAME, measured.model_dump_json(indent=1))
    return measured


def _measured(result: StoreSpeedResult, folder: Path, note: Callable[[str], None]) -> StoreSpeedResult:
    c = result.config
    note(f"loading {result.model}")
    model = load_model(c.model, "cpu")
    hooks, exclude = hooks_of(model), torch.tensor(get_special_token_ids(model.tokenizer))
    tokens = cut_prompts(c.text, model.tokenizer, c.context_size, c.seed, c.prompts, hooks=hooks)
    try:
        layer = mlp_layer(model, c.block)
    except ValueError as error:
        raise TrainConfigError(f"block: {error}") from error
    note("filling a store")
    begun = time.perf_counter()
    (store,) = filled_stores(
        [Wanted(folder / "store", layer, [PROBES])],
        hooks,
        tokens,
        model=result.model,
        width=model.cfg.d_model,
        exclude=LeftOut.of(exclude),
        prompts_per_shard=c.prompts_per_shard,
        prompts_per_pass=c.prompts_per_pass,
        dtype=c.model.dtype,
        seed=c.seed,
        on_shard=lambda number, of: None,
    )
    filling = store.index.n_rows / (time.perf_counter() - begun)
    rates: dict[str, list[float]] = {"from_store": [], "from_model": []}
    for number in range(c.rounds):
        note(f"training from the store and from the model, round {number + 1} of {c.rounds}")
        stored = StoredRows(store, PROBES, batch_size=c.batch_size, seed=c.seed)
        rates["from_store"].append(_rate(c, store, stored.layer, stored))
        live = _from_model(c, hooks, layer, tokens, exclude)
        rates["from_model"].append(_rate(c, store, layer, live))
    note("asking the layer again at the same rows")
    weights = [
        _trained(c, store, rows).W_enc.detach() for rows in (_stored(c, store), _Asked(_stored(c, store), layer))
    ]
    del model, hooks, layer
    together = []
    half = max(1, c.threads // 2)
    for processes, threads in ((1, half), (1, c.threads), (2, half)):
        note(f"training in {processes} process{'es' * (processes > 1)} of {threads} thread{'s' * (threads > 1)}")
        together.append(_together(c, folder, processes, threads))
    shard_bytes = sum(shard.n_bytes for shard in store.index.shards.values())
    update = {
        "complete": True,
        "filling": filling,
        "bytes_per_row": shard_bytes / store.index.n_rows,
        "difference": ((weights[0] - weights[1]).abs().max() / weights[0].abs().max()).item(),
        "together": together,
        **rates,
    }
    return result.model_copy(update=update)


def _stored(c: StoreSpeedConfig, store: DerivativeStore) -> StoredRows:
    return StoredRows(store, PROBES, batch_size=c.batch_size, seed=c.seed)


def _trained(c: StoreSpeedConfig, store: DerivativeStore, rows: Any) -> Any:
    transcoder = transcoder_for(store, c.d_sae, c.k, c.seed)
    train_transcoder(transcoder, rows.layer, rows, n_steps=c.n_steps, lr=1e-3, batch_size=c.batch_size, progress=False)
    return transcoder


def _rate(c: StoreSpeedConfig, store: DerivativeStore, layer: Any, rows: Iterator[Tensor]) -> float:
    """Tokens a second of a whole training."""
    transcoder = transcoder_for(store, c.d_sae, c.k, c.seed)
    begun = time.perf_counter()
    train_transcoder(transcoder, layer, rows, n_steps=c.n_steps, lr=1e-3, batch_size=c.batch_size, progress=False)
    return c.n_steps * c.batch_size / (time.perf_counter() - begun)


def _from_model(
    c: StoreSpeedConfig, hooks: Hooks, layer: HookedLayer, tokens: Tensor, exclude: Tensor
) -> Iterator[Tensor]:
    """Batches of rows, by running the model whenever they run out."""
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


class _Asked(Iterator[Tensor]):
    """Stored rows whose answers are not the store's: the layer is asked again at the same rows and probes."""

    def __init__(self, rows: StoredRows, layer: HookedLayer) -> None:
        self.rows, self.live, self.layer = rows, layer, rows.layer

    def __next__(self) -> Tensor:
        says, product = self.layer.unpack(next(self.rows)), self.layer.product
        assert product is not None
        assert says.v is not None
        y, Jv = product.build_estimator().layer_products(self.live, says.x, says.v, says.step)
        return self.layer.pack(LayerResponse(says.x, y, says.v, Jv))


def _together(c: StoreSpeedConfig, folder: Path, processes: int, threads: int) -> Together:
    job = {
        "store": str(folder / "store"),
        "result": str(folder / "together.json"),
        "threads": threads,
        "batch_size": c.together_batch_size,
        "n_steps": c.together_steps,
        **c.model_dump(include={"d_sae", "k", "seed"}),
    }
    worker = ["-m", "faithfulness_plugin.benchmarks.timing.store_speed.worker"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run(
        [sys.executable, *launcher, *worker, json.dumps(job)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
    )
    found = json.loads((folder / "together.json").read_text())
    rate = c.together_steps * c.together_batch_size / found["seconds"]
    return Together(processes=processes, threads=threads, rows_per_second=rate, losses=found["losses"])
