"""Inspect a transcoder's features on one sample: everything that pages and exports are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from typing_extensions import override

from faithfulness_plugin.display import NotebookTable, line
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.activations import Activations, read_sample
from faithfulness_plugin.inspection.between.edges import FeatureEdges
from faithfulness_plugin.inspection.details import FeatureDetails, feature_details
from faithfulness_plugin.inspection.feature_interventions import FeatureIntervention
from faithfulness_plugin.inspection.feature_tokens import FeatureTokens, feature_tokens
from faithfulness_plugin.inspection.firing_together import FiringTogether, firing_together
from faithfulness_plugin.inspection.hooked_reading import require_fit
from faithfulness_plugin.inspection.hooked_transcoder import hooked
from faithfulness_plugin.inspection.layer_vocabulary import LayerVocabulary
from faithfulness_plugin.inspection.overview import Overview, overview
from faithfulness_plugin.inspection.passes import Passes, counted
from faithfulness_plugin.inspection.records import FeatureRecords, feature_records
from faithfulness_plugin.inspection.sample import RowSample
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.metrics.circuit_projection import Circuit
from faithfulness_plugin.results import vocabulary
from faithfulness_plugin.results.markdown import markdown_table

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    import pandas as pd
    from sae_lens import SAE

    from faithfulness_plugin.inspection.feature_view import FeatureView
    from faithfulness_plugin.inspection.page import Page


@dataclass(frozen=True)
class Inspection(NotebookTable):
    """What was found out about one transcoder on one sample."""

    name: str
    transcoder: "SAE[Any]"
    sample: RowSample
    records: FeatureRecords
    details: FeatureDetails
    overview: Overview
    activations: Activations = field(repr=False)
    layer_name: str = ""
    tokens: FeatureTokens | None = None
    """Each feature in the model's words; None where the layer is not part of a model with an unembedding."""
    token_text: Callable[[int], str] | None = field(default=None, repr=False)
    """Gives a token id's text; None shows numbers."""
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

    def page(self, title: str = "") -> "Page":
        """Make the page of this transcoder, which a notebook shows in a frame.

        Args:
            title: the page's; "" names the transcoder.

        Returns:
            The page; `.save(path)` writes it.
        """
        from faithfulness_plugin.inspection.page import Page

        return Page([self], title)

    def feature(self, index: int) -> "FeatureView":
        """Look at one feature, which a notebook shows with its tokens and examples.

        Args:
            index: its number.

        Returns:
            The feature.

        Raises:
            UsageError: there is no such feature.
        """
        from faithfulness_plugin.inspection.feature_view import FeatureView

        if not 0 <= index < self.records.d_sae:
            raise UsageError(f"there is no feature {index}: {self.name} has 0 to {self.records.d_sae - 1}")
        return FeatureView(self, index)

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
    token_text: Callable[[int], str] | None = None,
    circuits: Sequence[Circuit] = (),
    kinks: bool = False,
    top: int = 5,
    passes: Passes | None = None,
) -> Inspection:
    """Compute records, details and the overview of a transcoder on a sample (`row_sample`, `text_sample`).

    Args:
        transcoder: any SAELens transcoder with dense activations, or a module whose linear region is registered.
        layer: the function that it replaces.
        sample: at least two different rows.
        name: what the page calls the transcoder.
        layer_name: what the page calls the layer.
        vocabulary: the model's tokens at this layer (`layer_vocabulary`), where it is part of a language model.
        token_text: `TokenText(tokenizer)`, or any function from a token id to its text, by which pages show tokens.
        circuits: the layer's own, where they are known.
        kinks: whether the layer has no derivative along coordinates that are 0 (see `overview`).
        top: rows to remember of each feature.
        passes: says how far it is, and keeps what finished parts found: not where hooks intervene, which it does not
            see. None does neither.

    Returns:
        All that pages and exports show.

    Raises:
        ValueError: a sample of one input; no feature fires; as `feature_records` and `overview`.
    """
    if len(sample.copies) < 2:
        raise ValueError(f"the sample holds one input ({len(sample):,} times): look at more rows, or at other text")
    inspected, passes = hooked(transcoder.eval(), sample.x[:1]), passes or Passes()
    require_fit(inspected, sample)
    key = passes.key(repr(inspected.cfg), *inspected.state_dict().values(), sample.x, sample.y, f"{top} {kinks}")
    reading = passes.run("activations", key, lambda done: read_sample(inspected, sample, counted(done, len(sample))))
    records = passes.run(
        "features",
        key,
        lambda _: feature_records(inspected, sample, layer=layer, circuits=circuits, top=top, reading=reading),
    )
    if records.dead.all():
        raise ValueError(
            f"none of the {records.d_sae:,} features of {name} fires on these {len(sample):,} rows, so there is "
            "nothing to show: is it trained, and on this layer? If so, look at more rows or other text"
        )
    acts = reading.activations
    return Inspection(
        name=name,
        transcoder=inspected,
        sample=sample,
        records=records,
        details=passes.run("details", key, lambda _: feature_details(inspected, layer, sample, records, acts)),
        overview=passes.run(
            "Jacobians",
            key,
            lambda _: overview(inspected, layer, sample, records, circuits=circuits, kinks=kinks),
        ),
        activations=acts,
        layer_name=layer_name,
        token_text=token_text,
        tokens=None
        if vocabulary is None
        else passes.run("tokens", key, lambda _: feature_tokens(inspected, vocabulary)),
        together=passes.run("together", key, lambda _: firing_together(acts, sample)),
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
