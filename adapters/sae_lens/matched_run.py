"""What a runner gets beyond SAELens: layers, a store that resumes, evaluation, checkpoints, model cards."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import SAE_WEIGHTS_FILENAME, TRAINER_STATE_FILENAME
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner
from safetensors.torch import load_file
from torch import Tensor

from faithfulness_plugin.adapters.sae_lens.evaluations import Evaluations
from faithfulness_plugin.adapters.sae_lens.layers import layer_at
from faithfulness_plugin.adapters.sae_lens.steps import Steps
from faithfulness_plugin.adapters.sae_lens.store import ResumableStore
from faithfulness_plugin.adapters.transformer_lens.hooks import TransformerLensHooks
from faithfulness_plugin.atomic import write_text
from faithfulness_plugin.differences import differences
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator
from faithfulness_plugin.language_model.model_card import write_card
from faithfulness_plugin.layers.check_layer import check_layer
from faithfulness_plugin.layers.derivatives import layer_output
from faithfulness_plugin.layers.hooked_layer import HookedLayer, layer_fingerprint
from faithfulness_plugin.store.kept_rows import kept_rows
from faithfulness_plugin.store.left_out import LeftOut
from faithfulness_plugin.transcoders.base import TrainingTranscoder

SETTINGS_FILENAME = "faithful_run.json"

# what a resumed run may change
FREE = {
    "resume_from_checkpoint", "checkpoint_path", "output_path", "logger", "verbose", "n_checkpoints",
    "save_final_checkpoint", "sae_lens_version", "sae_lens_training_version", "prefetch_llm_batches",
}  # fmt: skip


class MatchedRun:
    """What both runners get beyond SAELens: layers, store, evaluation, steps."""

    def __init__(
        self, runner: Any, layer: Any, *, evaluate_every: int | None, repeat: bool, norms_above: float | None
    ) -> None:
        cfg, self.several = runner.cfg, isinstance(runner, MultiSAETrainingRunner)
        self.runner, self.hooks = runner, TransformerLensHooks(runner.model)
        self.transcoders: dict[str, TrainingTranscoder[Any]] = (
            dict(runner.saes) if self.several else {"transcoder": runner.sae}
        )
        if len({id(transcoder.cfg) for transcoder in self.transcoders.values()}) < len(self.transcoders):
            raise ValueError("two transcoders share one config, and with it their hooks' names: give each its own")
        self.layers = {name: self._layer(name, layer) for name in self.transcoders}
        for name, transcoder in self.transcoders.items():
            transcoder.set_layer(self.layers[name])
            _require_widths(name, transcoder, self.layers[name])
            if self.several:
                cfg.hook_names_per_sae[name] = self.layers[name].hook_in
            else:
                cfg.hook_name = self.layers[name].hook_in
        self.store = runner.activations_store = self._store(repeat)
        for own in self.layers.values():
            own.lock = self.store.lock if own.runs_model else own.lock  # a second thread may run it as well
        logger = cfg.logger
        self.evaluate_every = evaluate_every or logger.wandb_log_frequency * logger.eval_every_n_wandb_logs
        held_out = self.store.held_out_tokens()
        self.text = hashlib.sha256(self.store.first_prompts.cpu().numpy().tobytes()).hexdigest()[:16]
        self.evaluations: Evaluations | None = None
        self.evaluator: TranscoderEvaluator | None = None
        self.norms_above, excluded = norms_above, LeftOut.of(self.store.exclude_special_tokens)
        rule = replace(excluded, skip_first=_first(cfg.seqpos_slice), norms_above=norms_above)
        if norms_above is not None:
            self._leave_out_norms(rule)
        if len(held_out):
            evaluator = self.evaluator = TranscoderEvaluator(
                self.hooks,
                self.layers,
                held_out,
                exclude=rule,
                positions=slice(*cfg.seqpos_slice),
                batch_size=cfg.eval_batch_size_prompts or cfg.store_batch_size_prompts,
                lock=self.store.lock,
            )
            self.evaluations = Evaluations(evaluator, cfg.output_path, wandb=logger.log_to_wandb)
        runner.evaluator = None  # SAELens's own would put t(x) back at the input

    def _layer(self, name: str, given: Any) -> HookedLayer:
        given, cfg = given.get(name) if isinstance(given, Mapping) else given, self.runner.cfg
        if given is None:
            given = layer_at(self.runner.model, cfg.hook_names_per_sae[name] if self.several else cfg.hook_name)
        else:
            check_layer(self.hooks, given, given.hook_in, given.hook_out)
        return given.copy()  # every transcoder's own clock

    def _store(self, repeat: bool) -> ResumableStore:
        cfg, stock = self.runner.cfg, self.runner.activations_store
        if self.several:
            by_hook = {layer.hook_in: self.transcoders[name].cfg.d_in for name, layer in self.layers.items()}
            store = ResumableStore.from_config_multi_hook(
                model=self.runner.model,
                dataset=stock.dataset,
                hook_names=list(by_hook),
                hook_d_ins=by_hook,
                context_size=cfg.context_size,
                n_batches_in_buffer=cfg.n_batches_in_buffer,
                total_training_tokens=cfg.training_tokens,
                store_batch_size_prompts=cfg.store_batch_size_prompts,
                train_batch_size_tokens=cfg.train_batch_size_tokens,
                prepend_bos=cfg.prepend_bos,
                device=stock.device,
                dtype=cfg.dtype,
                model_kwargs=cfg.model_kwargs,
                autocast_lm=cfg.autocast_lm,
                seqpos_slice=cfg.seqpos_slice,
                exclude_special_tokens=stock.exclude_special_tokens,
                disable_concat_sequences=cfg.disable_concat_sequences,
                sequence_separator_token=cfg.sequence_separator_token,
                activations_mixing_fraction=cfg.activations_mixing_fraction,
                use_chat_formatting=cfg.use_chat_formatting,
            )
        else:
            store = ResumableStore.from_config(self.runner.model, cfg, override_dataset=stock.dataset)
        assert isinstance(store, ResumableStore)
        n_held_out = cfg.n_eval_batches * (cfg.eval_batch_size_prompts or cfg.store_batch_size_prompts)
        store.prepare(seed=cfg.seed, n_held_out=n_held_out, repeat=repeat)
        return store

    def _leave_out_norms(self, rule: LeftOut) -> None:
        """From the rows of the store: those beyond the limits of any of the layers, as rows of several layers are
        shuffled together. The limits are those of the held-out prompts, or of the first one."""
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
        """What a resumed run must share, by dotted name."""
        shared = {name: value for name, value in self.runner.cfg.to_dict().items() if name not in FREE}
        layers = {
            f"layer of {name}": layer_fingerprint(layer, (cfg := self.transcoders[name].cfg).d_in, cfg.device)
            for name, layer in self.layers.items()
        }
        norms = {} if self.norms_above is None else {"norms_above": self.norms_above}
        return {**dict(_flat("", json.loads(json.dumps(shared)))), **layers, **norms, "text": self.text}

    def note_settings(self, checkpoint: Path) -> None:
        """Beside SAELens's own files."""
        write_text(checkpoint / SETTINGS_FILENAME, json.dumps(self.settings(), indent=1))

    def prepare_resume(self, path: Path) -> None:
        """Puts the store where the checkpoint's was. Raises ValueError for a checkpoint that cannot be read, or of
        other settings, another layer, or another text (told by its first prompts)."""
        try:
            there = dict(json.loads((path / SETTINGS_FILENAME).read_text()))
            for name in self.transcoders:  # what SAELens will read, when it is too late for one clear line
                folder = path / name if self.several else path
                load_file(folder / SAE_WEIGHTS_FILENAME)
                torch.load(folder / TRAINER_STATE_FILENAME, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a torn file makes the readers raise
            raise ValueError(_unreadable(path, error)) from error
        if changed := differences(there, self.settings()):
            raise ValueError(
                f"{path} was made with other settings ({changed}): use those, or choose another checkpoint_path"
            )
        try:
            self.store.load_from_checkpoint(path)
        except Exception as error:
            raise ValueError(_unreadable(path, error)) from error

    def fit(self, trainer: Any) -> Any:
        """`trainer.fit()`, between whose steps it is evaluated and saved."""
        folder = None if self.runner.cfg.checkpoint_path is None else Path(self.runner.cfg.checkpoint_path)
        evaluate = None if self.evaluations is None else lambda step: self.evaluate(step, trainer.n_training_samples)
        self.steps = Steps(trainer, self.store, folder=folder, evaluate=evaluate, evaluate_every=self.evaluate_every)
        if self.evaluations is not None:
            self.evaluations.begin(trainer.n_training_steps)
        with self.steps.interruptible():
            trained = trainer.fit()
            self.steps.end_if_told()
            if self.runner.cfg.n_checkpoints:
                self.steps.save()
        self._export()
        if evaluate is not None:
            evaluate(trainer.n_training_steps)
        for transcoder in self.transcoders.values():
            transcoder.eval()
        return trained

    def _export(self) -> None:
        """What SAELens does last of all, done before the evaluation, which may be cut short."""
        for name, transcoder in self.transcoders.items():
            if self.runner.cfg.output_path is not None:
                transcoder.save_inference_model(self._folder(name))

    def _folder(self, name: str) -> Path:
        """Of an export."""
        output = Path(self.runner.cfg.output_path)
        return output / name if self.several else output

    def evaluate(self, step: int, tokens: int) -> None:
        assert self.evaluations is not None
        self.evaluations.add(step, tokens, self.transcoders)

    def write_cards(self) -> None:
        """Beside each export."""
        if self.runner.cfg.output_path is None:
            return
        for name, transcoder in self.transcoders.items():
            last = None if self.evaluations is None else self.evaluations.last(name)
            write_card(self._folder(name), transcoder, last)


def _first(seqpos_slice: tuple[int | None, ...]) -> int:
    """The first positions that SAELens's slice leaves out, for the count."""
    return max(0, seqpos_slice[0] or 0) if len(seqpos_slice) > 1 else 0


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves by dotted name, but for what is noted about a transcoder (`metadata`)."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, part in value.items():
        if name != "metadata":
            yield from _flat(f"{prefix}.{name}" if prefix else name, part)


def _require_widths(name: str, transcoder: TrainingTranscoder[Any], layer: HookedLayer) -> None:
    cfg = transcoder.cfg
    try:
        d_out = layer_output(layer, torch.zeros(2, cfg.d_in, device=cfg.device)).shape[-1]
    except RuntimeError as error:
        raise ValueError(
            f"{name}: the layer {layer} does not take rows of d_in={cfg.d_in} ({str(error).splitlines()[0]}): set d_in "
            f"to the width at {layer.hook_in}"
        ) from error
    if d_out != cfg.d_out:
        raise ValueError(f"{name}: the layer {layer} puts out {d_out} numbers a row, not d_out={cfg.d_out}: set d_out")


def _unreadable(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read ({type(error).__name__}), it may be corrupt: move it away, and begin anew with "
        "overwrite=True"
    )
