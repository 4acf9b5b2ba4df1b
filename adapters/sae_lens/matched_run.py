"""What a runner gets beyond SAELens: layers, a store that resumes, evaluation, checkpoints, model cards."""

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens.constants import SAE_WEIGHTS_FILENAME, TRAINER_STATE_FILENAME
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner
from safetensors.torch import load_file
from torch import Tensor

from faithfulness_plugin.adapters.sae_lens.checkpointed_batches import CheckpointedBatches
from faithfulness_plugin.adapters.sae_lens.evaluations import Evaluations
from faithfulness_plugin.adapters.sae_lens.own_layers import own_layers
from faithfulness_plugin.adapters.sae_lens.store import ResumableStore
from faithfulness_plugin.atomic import write_text
from faithfulness_plugin.differences import differences
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator
from faithfulness_plugin.language_model.model_card import write_card
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer, layer_fingerprint
from faithfulness_plugin.store.kept_rows import kept_rows
from faithfulness_plugin.store.left_out import LeftOut
from faithfulness_plugin.training.fused import fuse
from faithfulness_plugin.transcoders.base import TrainingTranscoder

SETTINGS_FILENAME = "faithful_run.json"

MANY = 8
"""More transcoders than these share one number in the progress bar."""
UPDATES = 50
"""How often the progress bar moves at least, where a run has so many steps."""

# what a resumed run may change
FREE = {
    "resume_from_checkpoint", "checkpoint_path", "output_path", "logger", "verbose", "n_checkpoints",
    "save_final_checkpoint", "sae_lens_version", "sae_lens_training_version", "prefetch_llm_batches",
}  # fmt: skip


class Options(NamedTuple):
    """Options of `faithful_runner` that decide how a run is done."""

    evaluate_every: int | None
    repeat: bool
    norms_above: float | None
    spliced_prompts: int | None
    buffer_dtype: torch.dtype | None


