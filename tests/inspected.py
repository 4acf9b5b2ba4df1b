"""Small inspections: of the toy, and of a text whose tokens are hostile."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from oracles import exact_abs_transcoder, plant_datapoint_feature

from faithfulness_plugin import AbsInputs, AbsNetwork, StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.inspection.between.edges import FeatureEdges
from faithfulness_plugin.inspection.between.interference import Interference
from faithfulness_plugin.inspection.between.partners import find_partners
from faithfulness_plugin.inspection.between.stream_features import StreamFeatures
from faithfulness_plugin.inspection.feature_interventions import DONE, Done, FeatureIntervention, NextTokenMoved
from faithfulness_plugin.inspection.inspection import Inspection, inspect_transcoder
from faithfulness_plugin.inspection.interventions import InterventionEffect
from faithfulness_plugin.inspection.layer_vocabulary import LayerVocabulary
from faithfulness_plugin.inspection.sample import Origins, build_sample, row_sample
from faithfulness_plugin.language_model.document_places import Document, DocumentIndex, DocumentPlaces
from faithfulness_plugin.layers.vocabulary import NormScale, Vocabulary
from faithfulness_plugin.toy.circuits import abs_circuits, datapoint_circuit

HOSTILE = (
    "<script>document.title='taken'</script>",
    "</script><img src=x onerror=\"document.title='taken'\">",
    '<a href="https://example.com">',
    "&lt;b&gt;",
    "<b>bold</b>",
    "'\"`${alert(1)}",
    "\u2028\U0001f600",
)


def toy(planted: bool = True, both: bool = False) -> list[Inspection]:
    """The exact transcoder of |x| with a datapoint feature planted at 35, and with `both` the one without beside it."""
    inputs = AbsInputs(16, density=0.1, repeat_frac=0.05, batch_size=2000, seed=3)
    layer = AbsNetwork(16).double()
    sample = row_sample(layer, next(inputs).double())
    circuits = [*abs_circuits(16), datapoint_circuit(inputs.point)]
    found = []
    for name in ("planted", "exact")[: 2 if both else 1]:
        transcoder = exact_abs_transcoder(16, 40)
        if planted and name == "planted":
            plant_datapoint_feature(transcoder, inputs.point.double(), 35)
        found.append(
            inspect_transcoder(transcoder, layer, sample, name=name, layer_name="|x|", circuits=circuits, kinks=True)
        )
    return found


def token_text(token: int) -> str:
    return HOSTILE[token % len(HOSTILE)]


def vocabulary(d: int = 80) -> LayerVocabulary:
    """Random embeddings of the hostile tokens, and a final norm with a random weight."""
    generator = torch.Generator().manual_seed(5)
    W_E, W_U, scale = (
        torch.randn(*shape, generator=generator) for shape in ((len(HOSTILE), d), (d, len(HOSTILE)), (d,))
    )
    norm = NormScale(scale, centred=True, divides=True)
    return LayerVocabulary(Vocabulary(W_E, W_U, norm), norm, 1.0)


def layer(d: int = 80, seed: int = 0) -> torch.nn.Module:
    """The random wide layer; seeds what is drawn after it."""
    torch.manual_seed(seed)
    made = torch.nn.Sequential(torch.nn.Linear(d, 2 * d), torch.nn.GELU(), torch.nn.Linear(2 * d, d))
    return made.requires_grad_(False)


def text(
    d_sae: int = 60,
    n_prompts: int = 12,
    n_pos: int = 20,
    neuronpedia: str | None = None,
    dead: int | None = None,
    seed: int = 0,
    documents: DocumentPlaces | None = None,
) -> Inspection:
    """A random transcoder of a random wide layer, on hostile tokens; features 0 and 1 are near-duplicates, and `dead`
    never fires."""
    replaced, d = layer(seed=seed), 80
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=d, d_sae=d_sae))
    with torch.no_grad():
        transcoder.b_enc.sub_(0.3)
        if dead is not None:
            transcoder.b_enc[dead] = -1e3
        transcoder.W_enc[:, 1] = transcoder.W_enc[:, 0] + 0.01 * torch.randn(d)
        transcoder.W_dec[1] = transcoder.W_dec[0] + 0.001 * torch.randn(d)
    transcoder.cfg.metadata.neuronpedia_id = neuronpedia
    kept = torch.ones(n_prompts, n_pos, dtype=torch.bool)
    kept[:, 0] = False
    tokens = torch.randint(len(HOSTILE), kept.shape)
    x = torch.randn(int(kept.sum()), d)
    sample = build_sample(x, replaced(x), replace(Origins.of_kept(tokens, kept), documents=documents))
    names: dict[str, Any] = {"name": "<i>hostile</i>", "layer_name": "<u>layer</u>"}
    return inspect_transcoder(transcoder, replaced, sample, vocabulary=vocabulary(), **names)


def documents(n_prompts: int = 12, n_pos: int = 20) -> DocumentPlaces:
    """Prompts of three documents: a hostile name, none, and a name; each prompt begins with a token of no document, and
    the second document begins in the middle of a prompt."""
    index = DocumentIndex(0)
    length = (n_pos - 1) * n_prompts
    for name, n in ((HOSTILE[1], n_pos + 5), ("", 3 * n_pos), ("third.txt", length)):
        index.add(Document("text", name), [1] * n)
    tokens = np.ones((n_prompts, n_pos), dtype=np.int64)
    tokens[:, 0] = 0
    return index.places(tokens, [(n_pos - 1) * n for n in range(n_prompts)])


def a_set(n_layers: int = 3, d_sae: int = 60) -> list[Inspection]:
    """Transcoders of several layers on one hostile text, feature 5 of the last one dead. Partners are those of the
    weights; where they fire together, and interference, are made up."""
    each = [text(d_sae, seed=seed) for seed in range(n_layers)]
    norm = vocabulary().norm_in
    for of in each[1:]:
        assert of.sample.origins is not None
        assert each[0].sample.origins is not None
        of.sample.origins.tokens.copy_(each[0].sample.origins.tokens)
    each[-1].records.mean_activation[5] = each[-1].records.firing_rate[5] = 0
    features = [StreamFeatures(of.transcoder, norm, 1.0) for of in each]
    partners = find_partners(features, [of.records.mean_activation for of in each], [0.5] * n_layers)
    made_up = np.random.default_rng(0).random((3, d_sae))
    made_up[:, 7] = np.nan
    found = []
    for n, (of, (up, down)) in enumerate(zip(each, partners, strict=True)):
        shares = np.where(up.places >= 0, 0.4, 0), np.where(down.places >= 0, 0.8, 0)
        edges = FeatureEdges(up, down, *shares, Interference(*made_up), inverse_size=0.5, n_rows=228)
        found.append(replace(of, name=f"<b>block</b> {n}", edges=edges, sample=of.sample.without_rows()))
    return found


def intervened(of: Inspection, features: Sequence[int] = (3, 9), dead: int = 11) -> Inspection:
    """With made-up interventions on features, of which one never fires."""
    generator = np.random.default_rng(1)
    stages = tuple(f"blocks.{block}.hook_resid_post" for block in (4, 5, 6))

    def effect(feature: int, do: Done) -> InterventionEffect:
        error, cosine = (0.0, 0.25, None), (1.0, 0.5, None)
        sizes = {"size_layer": (1.0, 2.0, 0.0), "size_transcoder": (1.0, 2.0, 0.0)}
        return InterventionEffect((feature,), do, "writing", 12, stages, cosine, (8, 8, 0), error, **sizes)

    def moved(do: Done) -> NextTokenMoved:
        n = 5 if do == "ablate" else len(HOSTILE)
        return NextTokenMoved(0.125, 0.25, np.arange(n), *generator.standard_normal((2, n)))

    each = [
        FeatureIntervention(i, 8, {do: effect(i, do) for do in DONE}, {do: moved(do) for do in DONE}) for i in features
    ]
    return replace(of, interventions=[*each, FeatureIntervention(dead, 0, {}, {})])
