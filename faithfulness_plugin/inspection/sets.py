"""Inspect the transcoders of several layers of one model, and what their features are to each other."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.between.edges import InLayer, feature_edges
from faithfulness_plugin.inspection.between.stream_features import StreamFeatures
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.passes import Passes
from faithfulness_plugin.inspection.sample import MEMORY, Origins
from faithfulness_plugin.inspection.subjects import Subject, text_subject
from faithfulness_plugin.language_model.loaded import LoadedModel
from faithfulness_plugin.layers.hooked_layer import HookedLayer

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

Then = Callable[[int, Subject, Inspection], Inspection]


def inspect_set(
    source: LoadedModel,
    transcoders: "Mapping[int, SAE[Any]]",
    *,
    n_tokens: int,
    memory: float = MEMORY,
    model_named: str | None = None,
    then: Then = lambda _block, _subject, of: of,
    on_part: Callable[[str], None] = lambda _: None,
    passes: Passes | None = None,
) -> list[Inspection]:
    """Inspect the transcoders of a set layer by layer on one text, then the edges between their features.

    The rows of one layer are held at a time.

    Args:
        source: the model, with its text.
        transcoders: by block, in `eval` mode.
        n_tokens: tokens to look at.
        memory: GiB for rows and activations, beside model and transcoders.
        model_named: the model of the transcoders' metadata, where another one is used on purpose.
        then: called with block, subject and inspection of each, while its rows are there; returns the inspection.
        on_part: receives a line before each part.
        passes: as in `inspect_transcoder`.

    Returns:
        The inspections in the order of the blocks, named by them, with edges.

    Raises:
        UsageError: one transcoder alone; layers that the model does not have; as `text_subject` and `feature_edges`.
    """
    if len(transcoders) < 2:
        raise UsageError("a set has transcoders of two layers or more: inspect one transcoder by itself")
    found: list[Inspection] = []
    layers: list[InLayer] = []
    origins: list[Origins] = []
    for block, transcoder in sorted(transcoders.items()):
        on_part(f"block {block}")
        shared: dict[str, Any] = {"n_tokens": n_tokens, "memory": memory, "passes": passes}
        subject = text_subject(source, [transcoder], model_named=model_named, **shared)
        of = then(block, subject, subject.inspect(transcoder, name=f"block {block}", passes=passes))
        assert isinstance(subject.layer, HookedLayer)
        assert subject.sample.origins is not None
        if subject.layer.hook_in == subject.layer.hook_out:
            raise UsageError(
                f"the transcoder of block {block} reads and writes {subject.layer.hook_in}: it is an autoencoder, for "
                "which no edges are defined here: inspect it by itself"
            )
        features = StreamFeatures.of(of.transcoder, subject.vocabulary)
        layers.append(InLayer(subject.layer, subject.vocabulary, features, of.records.mean_activation))
        origins.append(subject.sample.origins)
        found.append(replace(of, sample=of.sample.without_rows(), layer_name=source.title))
    edges = feature_edges(source.hooks, layers, origins, memory=memory, on_pass=on_part)
    return [replace(of, edges=own) for of, own in zip(found, edges, strict=True)]
