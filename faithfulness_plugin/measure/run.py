"""What `faithfulness measure` does: finished transcoders against their real layer, each beside its references."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.exact import transcoder_jacobian
from faithfulness_plugin.language_model.evaluator import Comparison
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.language_model.spliced_loss import SplicedByPrompt
from faithfulness_plugin.language_model.widths import require_widths
from faithfulness_plugin.layers.replaced_layer import layer_and_pair
from faithfulness_plugin.measure.config import ArtifactConfig
from faithfulness_plugin.measure.held_out import JACOBIANS, OWN, SPLICED, HeldOut
from faithfulness_plugin.measure.interventions import Interventions
from faithfulness_plugin.measure.progress import Parts, roles_of, work
from faithfulness_plugin.measure.ranked_pairs import mismatch_warning
from faithfulness_plugin.measure.references import mean_ablation, shuffled_decoder
from faithfulness_plugin.measure.report import tables
from faithfulness_plugin.measure.schema import ArtifactNumbers, ArtifactResult, ChangeKind, EffectRecord, Role
from faithfulness_plugin.measure.verdict import verdict
from faithfulness_plugin.messages import say
from faithfulness_plugin.metrics.jacobian_spectrum import LayerSpectrum, layer_spectrum
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
                raise UsageError(f"{name} has changed since the result was begun: restore it, or choose another --out")
        return result

    @override
    def progress(self, result: ArtifactResult) -> tuple[int, int]:
        return len(result.measured), len(result.config.transcoders) * len(roles_of(result.config))

    @override
    def run(self, result: ArtifactResult, running: Running) -> Iterator[tuple[ArtifactResult, str]]:
        """Measure what is missing.

        Raises:
            TrainConfigError: the model or the text cannot be loaded, or nobody names the layer.
            UsageError: transcoders that differ from the layer in width.
            ValueError: a layer to which errors cannot be relative.
        """
        bench = _Bench(result.config, self.transcoders, running.note)
        rows = bench.held_out.at.record()
        if result.layer is None:
            result = result.model_copy(update={"rows": [rows], "notices": bench.notices()})
        for notice in result.notices:
            say(f"warning: {notice}")
        if result.layer is not None:
            yield result, ""
        # all runs that follow are on the same prompts, and differ from the layer on
        with bench.hooks.beginning_at(bench.layer.hook_in):
            for name in self.transcoders:
                for grown, line in self._measured(result, name, bench, running):
                    result = grown
                    yield result, line

    def _measured(
        self, result: ArtifactResult, name: str, bench: "_Bench", running: Running
    ) -> Iterator[tuple[ArtifactResult, str]]:
        """Measure what is missing of a transcoder and its references."""
        costs, of = work(result.config, self._missing(result, name)), _WithReferences(bench, name)
        spliced: dict[Role, SplicedByPrompt] = {}
        for role, parts in costs.items():
            progress = Parts(running, f"{name}, {role}", parts)
            if not spliced:
                progress.begin(SPLICED)
                spliced = of.spliced(list(costs), progress.within)
            progress.begin(JACOBIANS)
            found = of.compare(role)
            if result.layer is None:
                result = result.model_copy(update={"layer": bench.held_out.layer_record(found)})
                yield result, ""
            fields = of.measure(role, found, spliced[role], progress)
            numbers = ArtifactNumbers(name=name, role=role, digest=self.digests[name], **fields)
            result = result.model_copy(update={"measured": [*result.measured, numbers]})
            done, total = self.progress(result)
            result = result.model_copy(update={"complete": done == total})
            line = f"{name}, {role}: L0 {numbers.l0:.1f}, KL {numbers.kl:.3f}"
            yield result, verdict(result, name) if role == OWN else line

    def _missing(self, result: ArtifactResult, name: str) -> list[Role]:
        return [role for role in roles_of(result.config) if result.of(name, role) is None]

    @override
    def work_left(self, result: ArtifactResult) -> float:
        """Estimate the work that is left, in runs of the model on one prompt."""
        costs = [work(result.config, self._missing(result, name)) for name in result.config.transcoders]
        return sum(sum(parts.values()) for of in costs for parts in of.values())

    @override
    def tables(self, result: ArtifactResult) -> str:
        return tables(result)


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
        tokens, at, changed = self.held_out.evaluator.tokens, self.held_out.at, slice(config.changed_prompts)
        self.tokens, self.kept, self.outputs = tokens[changed], at.kept.mask[changed], at.outputs
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

    @cached_property
    def spectrum(self) -> LayerSpectrum:
        """The layer's Jacobian, decomposed at some rows."""
        return layer_spectrum(self.layer, self.spectrum_rows)


class _WithReferences:
    """One transcoder, and what it is measured beside."""

    def __init__(self, bench: _Bench, name: str) -> None:
        self.bench, self.own, self.left_out = bench, bench.transcoders[name], bench.config.left_out
        self.modules: dict[Role, SAE[Any]] = {OWN: self.own}

    @cached_property
    def interventions(self) -> Interventions:
        """The changes inside the model, the same for all."""
        bench = self.bench
        return Interventions(bench.hooks, bench.layer, bench.tokens, bench.kept, self.own, seed=bench.config.seed)

    def spliced(self, roles: Sequence[Role], on_run: Callable[[float], None]) -> dict[Role, SplicedByPrompt]:
        """Run the model with each in the layer's place."""
        if "shuffled decoder" in roles:
            self.modules["shuffled decoder"] = shuffled_decoder(self.own, self.bench.config.seed)
        if "mean ablation" in roles:
            self.modules["mean ablation"] = mean_ablation(self.own, self.bench.outputs)
        return self.bench.held_out.spliced({role: self.modules[role] for role in roles}, on_run)

    def compare(self, role: Role) -> Comparison:
        """Compare the transcoder or a reference with the layer, row by row."""
        return self.bench.held_out.compare(self.modules[role])

    @torch.no_grad()
    def measure(self, role: Role, found: Comparison, spliced: SplicedByPrompt, progress: Parts) -> dict[str, Any]:
        """Measure the transcoder or a reference; return fields of `ArtifactNumbers`."""
        bench, transcoder = self.bench, self.modules[role]
        numbers = bench.held_out.measure(transcoder, found=found, spliced=spliced, begin=progress.begin)
        top: list[int] = []
        top_error: tuple[float, ...] = ()
        if "first directions" not in self.left_out:
            progress.begin("first directions")
            top = [k for k in bench.config.top if k <= min(bench.widths)]
            top_error = bench.spectrum.top_error(transcoder_jacobian(transcoder, bench.spectrum_rows), top)
        effects: dict[ChangeKind, list[EffectRecord]] = {}
        if "effects" not in self.left_out:
            progress.begin("effects")
            effects = self.interventions.effects(transcoder)
        deletion = None
        if "deletion" not in self.left_out and role != "mean ablation":
            progress.begin("deletion")
            deletion = self.interventions.deletion(transcoder, bench.config.deletion_sizes, progress.within)
        return {
            **dict(numbers),
            "architecture": self.own.cfg.architecture(),
            "d_sae": len(self.own.W_dec),
            "top": top,
            "top_error": list(top_error),
            "effects": effects,
            "deletion": deletion,
        }