class MatchedRun:
    """Gives a runner its layers, its store and its evaluations, and runs its trainer.

    Args:
        runner: of one transcoder or several; its store, evaluator and hook names are replaced.
        layer: as in `faithful_runner`.
        options: its other options.
    """

    def __init__(self, runner: Any, layer: Any, options: Options) -> None:
        cfg, self.several = runner.cfg, isinstance(runner, MultiSAETrainingRunner)
        self.runner, self.hooks, self.norms_above = runner, hooks_of(runner.model), options.norms_above
        self.transcoders: dict[str, TrainingTranscoder[Any]] = (
            dict(runner.saes) if self.several else {"transcoder": runner.sae}
        )
        if len({id(transcoder.cfg) for transcoder in self.transcoders.values()}) < len(self.transcoders):
            raise ValueError("two transcoders share one config, and with it their hooks' names: give each its own")
        named = cfg.hook_names_per_sae if self.several else {"transcoder": cfg.hook_name}
        self.layers, asked = own_layers(self.hooks, self.transcoders, named, layer)
        for name, own in self.layers.items():
            if self.several:
                cfg.hook_names_per_sae[name] = own.hook_in
            else:
                cfg.hook_name = own.hook_in
        self.store = runner.activations_store = self._store(options.repeat)
        self.store.buffer_dtype, self.store.hooks = options.buffer_dtype, self.hooks
        for own in asked:
            own.lock = self.store.lock if own.runs_model else own.lock  # a second thread may run it as well
        logger, held_out = cfg.logger, self.store.held_out_tokens()
        self.evaluate_every = options.evaluate_every or logger.wandb_log_frequency * logger.eval_every_n_wandb_logs
        self.text = hashlib.sha256(self.store.first_prompts.cpu().numpy().tobytes()).hexdigest()[:16]
        first = max(0, cfg.seqpos_slice[0] or 0) if len(cfg.seqpos_slice) > 1 else 0  # left out by SAELens's slice
        rule = replace(LeftOut.of(self.store.exclude_special_tokens), skip_first=first, norms_above=self.norms_above)
        if self.norms_above is not None:
            self._leave_out_norms(rule)
        self.evaluator: TranscoderEvaluator | None = None
        self.evaluations: Evaluations | None = None
        if len(held_out):
            self.evaluator = TranscoderEvaluator(
                self.hooks,
                self.layers,
                held_out,
                exclude=rule,
                positions=slice(*cfg.seqpos_slice),
                spliced_prompts=options.spliced_prompts,
                batch_size=cfg.eval_batch_size_prompts or cfg.store_batch_size_prompts,
                lock=self.store.lock,
            )
            self.evaluations = Evaluations(self.evaluator, cfg.output_path, wandb=logger.log_to_wandb)
        runner.evaluator = None  # SAELens's own would put t(x) back at the input

    def _store(self, repeat: bool) -> ResumableStore:
        cfg, stock, model = self.runner.cfg, self.runner.activations_store, self.runner.model
        if self.several:
            by_hook = {layer.hook_in: self.transcoders[name].cfg.d_in for name, layer in self.layers.items()}
            parameters = inspect.signature(ResumableStore.from_config_multi_hook).parameters
            options = {name: getattr(cfg, name) for name in parameters if hasattr(cfg, name)} | {
                "dataset": stock.dataset,
                "device": stock.device,
                "exclude_special_tokens": stock.exclude_special_tokens,
                "hook_names": list(by_hook),
                "hook_d_ins": by_hook,
                "hook_head_indices": None,
            }
            store = ResumableStore.from_config_multi_hook(model, **options)
        else:
            store = ResumableStore.from_config(model, cfg, override_dataset=stock.dataset)
        assert isinstance(store, ResumableStore)
        n_held_out = cfg.n_eval_batches * (cfg.eval_batch_size_prompts or cfg.store_batch_size_prompts)
        store.prepare(seed=cfg.seed, n_held_out=n_held_out, repeat=repeat)
        return store

    def _leave_out_norms(self, rule: LeftOut) -> None:
        """Leave out of the store those rows that are beyond the limits of any of the layers, as rows of several layers
        are shuffled together. The limits are those of the held-out prompts, or of the first one."""
        prompts = self.store.first_prompts[: max(1, self.store.n_held_out)].to(self.hooks.device)
        batch = self.runner.cfg.store_batch_size_prompts
        limits: dict[tuple[str, str], tuple[HookedLayer, LeftOut]] = {}
        for layer in self.layers.values():
            if (place := (layer.hook_in, layer.hook_out)) not in limits:
                fitted = kept_rows(self.hooks, layer, prompts, rule, batch_size=batch).exclude
                limits[place] = (layer.copy(), fitted)  # a copy's clock times no training

        def within(rows: Mapping[str, Tensor]) -> Tensor:
            each = [of.within(x := rows[at.hook_in].to(self.hooks.device), at(x)) for at, of in limits.values()]
            return torch.stack(each).all(0)

        self.store.within = within

    def settings(self) -> dict[str, Any]:
        """Collect what a resumed run must share.

        Returns:
            Settings by dotted name, with a fingerprint of each layer and of the text.
        """
        shared = {name: value for name, value in self.runner.cfg.to_dict().items() if name not in FREE}
        layers = {
            f"layer of {name}": layer_fingerprint(layer, (cfg := self.transcoders[name].cfg).d_in, cfg.device)
            for name, layer in self.layers.items()
        }
        norms = {} if self.norms_above is None else {"norms_above": self.norms_above}
        dtype = {} if self.store.buffer_dtype is None else {"buffer_dtype": str(self.store.buffer_dtype)}
        return {**dict(_flat("", json.loads(json.dumps(shared)))), **layers, **norms, **dtype, "text": self.text}

    def prepare_resume(self, path: Path) -> None:
        """Put the store where the checkpoint's was.

        Args:
            path: the checkpoint's folder.

        Raises:
            ValueError: a checkpoint that cannot be read, or of other settings, another layer, or another text
                (recognised by its first prompts).
        """
        with _readable(path):
            there = dict(json.loads((path / SETTINGS_FILENAME).read_text()))
            for name in self.transcoders:  # what SAELens will read, when it is too late for one clear line
                folder = path / name if self.several else path
                load_file(folder / SAE_WEIGHTS_FILENAME)
                torch.load(folder / TRAINER_STATE_FILENAME, map_location="cpu", weights_only=True)
        if changed := differences(there, self.settings()):
            raise ValueError(
                f"{path} was made with other settings ({changed}): use those, or choose another checkpoint_path"
            )
        with _readable(path):
            self.store.load_from_checkpoint(path)

    def fit(self, trainer: Any) -> Any:
        """Run `trainer.fit()`, evaluate and save between its steps, and export. The export comes before the last
        evaluation, which may be cut short.

        Args:
            trainer: SAELens's.

        Returns:
            What `trainer.fit()` returns.
        """
        cfg, evaluations = self.runner.cfg, self.evaluations

        def evaluate(step: int) -> None:
            if evaluations is not None:
                evaluations.add(step, trainer.n_training_samples, self.transcoders)

        def note(checkpoint: Path) -> None:
            write_text(checkpoint / SETTINGS_FILENAME, json.dumps(self.settings(), indent=1))

        for each in getattr(trainer, "trainers", {"": trainer}).values():
            fuse(each.optimizer)
        batches = CheckpointedBatches(
            trainer,
            self.store,
            folder=None if cfg.checkpoint_path is None else Path(cfg.checkpoint_path),
            evaluate=evaluate,
            evaluate_every=self.evaluate_every,
            note=note,
        )
        if evaluations is not None:
            evaluations.begin(trainer.n_training_steps)
        # SAELens's bar has a number for each, and moves every 100 steps: a short run would never see it move
        show, most = trainer._update_pbar, 100
        if len(self.transcoders) > MANY:
            show, most = partial(_show_mean_loss, trainer), 10
        n_steps = trainer.cfg.total_training_samples // trainer.cfg.train_batch_size_samples
        trainer._update_pbar = partial(show, update_interval=max(1, min(most, n_steps // UPDATES)))
        with batches.interruptible():
            trained = trainer.fit()
            batches.end_if_interrupted()
            if cfg.n_checkpoints:
                batches.save()
        for name, folder in self._folders():
            self.transcoders[name].save_inference_model(folder)
        evaluate(trainer.n_training_steps)
        for transcoder in self.transcoders.values():
            transcoder.eval()
        return trained

    def write_cards(self) -> None:
        """Write a model card beside each export."""
        for name, folder in self._folders():
            last = None if self.evaluations is None else self.evaluations.last(name)
            write_card(folder, self.transcoders[name], last)

    def _folders(self) -> Iterator[tuple[str, Path]]:
        """Yield each transcoder's name and the folder of its export, if there are exports."""
        if (output := self.runner.cfg.output_path) is not None:
            for name in self.transcoders:
                yield name, Path(output) / name if self.several else Path(output)


def _show_mean_loss(trainer: Any, outputs: Mapping[str, Any], bar: Any, update_interval: int) -> None:
    """Show the mean loss of many transcoders in place of all of them."""
    if trainer.n_training_steps % update_interval == 0:
        mean = sum(output.loss.item() for output in outputs.values()) / len(outputs)
        bar.set_description(f"{trainer.n_training_steps}| mean loss of {len(outputs)}: {mean:.4f}")
        bar.update(update_interval * trainer.cfg.train_batch_size_samples)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves by dotted name, except for what is noted about a transcoder (`metadata`)."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, part in value.items():
        if name != "metadata":
            yield from _flat(f"{prefix}.{name}" if prefix else name, part)


@contextmanager
def _readable(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a torn file makes the readers raise
        raise ValueError(
            f"{checkpoint} cannot be read ({type(error).__name__}), it may be corrupt: move it away, and start again "
            "with overwrite=True"
        ) from error
