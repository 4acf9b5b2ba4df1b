"""Does Jacobian matching make transcoders of a language model's MLPs more faithful, and along which directions?"""

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from faithfulness_plugin.benchmarks.real_layers.analysis import value
from faithfulness_plugin.benchmarks.real_layers.config import RealLayersConfig, RealLayersOptions, Run
from faithfulness_plugin.benchmarks.real_layers.drawings import figures
from faithfulness_plugin.benchmarks.real_layers.report import page
from faithfulness_plugin.benchmarks.real_layers.schema import RealLayersResult, RunRecord
from faithfulness_plugin.benchmarks.real_layers.tables import tables
from faithfulness_plugin.differences import differences
from faithfulness_plugin.language_model.loaded import LoadedModel, WantedStore
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.language_model.train_stored import note_origin, train_on_store
from faithfulness_plugin.measure.held_out import HeldOut
from faithfulness_plugin.measure.relative_errors import fvu, jacobian_error, response_error
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.open_or_resume import RESULT_FILENAME, require_versions
from faithfulness_plugin.results.schema import Environment, ResultError
from faithfulness_plugin.training import latest_checkpoint
from faithfulness_plugin.transcoders.seeded import made_with_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHECKPOINTS, TRANSCODERS = "checkpoints", "transcoders"
CHECKPOINT_EVERY = 500  # steps


class RealLayers(Experiment[RealLayersConfig, RealLayersResult]):
    """Fills stores of rows and derivatives once, then trains and measures transcoder after transcoder from them."""

    parts = "transcoders"
    config_class = RealLayersConfig
    options_class = RealLayersOptions
    page_filename = "report.md"

    @override
    def fresh(self, config: RealLayersConfig) -> RealLayersResult:
        environment = Environment.here(config.device)
        return RealLayersResult(complete=False, environment=environment, model=model_title(config.model), config=config)

    @override
    def found(self, result: RealLayersResult, config: RealLayersConfig) -> RealLayersResult:
        """Resume a result that has fewer seeds with more."""
        if changed := differences({"seeds": result.config.seeds}, {"seeds": config.seeds}):
            if result.config.seeds > config.seeds:
                raise ResultError(
                    f"the result has other settings ({changed}): choose another --out, or pass --overwrite"
                )
            require_versions(Path(RESULT_FILENAME), result, self.fresh(config))
            return result.model_copy(update={"config": config, "complete": False})
        return result

    @override
    def progress(self, result: RealLayersResult) -> tuple[int, int]:
        return len(result.trained), len(result.config.runs())

    @override
    def run(self, result: RealLayersResult, running: Running) -> Iterator[tuple[RealLayersResult, str]]:
        """Make the runs that are missing; each transcoder is in `out`/transcoders. An interrupted run resumes from its
        last checkpoint.

        Raises:
            TrainConfigError: model, blocks or text are not as configured.
            StoreError: stores of something else, in use, or that cannot be written.
        """
        out, stores = running.out, running.options.stores
        bench = _Bench(result.config, running.out / "stores" if stores is None else Path(stores), running)
        result = result.model_copy(update={"rows": result.rows or bench.rows})
        if not running.resumes:
            for folder in (out / CHECKPOINTS, out / TRANSCODERS):
                shutil.rmtree(folder, ignore_errors=True)  # of the result that is replaced
        yield result, ""
        done = {trained.run for trained in result.trained}
        missing = [run for run in result.config.runs() if run not in done]
        for run in missing:
            running.note(f"training: {run.name}")
            checkpoint = out / CHECKPOINTS / run.folder
            transcoder, seconds = bench.train(run, checkpoint)
            held_out = bench.held_out[run.block]
            if all(layer.block != run.block for layer in result.layers):
                result = result.model_copy(update={"layers": [*result.layers, held_out.layer_record(transcoder)]})
            trained = RunRecord(**run._asdict(), **dict(held_out.measure(transcoder)), seconds=seconds)
            transcoder.save_inference_model(out / TRANSCODERS / run.folder)
            update = {"trained": [*result.trained, trained], "complete": run is missing[-1]}
            result = result.model_copy(update=update)
            yield result, _line_of(trained, result)
            shutil.rmtree(checkpoint)

    @override
    def tables(self, result: RealLayersResult) -> str:
        return tables(result)

    @override
    def page(self, result: RealLayersResult) -> str:
        return page(result)

    @override
    def figures(self, result: RealLayersResult) -> "Mapping[str, Figure]":
        return figures(result)


