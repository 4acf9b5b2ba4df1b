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
from faithfulness_plugin.adapters.hooked_layer import HookedLayer
from faithfulness_plugin.adapters.sae_lens.layers import layer_of
from faithfulness_plugin.adapters.transformer_lens import TransformerLensHooks
from faithfulness_plugin.benchmarks.artifact.config import ArtifactConfig
from faithfulness_plugin.benchmarks.artifact.interventions import Interventions
from faithfulness_plugin.benchmarks.artifact.references import mean_ablation, shuffled_decoder
from faithfulness_plugin.benchmarks.artifact.schema import ROLES, ArtifactNumbers, ArtifactResult, Role
from faithfulness_plugin.benchmarks.held_out.measure import HeldOut
from faithfulness_plugin.benchmarks.language_model.config import TrainConfigError
from faithfulness_plugin.benchmarks.language_model.model import load_model, model_title
from faithfulness_plugin.benchmarks.language_model.text import cut_prompts
from faithfulness_plugin.benchmarks.result_file import RESULT_FILENAME, begin_or_go_on
from faithfulness_plugin.benchmarks.schema import Environment, write_text
from faithfulness_plugin.transcoders.load import load_transcoder


@dataclass(frozen=True)
class Artifact:
    """A transcoder as it was read."""

    name: str
    transcoder: Any
    digest: str


def read_artifacts(config: ArtifactConfig) -> list[Artifact]:
    """All transcoders of a config. Raises FormatError for a folder that holds none."""
    found = []
    for name, path in config.transcoders.items():
        transcoder = load_transcoder(path, layer=config.block, device=config.device).eval()
        found.append(Artifact(name, transcoder, _digest(Path(path))))
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
        result = result.model_copy(update={"layer": record, "rows": [rows]})
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
        model = load_model(config.model, config.device)
        self.hooks = TransformerLensHooks(model)
        self.layer = _layer(model, config, artifacts)
        note("cutting the text into prompts")
        tokens = cut_prompts(
            config.text, model.tokenizer, config.context_size, config.seed, config.held_out_prompts, hooks=self.hooks
        )
        exclude = config.rows.left_out(model.tokenizer)
        block = config.block if config.block is not None else _block(self.layer)
        self.held_out = HeldOut(self.hooks, self.layer, block, tokens, None, config, exclude)
        self.tokens = tokens[: config.spliced_prompts].to(self.hooks.device)
        self.kept = self.held_out.kept.mask[: config.spliced_prompts].to(self.hooks.device)
        for artifact in artifacts:
            _require_fit(artifact, self.held_out.rows.x, self.held_out.outputs)

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


def _layer(model: Any, config: ArtifactConfig, artifacts: list[Artifact]) -> HookedLayer:
    """The one that the config names, or the transcoders do."""
    transcoders = [artifact.transcoder for artifact in artifacts]
    try:
        return layer_of(model, transcoders, block=config.block, hook_in=config.hook_in, hook_out=config.hook_out)
    except ValueError as error:
        raise TrainConfigError(f"{error}: pass --block, or --hook-in and --hook-out") from error


def _block(layer: HookedLayer) -> int:
    """That the layer is in, by its hook's name; 0 for one in none."""
    parts = layer.hook_in.split(".")
    return int(parts[1]) if parts[0] == "blocks" and parts[1].isdigit() else 0


def _require_fit(artifact: Artifact, x: Tensor, y: Tensor) -> None:
    d_in, d_out = artifact.transcoder.W_enc.shape[0], artifact.transcoder.W_dec.shape[1]
    if (d_in, d_out) != (x.shape[1], y.shape[1]):
        raise ValueError(
            f"{artifact.name} maps {d_in} to {d_out} and the layer {x.shape[1]} to {y.shape[1]}: is it a transcoder of "
            "this layer and this model?"
        )


def _digest(path: Path) -> str:
    """Of the files in a folder, or of a file."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return "sha256:" + digest.hexdigest()
