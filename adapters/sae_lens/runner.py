"""SAELens's runners, with transcoders: `faithful_runner`."""

import copy
import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from sae_lens.llm_sae_training_runner import LanguageModelSAETrainingRunner
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
from sae_lens.registry import get_sae_training_class
from safetensors import SafetensorError
from typing_extensions import override

from faithfulness_plugin.adapters.hooked_layer import HookedLayer
from faithfulness_plugin.adapters.sae_lens.evaluations import Evaluations
from faithfulness_plugin.adapters.sae_lens.evaluator import TranscoderEvaluator
from faithfulness_plugin.adapters.sae_lens.layers import layer_at
from faithfulness_plugin.adapters.sae_lens.model_card import write_card
from faithfulness_plugin.adapters.sae_lens.steps import Steps, checkpoints
from faithfulness_plugin.adapters.sae_lens.store import ROWS_FILENAME, ResumableStore
from faithfulness_plugin.adapters.transformer_lens import TransformerLensHooks
from faithfulness_plugin.atomic import write_text
from faithfulness_plugin.differences import differences
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.transcoders.base import TrainingTranscoder
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig

RunnerConfig = LanguageModelSAERunnerConfig[Any] | MultiSAETrainingRunnerConfig

SETTINGS_FILENAME = "faithful_run.json"

# what a resumed run may change
FREE = {
    "resume_from_checkpoint", "checkpoint_path", "output_path", "logger", "verbose", "n_checkpoints",
    "save_final_checkpoint", "sae_lens_version", "sae_lens_training_version", "prefetch_llm_batches",
}  # fmt: skip