def _line_of(trained: RunRecord, result: RealLayersResult) -> str:
    """Say a run in a line, as it ends."""
    at = f", passage's own {trained.passage.share:.2f}" if trained.passage is not None else ""
    pair, half = value(result, trained, jacobian_error("data")), value(result, trained, response_error("difference"))
    return (
        f"{trained.run.name}: FVU {value(result, trained, fvu):.4f}, Jacobian error {pair:.3f} (pairs), half-way "
        f"{half:.3f}{at}"
    )


class _Bench:
    """Everything that the runs share: the model, its layers, full stores, held-out prompts."""

    def __init__(self, config: RealLayersConfig, stores: Path, running: Running) -> None:
        self.config = config
        source = LoadedModel(config, running.note)
        self.width, self.title = source.model.cfg.d_model, source.title
        tokens = source.prompts(config.held_out_prompts + config.stored_prompts)
        held_out, stored = tokens[: config.held_out_prompts], tokens[config.held_out_prompts :]
        layers, passage, at = source.mlps(config.blocks), None, config.passage
        if at is not None:
            ids = source.tokenizer(at.text, add_special_tokens=False)["input_ids"]
            start = [] if source.tokenizer.bos_token_id is None else [source.tokenizer.bos_token_id]
            passage = torch.tensor([[*start, *ids]])
        plain, weights = config.derivatives(repeated=False), config.keep == "rows"
        wanted = {
            (block, False): WantedStore(stores / f"block{block}", layer, plain, weights=weights)
            for block, layer in layers.items()
        }
        if at is not None:
            for block in at.blocks:
                folder = stores / f"block{block}_passage"
                products = config.derivatives(repeated=True)
                wanted[block, True] = WantedStore(folder, layers[block], products, passage, at.share, weights)
        filled = source.filled_stores(
            list(wanted.values()), stored, prompts_per_shard=config.prompts_per_shard, dtype=config.stored_dtype
        )
        self.stores = dict(zip(wanted, filled, strict=True))
        measured_at = dict.fromkeys(() if at is None else at.blocks, passage)
        self.held_out = {
            block: HeldOut(source.hooks, layer, held_out, config, source.exclude, measured_at.get(block))
            for block, layer in layers.items()
        }
        self.rows = [of.at.record() for of in self.held_out.values()]

    def train(self, run: Run, checkpoint: Path) -> tuple[Any, float | None]:
        """Train the transcoder of a run.

        Returns:
            The transcoder, and the seconds that its training takes, estimated from this call's part of it.
        """
        config, width = self.config, self.width
        cfg = run.kind.config(run.arm, d_in=width, d_out=width, d_sae=config.d_sae, device=config.device)
        transcoder = made_with_seed(cfg, run.seed)
        note_origin(transcoder, self.title, self.held_out[run.block].layer, config)
        last = latest_checkpoint(checkpoint)
        left = config.n_steps - (0 if last is None else int(last.name.removeprefix("step_")))
        begun = time.perf_counter()
        train_on_store(
            transcoder,
            self.stores[run.block, run.repeated],
            run.arm.jacobian,
            config,
            seed=run.seed,
            checkpoint=checkpoint,
            checkpoint_every=CHECKPOINT_EVERY,
        )
        return transcoder, (time.perf_counter() - begun) * config.n_steps / left if left else None
