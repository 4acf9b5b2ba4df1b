"""Measuring finished transcoders against their real layer, one after another, each written as it ends."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin import metrics
from faithfulness_plugin.language_model.config import TrainConfigError
from faithfulness_plugin.language_model.model import load_model, model_title
from faithfulness_plugin.language_model.text import cut_prompts
from faithfulness_plugin.layers.any_model import hooks_of
from faithfulness_plugin.layers.declared_hooks import block_of
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.replaced_layer import NamesNoLayer, Pair, layer_at_pair, pair_of
from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.measure.held_out import HeldOut
from faithfulness_plugin.measure.interventions import Interventions
from faithfulness_plugin.measure.ranked_pairs import mismatch_warning
from faithfulness_plugin.measure.references import mean_ablation, shuffled_decoder
from faithfulness_plugin.measure.schema import ROLES, ArtifactNumbers, ArtifactResult, Role
from faithfulness_plugin.results.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.results.schema import Environment, write_text
from faithfulness_plugin.transcoders.load import load_transcoder
from faithfulness_plugin.transcoders.source import files_of


@dataclass(frozen=True)
class Artifact:
    """A transcoder as it was read."""

    name: str
    transcoder: Any
    digest: str


def read_artifacts(config: ArtifactConfig) -> list[Artifact]:
    """All transcoders of a config, from folders and addresses. Raises FormatError for one that holds none."""
    found = []
    for name, path in config.transcoders.items():
        dtype = torch.float32 if config.transcoder_dtype == "float32" else None
        transcoder = load_transcoder(
            path, layer=config.block, device=config.device, dtype=dtype, autoencoder=config.autoencoder
        ).eval()
        found.append(Artifact(name, transcoder, _digest(files_of(path, layer=config.block))))
    return found


def open_result(out: Path, config: ArtifactConfig, *, overwrite: bool = False) -> ArtifactResult:
    """The result that stands in `out`, to be completed, or a fresh one, which is not written yet.

    Raises ResultError as `begin_or_go_on` does."""
    environment = Environment.here(config.device, packages=("transformers",))
    fresh = ArtifactResult(complete=False, environment=environment, model=model_title(config.model), config=config)
    return begin_or_go_on(out, fresh, overwrite=overwrite, write=False)


def complete(
    result: ArtifactResult,
    artifacts: list[Artifact],
    out: Path,
    *,
    note: Callable[[str], None] = lambda _: None,
    on_measured: Callable[[ArtifactNumbers], None] = lambda _: None,
) -> ArtifactResult:
    """Measures what is missing; after each transcoder and each of its references the file in `out` holds all there is.

    Raises:
        ValueError: transcoders that differ from the layer in width, that changed since the result was begun, or whose
            layer nobody named (`TrainConfigError`: the model or the text cannot be had).
    """
    for artifact in artifacts:
        before = result.of(artifact.name)
        if before is not None and before.digest != artifact.digest:
            raise ValueError(f"{artifact.name} is not what it was when the result was begun: choose another --out")
    missing: list[tuple[Artifact, Role]] = [
        (a, role) for a in artifacts for role in ROLES if result.of(a.name, role) is None
    ]
    if not missing:
        return result
    bench = _Bench(result.config, artifacts, note)
    rows = bench.held_out.said_rows()
    if result.layer is None:
        record = bench.held_out.record(artifacts[0].transcoder)
        result = result.model_copy(update={"layer": record, "rows": [rows], "notices": bench.notices(artifacts)})
    write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))  # now that nothing can be refused any more
    for artifact, role in missing:
        note(f"measuring: {artifact.name}, {role}")
        numbers = bench.measure(artifact, role)
        measured = [*result.measured, numbers]
        result = result.model_copy(
            update={"measured": measured, "complete": len(measured) == len(artifacts) * len(ROLES)}
        )
        write_text(out / RESULT_FILENAME, result.model_dump_json(indent=1))
        on_measured(numbers)
    return result


class _Bench:
    """The model, its layer and the held-out prompts."""

    def __init__(self, config: ArtifactConfig, artifacts: list[Artifact], note: Callable[[str], None]) -> None:
        self.config = config
        note(f"loading {model_title(config.model)}")
        model = load_model(config.model, config.device, plain=True)
        self.hooks = hooks_of(model)
        self.layer, self.pair = _layer(self.hooks, config, artifacts)
        note("cutting the text into prompts")
        tokens = cut_prompts(
            config.text, model.tokenizer, config.context_size, config.seed, config.held_out_prompts, hooks=self.hooks
        )
        exclude = config.rows.left_out(model.tokenizer)
        block = block_of(self.layer.hook_in) or 0
        self.held_out = HeldOut(self.hooks, self.layer, block, tokens, None, config, exclude)
        self.tokens = tokens[: config.spliced_prompts].to(self.hooks.device)
        self.kept = self.held_out.kept.mask[: config.spliced_prompts].to(self.hooks.device)
        for artifact in artifacts:
            _require_fit(artifact, self.held_out.rows.x, self.held_out.outputs)

    def notices(self, artifacts: list[Artifact]) -> list[str]:
        """What has to be said of the tensors that are measured between."""
        found = []
        if self.pair.declared is not None:
            declared = " and ".join(self.pair.declared)
            found.append(f"measured between {self.pair.hook_in} and {self.pair.hook_out}; the files say {declared}")
        for artifact in artifacts:
            warning = mismatch_warning(self.hooks, artifact.transcoder, self.tokens, self.layer, self.kept)
            if warning is not None:
                found.append(f"{artifact.name}: {warning}")
        return found

    @cached_property
    def spectrum_rows(self) -> Tensor:
        """Spread over all of them."""
        x = self.held_out.rows.x
        return x[torch.linspace(0, len(x) - 1, min(self.config.spectrum_rows, len(x))).long()]

    def measure(self, artifact: Artifact, role: Role) -> ArtifactNumbers:
        """A transcoder or one of its references."""
        transcoder = {
            "transcoder": lambda: artifact.transcoder,
            "shuffled decoder": lambda: shuffled_decoder(artifact.transcoder, self.config.seed),
            "mean ablation": lambda: mean_ablation(artifact.transcoder, self.held_out.outputs),
        }[role]()
        numbers = self.held_out.measure(transcoder)
        width = min(self.held_out.rows.x.shape[1], self.held_out.outputs.shape[1])
        top = [k for k in self.config.top if k <= width]
        spectrum = metrics.jacobian_spectrum(transcoder, self.layer, self.spectrum_rows, top)
        interventions = Interventions(
            self.hooks, self.layer, self.tokens, self.kept, artifact.transcoder, seed=self.config.seed
        )
        return ArtifactNumbers(
            **dict(numbers),
            name=artifact.name,
            role=role,
            architecture=artifact.transcoder.cfg.architecture(),
            d_sae=len(artifact.transcoder.W_dec),
            digest=artifact.digest,
            top=top,
            top_error=list(spectrum.top_error),
            effects=interventions.effects(transcoder),
            deletion=None if role == "mean ablation" else interventions.deletion(transcoder),
        )


def _layer(hooks: Hooks, config: ArtifactConfig, artifacts: list[Artifact]) -> tuple[HookedLayer, Pair]:
    """The layer between the tensors that the transcoders name, or the config does."""
    transcoders = [artifact.transcoder for artifact in artifacts]
    options = {"layer": config.block, "hook_in": config.hook_in, "hook_out": config.hook_out}
    try:
        pair = pair_of(hooks, transcoders, **options, anyway=config.hooks_anyway)
        return layer_at_pair(hooks, pair, autoencoder=config.autoencoder), pair
    except NamesNoLayer as error:
        raise TrainConfigError(f"{error}: pass --layer, or --hook-in and --hook-out") from error
    except ValueError as error:
        raise TrainConfigError(str(error)) from error


def _require_fit(artifact: Artifact, x: Tensor, y: Tensor) -> None:
    d_in, d_out = artifact.transcoder.W_enc.shape[0], artifact.transcoder.W_dec.shape[1]
    if (d_in, d_out) != (x.shape[1], y.shape[1]):
        raise ValueError(
            f"{artifact.name} maps {d_in} to {d_out} and the layer {x.shape[1]} to {y.shape[1]}: is it a transcoder of "
            "this layer and this model?"
        )


def _digest(files: list[Path]) -> str:
    """A digest of the files that a transcoder was read from."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return "sha256:" + digest.hexdigest()
