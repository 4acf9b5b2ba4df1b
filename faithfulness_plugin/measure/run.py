"""What `faithfulness measure` does: finished transcoders against their real layer, each beside its references."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from faithfulness_plugin import metrics
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.language_model.widths import require_widths
from faithfulness_plugin.layers.replaced_layer import layer_and_pair
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
from faithfulness_plugin.transcoders.load import Loaded

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE


class Measurement(Experiment[ArtifactConfig, ArtifactResult]):
    """Measures transcoders of one layer, and the references of each: a shuffled decoder and the layer's mean."""

    parts = "measurements"
    config_class = ArtifactConfig

    def __init__(self, transcoders: Mapping[str, Loaded]) -> None:
        self.transcoders = {name: of.transcoder for name, of in transcoders.items()}
        self.digests = {name: of.digest for name, of in transcoders.items()}

    @override
    def fresh(self, config: ArtifactConfig) -> ArtifactResult:
        environment = Environment.here(config.device, packages=("transformers",))
        return ArtifactResult(complete=False, environment=environment, model=model_title(config.model), config=config)

    @override
    def found(self, result: ArtifactResult, config: ArtifactConfig) -> ArtifactResult:
        """Return the result. Raises UsageError where a transcoder is not the one that was measured."""
        del config
        for name, digest in self.digests.items():
            before = result.of(name)
            if before is not None and before.digest != digest:
                raise UsageError(
                    f"{name} is not what it was when the result was begun: bring it back, or choose another --out"
                )
        return result

    @override
    def progress(self, result: ArtifactResult) -> tuple[int, int]:
        return len(result.measured), len(result.config.transcoders) * len(_roles(result.config))

    @override
    def run(self, result: ArtifactResult, running: Running) -> Iterator[tuple[ArtifactResult, str]]:
        """Measure what is missing.

        Raises:
            TrainConfigError: the model or the text cannot be loaded, or nobody names the layer.
            UsageError: transcoders that differ from the layer in width.
            ValueError: a layer to which errors cannot be relative.
        """
        config, digests = result.config, self.digests
        bench = _Bench(config, self.transcoders, running.note)
        rows = bench.held_out.at.record()
        if result.layer is None:
            record = bench.held_out.layer_record(next(iter(self.transcoders.values())))
            result = result.model_copy(update={"layer": record, "rows": [rows], "notices": bench.notices()})
        for notice in result.notices:
            say(f"warning: {notice}")
        yield result, ""
        for name, role in product(self.transcoders, _roles(config)):
            if result.of(name, role) is not None:
                continue
            running.note(f"measuring: {name}, {role}")
            numbers = ArtifactNumbers(name=name, role=role, digest=digests[name], **bench.measure(name, role))
            result = result.model_copy(update={"measured": [*result.measured, numbers]})
            done, total = self.progress(result)
            result = result.model_copy(update={"complete": done == total})
            yield result, f"{name}, {role}: L0 {numbers.l0:.1f}, KL {numbers.kl:.3f}"

    @override
    def tables(self, result: ArtifactResult) -> str:
        return tables(result)


def _roles(config: ArtifactConfig) -> tuple[Role, ...]:
    """Return what is measured of each transcoder."""
    return ROLES if config.references else ROLES[:1]


class _Bench:
    """The model, the layer of some transcoders, and the held-out prompts."""

    def __init__(
        self, config: ArtifactConfig, transcoders: "Mapping[str, SAE[Any]]", note: Callable[[str], None]
    ) -> None:
        self.config, self.transcoders = config, transcoders
        source = LoadedModel(config, note, plain=True)
        self.hooks = source.hooks
        self.layer, self.pair = layer_and_pair(
            self.hooks,
            list(transcoders.values()),
            block=config.block,
            hook_in=config.hook_in,
            hook_out=config.hook_out,
            anyway=config.hooks_anyway,
        )
        require_widths(self.hooks, self.layer, transcoders)
        tokens = source.prompts(config.held_out_prompts)
        self.held_out = HeldOut(self.hooks, self.layer, tokens, config, source.exclude)
        self.tokens, at = self.held_out.evaluator.tokens, self.held_out.at
        self.kept, self.outputs = at.kept.mask[: config.spliced_prompts], at.outputs
        self.widths = at.rows.x.shape[1], self.outputs.shape[1]
        self.spectrum_rows = at.rows.spread(config.spectrum_rows).x

    def notices(self) -> list[str]:
        """List what has to be said of the tensors that are measured between."""
        found = []
        if self.pair.declared is not None:
            declared = " and ".join(self.pair.declared)
            found.append(f"measured between {self.pair.hook_in} and {self.pair.hook_out}; the files say {declared}")
        for name, transcoder in self.transcoders.items():
            warning = mismatch_warning(self.hooks, transcoder, self.tokens, self.layer, self.kept)
            if warning is not None:
                found.append(f"{name}: {warning}")
        return found

    def measure(self, name: str, role: Role) -> dict[str, Any]:
        """Measure a transcoder or one of its references; return fields of `ArtifactNumbers`."""
        seed = self.config.seed
        transcoder = own = self.transcoders[name]
        if role == "shuffled decoder":
            transcoder = shuffled_decoder(own, seed)
        elif role == "mean ablation":
            transcoder = mean_ablation(own, self.outputs)
        numbers = self.held_out.measure(transcoder)
        top = [k for k in self.config.top if k <= min(self.widths)]
        spectrum = metrics.jacobian_spectrum(transcoder, self.layer, self.spectrum_rows, top)
        interventions = Interventions(self.hooks, self.layer, self.tokens, self.kept, own, seed=seed)
        return {
            **dict(numbers),
            "architecture": own.cfg.architecture(),
            "d_sae": len(own.W_dec),
            "top": top,
            "top_error": list(spectrum.top_error),
            "effects": interventions.effects(transcoder),
            "deletion": None if role == "mean ablation" else interventions.deletion(transcoder),
        }
