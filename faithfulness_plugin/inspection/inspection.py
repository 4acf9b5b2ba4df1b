"""Inspect a transcoder's features on one sample: everything that pages and exports are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from typing_extensions import override

from faithfulness_plugin.display import NotebookTable, line
from faithfulness_plugin.inspection.between.edges import FeatureEdges
from faithfulness_plugin.inspection.details import FeatureDetails, feature_details
from faithfulness_plugin.inspection.feature_interventions import FeatureIntervention
from faithfulness_plugin.inspection.feature_tokens import FeatureTokens, feature_tokens
from faithfulness_plugin.inspection.firing_together import FiringTogether, firing_together
from faithfulness_plugin.inspection.hooked_transcoder import hooked
from faithfulness_plugin.inspection.layer_vocabulary import LayerVocabulary
from faithfulness_plugin.inspection.overview import Overview, overview
from faithfulness_plugin.inspection.records import FeatureRecords, feature_records
from faithfulness_plugin.inspection.sample import RowSample
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.circuit_projection import Circuit
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.markdown import markdown_table

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    import pandas as pd
    from sae_lens import SAE


@dataclass(frozen=True)
class Inspection(NotebookTable):
    """What was found out about one transcoder on one sample."""

    name: str
    transcoder: "SAE[Any]"
    sample: RowSample
    records: FeatureRecords
    details: FeatureDetails
    overview: Overview
    layer_name: str = ""
    tokens: FeatureTokens | None = None
    """Each feature in the model's words; None where the layer is not part of a model with an unembedding."""
    together: FiringTogether | None = None
    """Features that fire on the same rows."""
    edges: FeatureEdges | None = None
    """Partners in other layers; None for a transcoder that was inspected by itself."""
    interventions: Sequence[FeatureIntervention] = ()
    """What changing some features does to the model."""

    def __repr__(self) -> str:
        return line("Inspection", {"name": self.name, "layer_name": self.layer_name, "records": self.records})

    @override
    def to_frame(self) -> "pd.DataFrame":
        """Return the scores of `scores_table`."""
        import pandas as pd

        return pd.DataFrame([self.scores()])

    def scores(self) -> dict[str, str]:
        """Return the numbers that a page begins with.

        Returns:
            The numbers as text, by the names of their columns.
        """
        r, j = self.records, self.overview.jacobian
        first = int(r.datapoint.score.argmax())
        return {
            "transcoder": self.name,
            "FVU": f"{r.fvu:.3f}",
            "L0": f"{r.l0:.2f}",
            "dead": f"{int(r.dead.sum())} of {r.d_sae}",
            vocabulary.jacobian_error("isotropic"): f"{j.relative_error:.3f}",
            vocabulary.jacobian_error("data"): f"{j.relative_error_data:.3f}",
            "flagged": f"{int(r.flagged.sum())}",
            "first by datapoint score": f"{first} ({r.datapoint.score[first]:.2f})",
            "least faithful of those that matter": ", ".join(map(str, r.least_faithful(3))) or "none",
        }

    @property
    def neuronpedia(self) -> str | None:
        """The address of its features' pages, if its metadata name one."""
        found = getattr(getattr(self.transcoder.cfg, "metadata", None), "neuronpedia_id", None)
        return f"https://www.neuronpedia.org/{found}" if isinstance(found, str) and found else None


def inspect_transcoder(
    transcoder: nn.Module,
    layer: Layer,
    sample: RowSample,
    *,
    name: str = "transcoder",
    layer_name: str = "",
    vocabulary: LayerVocabulary | None = None,
    circuits: Sequence[Circuit] = (),
    kinks: bool = False,
    top: int = 5,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Inspection:
    """Compute records, details and the overview of a transcoder on a sample (`row_sample`, `text_sample`).

    Args:
        transcoder: any SAELens transcoder with dense activations, or a module whose linear region is registered.
        layer: the function that it replaces.
        sample: at least two different rows.
        name: what the page calls the transcoder.
        layer_name: what the page calls the layer.
        vocabulary: the model's tokens at this layer (`layer_vocabulary`), where it is part of a language model.
        circuits: the layer's own, where they are known.
        kinks: whether the layer has no derivative along coordinates that are 0 (see `overview`).
        top: rows to remember of each feature.
        on_rows: receives the number of rows after each part.

    Returns:
        All that pages and exports show.

    Raises:
        ValueError: a sample of one input; no feature fires; as `feature_records` and `overview`.
    """
    if len(sample.copies) < 2:
        raise ValueError(f"the sample holds one input ({len(sample):,} times): look at more rows, or at other text")
    inspected = hooked(transcoder.eval(), sample.x[:1])
    records = feature_records(inspected, sample, layer=layer, circuits=circuits, top=top, on_rows=on_rows)
    if records.dead.all():
        raise ValueError(
            f"none of the {records.d_sae:,} features of {name} fires on these {len(sample):,} rows, so there is "
            "nothing to show: is it trained, and on this layer? If so, look at more rows or other text"
        )
    return Inspection(
        name=name,
        transcoder=inspected,
        sample=sample,
        records=records,
        details=feature_details(inspected, layer, sample, records),
        overview=overview(inspected, layer, sample, records, circuits=circuits, kinks=kinks),
        layer_name=layer_name,
        tokens=None if vocabulary is None else feature_tokens(inspected, vocabulary),
        together=firing_together(inspected, sample),
    )


def scores_table(inspections: Sequence[Inspection]) -> str:
    """Format the scores of transcoders as a Markdown table, one row each.

    Args:
        inspections: the transcoders.

    Returns:
        The table.
    """
    scores = [of.scores() for of in inspections]
    return markdown_table(list(scores[0]), [list(of.values()) for of in scores])
