"""What `faithfulness measure` does: finished transcoders against their real layer, each beside its references."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from faithfulness_plugin import metrics
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.language_model.widths import require_widths
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.hooks import Hooks
from faithfulness_plugin.layers.replaced_layer import NamesNoLayer, Pair, layer_at_pair, pair_of
from faithfulness_plugin.measure.artifacts import Artifact
from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.measure.held_out import HeldOut
from faithfulness_plugin.measure.interventions import Interventions
from faithfulness_plugin.measure.ranked_pairs import mismatch_warning
from faithfulness_plugin.measure.references import mean_ablation, shuffled_decoder
from faithfulness_plugin.measure.report import tables
from faithfulness_plugin.measure.schema import ROLES, ArtifactNumbers, ArtifactResult, Role
from faithfulness_plugin.messages import say
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.schema import Environment

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE


class Measurement(Experiment[ArtifactConfig, ArtifactResult]):
    """Measures transcoders of one layer, and the references of each: a shuffled decoder and the layer's mean."""

    parts = "measurements"
    config_class = ArtifactConfig

    def __init__(self, artifacts: Sequence[Artifact]) -> None:
        self.artifacts = artifacts

    @override
    def fresh(self, config: ArtifactConfig) -> ArtifactResult:
        environment = Environment.here(config.device, packages=("transformers",))
        return ArtifactResult(complete=False, environment=environment, model=model_title(config.model), config=config)

    @override
    def found(self, result: ArtifactResult, config: ArtifactConfig) -> ArtifactResult:
        """Return the result. Raises UsageError where a transcoder is not the one that was measured."""
        del config
        for artifact in self.artifacts:
            before = result.of(artifact.name)
            if before is not None and before.digest != artifact.digest:
                raise UsageError(
                    f"{artifact.name} is not what it was when the result was begun: bring it back, or choose another "
                    "--out"
                )
        return result

    @override
    def progress(self, result: ArtifactResult) -> tuple[int, int]:
        return len(result.measured), len(result.config.transcoders) * len(ROLES)

    @override
    def run(self, result: ArtifactResult, running: Running) -> Iterator[tuple[ArtifactResult, str]]:
        """Measure what is missing.

        Raises:
            TrainConfigError: the model or the text cannot be loaded, or nobody names the layer.
            UsageError: transcoders that differ from the layer in width.
            ValueError: a layer to which errors cannot be relative.
        """
        bench = _Bench(result.config, self.artifacts, running.note)
        rows = bench.held_out.at.record()
        if result.layer is None:
            record = bench.held_out.layer_record(self.artifacts[0].transcoder)
            result = result.model_copy(update={"layer": record, "rows": [rows], "notices": bench.notices()})
        for notice in result.notices:
            say(f"warning: {notice}")
        yield result, ""
        for artifact in self.artifacts:
            for role in ROLES:
                if result.of(artifact.name, role) is not None:
                    continue
                running.note(f"measuring: {artifact.name}, {role}")
                numbers = bench.measure(artifact, role)
                result = result.model_copy(update={"measured": [*result.measured, numbers]})
                done, total = self.progress(result)
                result = result.model_copy(update={"complete": done == total})
                yield result, f"{artifact.name}, {role}: L0 {numbers.l0:.1f}, KL {numbers.kl:.3f}"

    @override
    def tables(self, result: ArtifactResult) -> str:
        return tables(result)


class _Bench:
    """The model, the layer of some transcoders, and the held-out prompts."""

    def __init__(self, config: ArtifactConfig, artifacts: Sequence[Artifact], note: Callable[[str], None]) -> None:
        self.config, self.artifacts = config, artifacts
        source = LoadedModel(config, note, plain=True)
        self.hooks = source.hooks
        self.layer, self.pair = _layer(self.hooks, config, [artifact.transcoder for artifact in artifacts])
        require_widths(self.hooks, self.layer, {artifact.name: artifact.transcoder for artifact in artifacts})
        tokens = source.prompts(config.held_out_prompts)
        self.held_out = HeldOut(self.hooks, self.layer, tokens, config, source.exclude)
        self.tokens = self.held_out.evaluator.tokens
        self.kept = self.held_out.at.kept.mask[: config.spliced_prompts]
        x = self.held_out.rows.x
        self.widths = x.shape[1], self.held_out.at.outputs.shape[1]
        self.spectrum_rows = self.held_out.rows.spread(config.spectrum_rows).x

    def notices(self) -> list[str]:
        """List what has to be said of the tensors that are measured between."""
        found = []
        if self.pair.declared is not None:
            declared = " and ".join(self.pair.declared)
            found.append(f"measured between {self.pair.hook_in} and {self.pair.hook_out}; the files say {declared}")
        for artifact in self.artifacts:
            warning = mismatch_warning(self.hooks, artifact.transcoder, self.tokens, self.layer, self.kept)
            if warning is not None:
                found.append(f"{artifact.name}: {warning}")
        return found

    def measure(self, artifact: Artifact, role: Role) -> ArtifactNumbers:
        """Measure a transcoder or one of its references."""
        seed, transcoder = self.config.seed, artifact.transcoder
        if role == "shuffled decoder":
            transcoder = shuffled_decoder(artifact.transcoder, seed)
        elif role == "mean ablation":
            transcoder = mean_ablation(artifact.transcoder, self.held_out.at.outputs)
        numbers = self.held_out.measure(transcoder)
        top = [k for k in self.config.top if k <= min(self.widths)]
        spectrum = metrics.jacobian_spectrum(transcoder, self.layer, self.spectrum_rows, top)
        interventions = Interventions(self.hooks, self.layer, self.tokens, self.kept, artifact.transcoder, seed=seed)
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


def _layer(hooks: Hooks, config: ArtifactConfig, transcoders: "Sequence[SAE[Any]]") -> tuple[HookedLayer, Pair]:
    """Return the layer between the tensors that the transcoders name, or the config does."""
    options = {"layer": config.block, "hook_in": config.hook_in, "hook_out": config.hook_out}
    try:
        pair = pair_of(hooks, transcoders, **options, anyway=config.hooks_anyway)
        return layer_at_pair(hooks, pair, autoencoder=config.autoencoder), pair
    except NamesNoLayer as error:
        raise UsageError(f"{error}: pass --layer, or --hook-in and --hook-out") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