def faithful_runner(
    cfg: RunnerConfig,
    *,
    override_model: Any = None,
    override_dataset: Any = None,
    override_sae: Any = None,
    layer: HookedLayer | Mapping[str, HookedLayer] | None = None,
    evaluate_every: int | None = None,
    repeat: bool = True,
    resume: bool = False,
    overwrite: bool = False,
) -> "FaithfulRunner | FaithfulMultiRunner":
    """SAELens's `LanguageModelSAETrainingRunner`, or `MultiSAETrainingRunner`, that trains transcoders. Then `.run()`.

    The stock runner, subclassed: its model, text, buffer, trainer, optimizer, wandb and export. On top of it

    - the transcoder learns from the layer between two hooks: of `hook_name`, which may be the MLP's input or, as in a
      script that trained an SAE there, its output, or as `layer` says;
    - it is evaluated on held-out prompts (`n_eval_batches` x `eval_batch_size_prompts`, the first of the text) before
      and after and every `evaluate_every` steps, into `evaluations.jsonl` beside the output, and to wandb if that is
      on;
    - checkpoints (`n_checkpoints`, and on Ctrl-C and SIGTERM) are whole or not there, and a resumed run is the
      uninterrupted one; they stand in `checkpoint_path` itself, without the random name that SAELens adds;
    - the export gets a model card.

    Args:
        cfg: SAELens's, with one of this package's configs as `sae` (or several as `saes`: one pass over the model).
        override_model, override_dataset, override_sae: as SAELens's (`override_saes` by name, for several).
        layer: what is replaced, from `mlp_layer` or `layer_between`; by name for several.
        evaluate_every: steps; None: as often as SAELens would with wandb.
        repeat: start the text again where it ends.
        resume: go on from the newest checkpoint in `checkpoint_path`, if there is one, with the same settings.
        overwrite: replace what stands in `output_path`; begin anew where checkpoints are.

    Raises:
        ValueError: an SAE's config, a model of another kind, a hook that does not exist or belongs to no MLP, widths
        that do not fit, a text that
            is too short, a device that is not there, a checkpoint of other settings.
        FileExistsError: a transcoder or checkpoints are there already.
    """
    device = torch.device(cfg.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device="{cfg.device}": torch sees no CUDA device here; use device="cpu"')
    several = isinstance(cfg, MultiSAETrainingRunnerConfig)
    if not several and cfg.use_cached_activations:
        raise ValueError(
            "use_cached_activations=True leaves the model out, and the layer is a part of it: set it to False"
        )
    if override_model is None and cfg.model_class_name != "HookedTransformer":
        raise ValueError(
            f'model_class_name="{cfg.model_class_name}" has no blocks that are known here: pass '
            "override_model=TransformerBridge.boot_transformers(name)"
        )
    for name, sae in (cfg.saes if several else {"sae": cfg.sae}).items():
        _require_transcoder(name, sae)
    cfg = copy.deepcopy(cfg)
    if cfg.checkpoint_path is not None and cfg.logger.wandb_id is None:
        cfg.checkpoint_path = str(Path(cfg.checkpoint_path).parent)  # without the random name
    last = _place_is_free(cfg, resume=resume, overwrite=overwrite)
    cfg.resume_from_checkpoint = cfg.resume_from_checkpoint or (None if last is None else str(last))
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Dataset is not tokenized")
        torch.manual_seed(derived_seed(cfg.seed, "weights"))
        overrides: dict[str, Any] = {"override_dataset": override_dataset, "override_model": override_model}
        if isinstance(cfg, MultiSAETrainingRunnerConfig):
            saes: dict[str, Any] = override_sae or {
                name: made_with_seed(sae, cfg.seed) for name, sae in cfg.saes.items()
            }
            runner = FaithfulMultiRunner(cfg, override_saes=saes, **overrides)
        else:
            runner = FaithfulRunner(cfg, override_sae=override_sae, **overrides)
        runner.matched = _Matched(runner, layer, evaluate_every=evaluate_every, repeat=repeat)
    if cfg.resume_from_checkpoint is not None:
        runner.matched.prepare_resume(Path(cfg.resume_from_checkpoint))
    return runner


def made_with_seed(cfg: Any, seed: int) -> TrainingTranscoder[Any]:
    """A new transcoder, whose weights are those of every other of its shape that is made with this seed: arms that
    differ in a coefficient begin alike. The global random state is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "weights"))
        made: Any = get_sae_training_class(cfg.architecture())[0](cfg)
        return made


def _require_transcoder(name: str, sae: Any) -> None:
    if not isinstance(sae, TrainingTranscoderConfig):
        ours = type(sae).__name__.replace("TrainingSAEConfig", "TrainingTranscoderConfig")
        raise ValueError(f"{name}={type(sae).__name__} makes an SAE: use faithfulness_plugin's {ours}")


def _place_is_free(cfg: RunnerConfig, *, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to go on from, if any. Raises FileExistsError for what would be overwritten."""
    there = [] if cfg.checkpoint_path is None else checkpoints(Path(cfg.checkpoint_path))
    resumable = [path for path in there if (path / ROWS_FILENAME).exists()]
    if resume:
        return resumable[-1] if resumable else None
    if there and not overwrite:
        raise FileExistsError(
            f"{cfg.checkpoint_path} holds checkpoints already: pass resume=True to go on from the last, overwrite=True "
            "to begin anew, or choose another checkpoint_path"
        )
    output = None if cfg.output_path is None else Path(cfg.output_path)
    if output is not None and not overwrite and any(output.rglob(SAE_WEIGHTS_FILENAME)):
        raise FileExistsError(
            f"{output} holds a transcoder already: pass overwrite=True to replace it, or choose another output_path"
        )
    for path in there:
        if (path / SETTINGS_FILENAME).exists():
            shutil.rmtree(path)  # no later resume may take them up
    return None


class _Matched:
    """What both runners get beyond SAELens: layers, store, evaluation, steps."""

    def __init__(self, runner: Any, layer: Any, *, evaluate_every: int | None, repeat: bool) -> None:
        cfg, self.several = runner.cfg, isinstance(runner, MultiSAETrainingRunner)
        self.runner, self.hooks = runner, TransformerLensHooks(runner.model)
        self.transcoders: dict[str, TrainingTranscoder[Any]] = (
            dict(runner.saes) if self.several else {"transcoder": runner.sae}
        )
        self.layers = {name: self._layer(name, layer) for name in self.transcoders}
        for name, transcoder in self.transcoders.items():
            transcoder.set_layer(self.layers[name])
            transcoder.cfg.metadata.hook_name_out = self.layers[name].hook_out
            _require_widths(name, transcoder, self.layers[name])
            if self.several:
                cfg.hook_names_per_sae[name] = self.layers[name].hook_in
            else:
                cfg.hook_name = self.layers[name].hook_in
        self.store = runner.activations_store = self._store(repeat)
        logger = cfg.logger
        self.evaluate_every = evaluate_every or logger.wandb_log_frequency * logger.eval_every_n_wandb_logs
        held_out = self.store.held_out_tokens()
        self.text = hashlib.sha256(held_out.cpu().numpy().tobytes()).hexdigest()[:16]
        self.evaluations: Evaluations | None = None
        if len(held_out):
            evaluator = TranscoderEvaluator(
                self.hooks,
                self.layers,
                held_out,
                exclude=self.store.exclude_special_tokens,
                positions=slice(*cfg.seqpos_slice),
                batch_size=cfg.eval_batch_size_prompts or cfg.store_batch_size_prompts,
                lock=self.store.lock,
            )
            self.evaluations = Evaluations(evaluator, cfg.output_path, wandb=logger.log_to_wandb)
        runner.evaluator = None  # SAELens's own would put t(x) back at the input

    def _layer(self, name: str, given: Any) -> HookedLayer:
        given = given.get(name) if isinstance(given, Mapping) else given
        cfg = self.runner.cfg
        hook = cfg.hook_names_per_sae[name] if self.several else cfg.hook_name
        # a copy: every transcoder's own clock
        return (layer_at(self.runner.model, hook) if given is None else given).copy()

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

    def settings(self) -> dict[str, Any]:
        """What a resumed run must share, by dotted name."""
        shared = {name: value for name, value in self.runner.cfg.to_dict().items() if name not in FREE}
        return {**dict(_flat("", json.loads(json.dumps(shared)))), "text": self.text}

    def note_settings(self, checkpoint: Path) -> None:
        """Beside SAELens's own files."""
        write_text(checkpoint / SETTINGS_FILENAME, json.dumps(self.settings(), indent=1))

    def prepare_resume(self, path: Path) -> None:
        """Puts the store where the checkpoint's was. Raises ValueError for a checkpoint that cannot be read, or of
        other settings or another text."""
        try:
            there = json.loads((path / SETTINGS_FILENAME).read_text())
            if changed := differences(there, self.settings()):
                raise ValueError(
                    f"{path} was made with other settings ({changed}): use those, or choose another checkpoint_path"
                )
            self.store.load_from_checkpoint(path)
        except (OSError, json.JSONDecodeError, SafetensorError, KeyError) as error:
            raise ValueError(
                f"{path} cannot be resumed ({error}): move it away and begin anew, with overwrite=True"
            ) from error

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
                self.steps.save()  # what follows may be cut short as well
        if evaluate is not None:
            evaluate(trainer.n_training_steps)
        for transcoder in self.transcoders.values():
            transcoder.eval()
        return trained

    def evaluate(self, step: int, tokens: int) -> None:
        assert self.evaluations is not None
        self.evaluations.add(step, tokens, self.transcoders)

    def write_cards(self) -> None:
        """Beside each export."""
        if self.runner.cfg.output_path is None:
            return
        output = Path(self.runner.cfg.output_path)
        for name, transcoder in self.transcoders.items():
            last = None if self.evaluations is None else self.evaluations.last(name)
            write_card(output / name if self.several else output, transcoder, last)


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
    weight = layer.weights()
    x = torch.zeros(2, cfg.d_in, device=cfg.device, dtype=torch.float32 if weight is None else weight.W_in.dtype)
    try:
        with torch.no_grad():
            d_out = layer(x).shape[-1]
    except RuntimeError as error:
        raise ValueError(
            f"{name}: the layer {layer} does not take rows of d_in={cfg.d_in} ({str(error).splitlines()[0]}): set d_in "
            f"to the width at {layer.hook_in}"
        ) from error
    if d_out != cfg.d_out:
        raise ValueError(f"{name}: the layer {layer} puts out {d_out} numbers a row, not d_out={cfg.d_out}: set d_out")


class FaithfulRunner(LanguageModelSAETrainingRunner):
    """One transcoder. Made by `faithful_runner`."""

    matched: _Matched

    @override
    def run(self) -> Any:
        """Trains, evaluates, exports; returns the transcoder in `eval` mode."""
        transcoder = super().run()
        self.matched.write_cards()
        return transcoder

    @override
    def run_trainer_with_interruption_handling(self, trainer: Any) -> Any:
        return self.matched.fit(trainer)

    @override
    def save_checkpoint(self, checkpoint_path: Path | None) -> None:
        super().save_checkpoint(checkpoint_path)
        if checkpoint_path is not None:
            self.matched.note_settings(checkpoint_path)


class FaithfulMultiRunner(MultiSAETrainingRunner):
    """Several transcoders, from one pass over the model. Made by `faithful_runner`."""

    matched: _Matched

    @override
    def run(self) -> dict[str, Any]:
        """Trains, evaluates, exports; returns the transcoders by name, in `eval` mode."""
        transcoders = super().run()
        self.matched.write_cards()
        return transcoders

    @override
    def _run_with_interruption_handling(self, trainer: Any) -> dict[str, Any]:
        return self.matched.fit(trainer)

    @override
    def _save_runner_checkpoint_files(self, checkpoint_path: Path | None) -> None:
        super()._save_runner_checkpoint_files(checkpoint_path)
        if checkpoint_path is not None:
            self.matched.note_settings(checkpoint_path)
