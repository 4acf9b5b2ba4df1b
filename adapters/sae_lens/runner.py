"""SAELens's runners, with transcoders: `faithful_runner`."""

import copy
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.constants import RUNNER_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.llm_sae_training_runner import LanguageModelSAETrainingRunner
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig

from faithfulness_plugin.adapters.sae_lens.checkpointed_batches import checkpoints
from faithfulness_plugin.adapters.sae_lens.matched_run import SETTINGS_FILENAME, MatchedRun, Options
from faithfulness_plugin.adapters.sae_lens.store import ROWS_FILENAME
from faithfulness_plugin.display import line
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig
from faithfulness_plugin.transcoders.seeded import made_with_seed

RunnerConfig = LanguageModelSAERunnerConfig[Any] | MultiSAETrainingRunnerConfig

DEFAULT_MODEL = LanguageModelSAERunnerConfig.model_name
"""The model that SAELens's configs name where the script names none."""
UNNAMED = (None, "", "custom", "native")
"""What TransformerLens calls a model that was made from a config."""

RANDOM_NAME = re.compile(r"[0-9a-f]{8}")
"""What SAELens's configs put after `checkpoint_path`, so that no run finds it again."""


def faithful_runner(
    cfg: RunnerConfig,
    *,
    override_model: Any = None,
    override_dataset: Any = None,
    override_sae: Any = None,
    layer: HookedLayer | Mapping[str, HookedLayer] | None = None,
    evaluate_every: int | None = None,
    norms_above: float | None = None,
    spliced_prompts: int | None = None,
    buffer_dtype: torch.dtype | None = None,
    repeat: bool = True,
    resume: bool = False,
    overwrite: bool = False,
) -> "FaithfulRunner | FaithfulMultiRunner":
    """Build SAELens's `LanguageModelSAETrainingRunner` or `MultiSAETrainingRunner` for transcoders; then `.run()` it.

    The stock runner, subclassed: its model, text, buffer, trainer, optimizer, wandb and export. On top of it

    - the transcoder learns from the layer between two hooks: of `hook_name`, which may be the MLP's input or, as in a
    script that trained an SAE there, its output, or as `layer` says;
    - it is evaluated on held-out prompts (`n_eval_batches` x `eval_batch_size_prompts`, the first of the text) before
    and after and every `evaluate_every` steps, into `evaluations.jsonl` beside the output, and to wandb if that is on;
    - checkpoints (`n_checkpoints`, and on Ctrl-C and SIGTERM) are whole or not there, and a resumed run is the
    uninterrupted one; they stand in `checkpoint_path` itself, without the random name that SAELens adds;
    - the export gets a model card.

    Args:
        cfg: SAELens's, with one of this package's configs as `sae` (or several as `saes`: one pass over the model).
        override_model: as SAELens's.
        override_dataset: as SAELens's.
        override_sae: the transcoder, or several by name.
        layer: what is replaced, from `mlp_layer` or `layer_between`; by name for several.
        evaluate_every: steps; None evaluates as often as SAELens would with wandb.
        norms_above: leaves out rows whose input or output norm is above this factor times the median over the held-out
            prompts (see `LeftOut`; SAELens's own `seqpos_slice` and `exclude_special_tokens` leave out the others). In
            a run of several layers, a row that is extreme in one of them is left out of all. None keeps all.
        spliced_prompts: of the held-out prompts, those that the model is run on with each transcoder in its layer's
            place; None for all.
        buffer_dtype: the dtype of the rows in the buffer, such as torch.bfloat16 for half the memory; None for the
            model's.
        repeat: start the text again where it ends.
        resume: resume from the newest checkpoint in `checkpoint_path`, if there is one, with the same settings.
        overwrite: replace what stands in `output_path`; start again where checkpoints are.

    Returns:
        The runner. Its `matched` has the layers, the store and the evaluations.

    Raises:
        ValueError: an SAE's config, a model of another kind, a hook that does not exist or belongs to no MLP, widths
            that do not fit, a text that is too short, a missing device, a checkpoint of other settings.
        FileExistsError: a transcoder or checkpoints are there already.
    """
    _require_usable(cfg, own_model=override_model is not None, resume=resume, overwrite=overwrite)
    cfg = copy.deepcopy(cfg)
    if cfg.checkpoint_path is not None and RANDOM_NAME.fullmatch(Path(cfg.checkpoint_path).name):
        cfg.checkpoint_path = str(Path(cfg.checkpoint_path).parent)
    last = _checkpoint_to_resume(cfg, resume=resume, overwrite=overwrite)
    cfg.resume_from_checkpoint = cfg.resume_from_checkpoint or last
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Dataset is not tokenized")
        torch.manual_seed(derived_seed(cfg.seed, "weights"))
        overrides: dict[str, Any] = {"override_dataset": override_dataset, "override_model": override_model}
        if isinstance(cfg, MultiSAETrainingRunnerConfig):
            saes: dict[str, Any] = override_sae or {
                name: made_with_seed(copy.deepcopy(sae), cfg.seed) for name, sae in cfg.saes.items()
            }
            runner = FaithfulMultiRunner(cfg, override_saes=saes, **overrides)
        else:
            runner = FaithfulRunner(cfg, override_sae=override_sae, **overrides)
        options = Options(evaluate_every, repeat, norms_above, spliced_prompts, buffer_dtype)
        runner.matched, runner.own_model = MatchedRun(runner, layer, options), override_model is not None
    if overwrite and not resume:
        _remove_run(cfg)  # only now, when nothing can be refused any more
    if cfg.resume_from_checkpoint is not None:
        runner.matched.prepare_resume(Path(cfg.resume_from_checkpoint))
    return runner


