"""What `faithfulness measure` does with sets: one, some and all layers of a model replaced at once."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.layer_rows import LayerRows
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.language_model.model import model_title
from faithfulness_plugin.language_model.plan import ALL, say_blocks
from faithfulness_plugin.language_model.replacement import ReplacementModel, blocks_of
from faithfulness_plugin.language_model.rows import RowsRecord
from faithfulness_plugin.layers.hooked_layer import HookedLayer
from faithfulness_plugin.layers.replaced_layer import layer_of
from faithfulness_plugin.measure.sets.config import SetConfig
from faithfulness_plugin.measure.sets.effects import dose_curves
from faithfulness_plugin.measure.sets.layers import beside_layers
from faithfulness_plugin.measure.sets.predictions import predictions
from faithfulness_plugin.measure.sets.report import tables
from faithfulness_plugin.measure.sets.schema import LayerNumbers, SetNumbers, SetResult
from faithfulness_plugin.messages import say
from faithfulness_plugin.results.experiment import Experiment, Running
from faithfulness_plugin.results.schema import Environment
from faithfulness_plugin.store.kept_rows import KeptRows, kept_rows
from faithfulness_plugin.transcoders.load import Loaded


class SetMeasurement(Experiment[SetConfig, SetResult]):
    """Measures sets of transcoders, one for each layer of a model.

    Args:
        sets: by the set's name, its transcoders by theirs.

    Raises:
        UsageError: two transcoders of one block in a set, or one that names none.
    """

    parts = "measurements"
    config_class = SetConfig

    def __init__(self, sets: Mapping[str, Mapping[str, Loaded]]) -> None:
        self.loaded = {name: dict(of) for name, of in sets.items()}
        self.blocks = {
            name: blocks_of({called: loaded.transcoder for called, loaded in of.items()}) for name, of in sets.items()
        }

    @override
    def fresh(self, config: SetConfig) -> SetResult:
        environment = Environment.here(config.device, packages=("transformers",))
        return SetResult(complete=False, environment=environment, model=model_title(config.model), config=config)

    @override
    def found(self, result: SetResult, config: SetConfig) -> SetResult:
        """Return the result. Raises UsageError where a transcoder is not the one that was measured."""
        del config
        for of in result.measured:
            for layer in of.layers:
                if self.loaded[of.name][layer.name].digest != layer.digest:
                    raise UsageError(
                        f"{of.name}: {layer.name} has changed since the result was begun: restore it, or "
                        "choose another --out"
                    )
        return result

    @override
    def progress(self, result: SetResult) -> tuple[int, int]:
        done = sum(bool(of.layers) + bool(of.replaced) + len({c.block for c in of.changes}) for of in result.measured)
        return done, sum(2 + len(self._changed(result.config, name)) for name in self.blocks)

    def _changed(self, config: SetConfig, name: str) -> list[int]:
        """Return the blocks of a set whose layers are changed."""
        blocks = list(self.blocks[name])
        if not config.effects:
            return []
        if config.changed_blocks is None:
            return sorted({blocks[0], blocks[len(blocks) // 2], blocks[max(0, len(blocks) - 2)]})
        if config.changed_blocks == ALL:
            return blocks
        if missing := sorted(set(config.changed_blocks) - set(blocks)):
            raise UsageError(f"{name} has no transcoder of {say_blocks(missing)}, whose output is to be changed")
        return config.changed_blocks

    @override
    def run(self, result: SetResult, running: Running) -> Iterator[tuple[SetResult, str]]:
        """Measure what is missing.

        Raises:
            TrainConfigError: the model or the text cannot be loaded.
            UsageError: transcoders of layers that the model does not have, or of other widths.
        """
        config, total = result.config, self.progress(result)[1]
        bench = _Bench(config, running.note)
        models = {name: bench.model(of) for name, of in self.blocks.items()}  # refuses before anything is measured
        result = result.model_copy(update={"tokens": config.context_size - 1, "rows": bench.records()})
        for name in self.blocks:
            if missing := bench.missing(models[name]):
                say(f"{name}: no transcoder of {say_blocks(missing)}, whose MLPs stay as they are")
        yield result, ""
        for name, model in models.items():
            numbers = result.named(name) or SetNumbers(name=name, missing=bench.missing(model))
            for changed, line in self._measured(numbers, name, model, bench, running.note):
                update = {"ce_clean": bench.ce_clean} if bench.ce_clean else {}
                result = result.with_set(changed).model_copy(update=update)
                result = result.model_copy(update={"complete": self.progress(result)[0] == total})
                yield result, f"{name}: {line}"

    def _measured(
        self, numbers: SetNumbers, name: str, model: ReplacementModel, bench: "_Bench", note: Callable[[str], None]
    ) -> Iterator[tuple[SetNumbers, str]]:
        """Measure what is missing of one set."""
        config, blocks = bench.config, self.blocks[name]
        kept = {block: bench.kept(model.layers[block]).mask for block in blocks}
        if not numbers.layers:
            note(f"{name}: every transcoder beside its layer")
            found = beside_layers(model, bench.tokens, kept, config.prompts_per_pass)
            layers = [self._layer(name, block, model, found[block]) for block in blocks]
            numbers = numbers.model_copy(update={"layers": layers})
            yield numbers, f"{len(layers)} layers, mean L0 {sum(of.l0 for of in layers) / len(layers):.1f}"
        if not numbers.replaced:
            note(f"{name}: predictions with one, some and all layers replaced")
            bench.ce_clean, replaced = predictions(model, bench.tokens, kept, config.prompts_per_pass)
            numbers = numbers.model_copy(update={"replaced": replaced})
            everything = numbers.of(list(blocks))
            kl = 0.0 if everything is None else sum(everything.kl) / bench.n_predicted
            yield numbers, f"KL with all replaced {kl:.3f} nats a token"
        done = {of.block for of in numbers.changes}
        for block in self._changed(config, name):
            if block in done:
                continue
            note(f"{name}: changes at block {block}")
            prompts = slice(config.effect_prompts)
            masks = {b: mask[prompts] for b, mask in kept.items()}
            curves = dose_curves(model, bench.tokens[prompts], masks, block, config.doses, config.seed)
            numbers = numbers.model_copy(update={"changes": [*numbers.changes, *curves]})
            yield numbers, f"changes at block {block}"

    def _layer(self, name: str, block: int, model: ReplacementModel, found: Mapping[str, object]) -> LayerNumbers:
        called, transcoder = self.blocks[name][block]
        layer = model.layers[block]
        return LayerNumbers.model_validate(
            {
                "block": block,
                "name": called,
                "digest": self.loaded[name][called].digest,
                "hook_in": layer.hook_in,
                "hook_out": layer.hook_out,
                "d_sae": len(transcoder.W_dec),
                **found,
            }
        )

    @override
    def tables(self, result: SetResult) -> str:
        return tables(result)


class _Bench:
    """The model, the held-out prompts, and the layers that any of the sets replaces."""

    def __init__(self, config: SetConfig, note: Callable[[str], None]) -> None:
        self.config, self.ce_clean = config, list[float]()
        self.source = LoadedModel(config, note, plain=True)
        self.hooks = self.source.hooks
        self.tokens: Tensor = self.source.prompts(config.held_out_prompts).to(self.hooks.device)
        self._layers: dict[tuple[object, ...], HookedLayer] = {}
        self._kept: dict[tuple[str, str], KeptRows] = {}
        note("looking at the layers")

    @property
    def n_predicted(self) -> int:
        """Predicted tokens of all prompts."""
        return len(self.tokens) * (self.config.context_size - 1)

    def model(self, transcoders: Mapping[int, tuple[str, object]]) -> ReplacementModel:
        """Put a set into the model; layers that sets share are looked up and checked once."""
        found: dict[int, HookedLayer] = {}
        for block, (name, transcoder) in transcoders.items():
            metadata = transcoder.cfg.metadata  # pyright: ignore[reportAttributeAccessIssue]
            key = (block, *(getattr(metadata, of, None) for of in ("hook_name", "hook_name_out", "hookpoint")))
            if key not in self._layers:
                try:
                    self._layers[key] = layer_of(self.hooks, [transcoder])  # pyright: ignore[reportArgumentType]
                except ValueError as error:
                    raise UsageError(f"{name}: {error}") from error
            found[block] = self._layers[key]
        by_block = {block: transcoder for block, (_, transcoder) in transcoders.items()}
        return ReplacementModel(self.hooks, found, by_block, self.source.exclude)  # pyright: ignore[reportArgumentType]

    def kept(self, layer: HookedLayer) -> KeptRows:
        """Find the held-out tokens that count for a layer."""
        place = layer.hook_in, layer.hook_out
        if place not in self._kept:
            self._kept[place] = kept_rows(self.hooks, layer, self.tokens, self.source.exclude)
        return self._kept[place]

    def records(self) -> list[RowsRecord]:
        """Record which rows count, layer by layer."""
        batch = self.config.prompts_per_pass
        return [
            LayerRows(self.hooks, layer, self.tokens, self.kept(layer), batch).record()
            for layer in self._layers.values()
        ]

    @cached_property
    def with_mlp(self) -> list[int]:
        """The model's blocks that have an MLP."""
        found: list[int] = []
        for block in range(n_blocks(self.source.model)):
            try:
                self.hooks.mlp(block)
            except ValueError:
                continue
            found.append(block)
        return found

    def missing(self, model: ReplacementModel) -> list[int]:
        """List the blocks whose MLP a set does not replace."""
        return [block for block in self.with_mlp if block not in model.transcoders]


def n_blocks(model: object) -> int:
    """Count the blocks of a model of any library.

    Args:
        model: a TransformerBridge, a HookedTransformer or a Hugging Face model.

    Returns:
        Blocks; 0 where its config does not say.
    """
    cfg, config = getattr(model, "cfg", None), getattr(model, "config", None)
    if (n := getattr(cfg, "n_layers", None)) is not None:
        return int(n)
    of_text = getattr(config, "get_text_config", None)
    return int(getattr(config if of_text is None else of_text(), "num_hidden_layers", 0) or 0)
