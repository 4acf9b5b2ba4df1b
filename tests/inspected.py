"""Small inspections: of the toy, and of a text whose tokens are hostile."""

import torch
from oracles import exact_abs_transcoder, plant_datapoint_feature

from faithfulness_plugin import AbsInputs, AbsNetwork, StandardTrainingTranscoder, StandardTrainingTranscoderConfig
from faithfulness_plugin.inspection.inspection import Inspection, inspect_transcoder
from faithfulness_plugin.inspection.sample import Origins, build_sample, row_sample
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


def text(d_sae: int = 60, n_prompts: int = 12, n_pos: int = 20, neuronpedia: str | None = None) -> Inspection:
    """A random transcoder of a random wide layer, on prompts of hostile tokens."""
    torch.manual_seed(0)
    d = 80
    layer = torch.nn.Sequential(torch.nn.Linear(d, 2 * d), torch.nn.GELU(), torch.nn.Linear(2 * d, d))
    layer.requires_grad_(False)
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=d, d_sae=d_sae))
    with torch.no_grad():
        transcoder.b_enc.sub_(0.3)
    transcoder.cfg.metadata.neuronpedia_id = neuronpedia
    kept = torch.ones(n_prompts, n_pos, dtype=torch.bool)
    kept[:, 0] = False
    tokens = torch.randint(len(HOSTILE), kept.shape)
    x = torch.randn(int(kept.sum()), d)
    sample = build_sample(x, layer(x), Origins.of_kept(tokens, kept))
    return inspect_transcoder(transcoder, layer, sample, name="<i>hostile</i>", layer_name="<u>layer</u>")