def _require_usable(cfg: RunnerConfig, *, own_model: bool, resume: bool, overwrite: bool) -> None:
    """Raise ValueError for settings with which no transcoder can be trained."""
    several = isinstance(cfg, MultiSAETrainingRunnerConfig)
    if torch.device(cfg.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device="{cfg.device}": torch sees no CUDA device here; use device="cpu"')
    if overwrite and (resume or cfg.resume_from_checkpoint):
        raise ValueError("overwrite starts again, resume continues: choose one of them")
    if cfg.llm_device != cfg.device:
        raise ValueError(
            f'llm_device="{cfg.llm_device}" is not device="{cfg.device}": a transcoder learns from its layer, whose '
            "weights have to be where it is. Leave llm_device out"
        )
    if several and cfg.evaluator is not None:
        raise ValueError("an evaluator of your own is not run here: leave it out, and read evaluations.jsonl")
    if not several and cfg.use_cached_activations:
        raise ValueError(
            "use_cached_activations=True leaves the model out, and the layer is a part of it: set it to False"
        )
    if not own_model and cfg.model_class_name != "HookedTransformer":
        raise ValueError(
            f'model_class_name="{cfg.model_class_name}" has no blocks that are known here: pass '
            "override_model=TransformerBridge.boot_transformers(name)"
        )
    for name, sae in (cfg.saes if several else {"sae": cfg.sae}).items():
        if not isinstance(sae, TrainingTranscoderConfig):
            ours = type(sae).__name__.replace("TrainingSAEConfig", "TrainingTranscoderConfig")
            raise ValueError(f"{name}={type(sae).__name__} makes an SAE: use faithfulness_plugin's {ours}")


def _checkpoint_to_resume(cfg: RunnerConfig, *, resume: bool, overwrite: bool) -> str | None:
    """Return the newest checkpoint, if it is asked for. Raises FileExistsError for what would be overwritten."""
    there = checkpoints(cfg.checkpoint_path)
    if resume:
        resumable = [path for path in there if (path / ROWS_FILENAME).exists()]
        if there and not resumable:
            raise FileExistsError(
                f"{cfg.checkpoint_path} holds checkpoints, of which none can be resumed: pass overwrite=True to "
                "start again, or choose another checkpoint_path"
            )
        return str(resumable[-1]) if resumable else None
    if there and not overwrite:
        raise FileExistsError(
            f"{cfg.checkpoint_path} holds checkpoints already: pass resume=True to resume from the last one, "
            "overwrite=True to start again, or choose another checkpoint_path"
        )
    output = None if cfg.output_path is None else Path(cfg.output_path)
    if output is not None and not overwrite and any(output.rglob(SAE_WEIGHTS_FILENAME)):
        raise FileExistsError(
            f"{output} holds a transcoder or an SAE already: choose another output_path, or replace it with "
            "faithful_runner(..., overwrite=True)"
        )
    return None


def _remove_run(cfg: RunnerConfig) -> None:
    """Remove an earlier run's checkpoints, which no later resume may take up, and its exports under other names."""
    output = None if cfg.output_path is None else Path(cfg.output_path)
    exports = output.iterdir() if output is not None and (output / RUNNER_CFG_FILENAME).exists() else ()
    earlier = [path for path in exports if (path / SAE_WEIGHTS_FILENAME).exists()]
    for path in (*earlier, *(c for c in checkpoints(cfg.checkpoint_path) if (c / SETTINGS_FILENAME).exists())):
        shutil.rmtree(path)


class _Matched:
    """What the two runners of SAELens have in common here."""

    matched: MatchedRun
    own_model: bool
    """Whether the script passes the model."""
    model: Any
    cfg: Any

    def __repr__(self) -> str:
        return line(type(self).__name__, {"layers": self.matched.layers})

    def _set_sae_metadata(self) -> None:
        """Note what SAELens does, but of a model that was passed its own name, and not the one that SAELens's configs
        have by default."""
        super()._set_sae_metadata()  # pyright: ignore[reportAttributeAccessIssue]  SAELens's runner
        if self.own_model and self.cfg.model_name == DEFAULT_MODEL:
            name = getattr(getattr(self.model, "cfg", None), "model_name", None)
            for transcoder in self.matched.transcoders.values():
                transcoder.cfg.metadata.model_name = None if name in UNNAMED else name

    def run(self) -> Any:
        """Train, evaluate and export; return the transcoder, or several by name, in `eval` mode."""
        trained = super().run()  # pyright: ignore[reportAttributeAccessIssue]  SAELens's runner
        self.matched.write_cards()
        return trained

    def run_trainer_with_interruption_handling(self, trainer: Any) -> Any:
        return self.matched.fit(trainer)

    _run_with_interruption_handling = run_trainer_with_interruption_handling


class FaithfulRunner(_Matched, LanguageModelSAETrainingRunner):
    """One transcoder, made by `faithful_runner`."""


class FaithfulMultiRunner(_Matched, MultiSAETrainingRunner):
    """Several transcoders, from one pass over the model, made by `faithful_runner`."""
