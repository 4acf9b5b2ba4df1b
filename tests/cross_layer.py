"""Cross-layer transcoders and chains for tests, in float64."""

from typing import Any

import torch
from oracles import ARCHITECTURES, random_transcoder
from torch import Tensor, nn

from faithfulness_plugin import CrossLayerTrainingTranscoder, CrossLayerTrainingTranscoderConfig, LayerChain

D, N, LAYERS = 4, 10, 3
PAIRS = [(l, m) for l in range(LAYERS) for m in range(l, LAYERS)]  # noqa: E741


def smooth_layer(d: int = D) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 2 * d), nn.SiLU(), nn.Linear(2 * d, d)).double().requires_grad_(False)


def chain(n_layers: int = LAYERS, **options: Any) -> LayerChain:
    return LayerChain([smooth_layer() for _ in range(n_layers)], **{"link": "feed", **options})


def cross_layer(architecture: str = "standard", n_layers: int = LAYERS, **fields: Any) -> CrossLayerTrainingTranscoder:
    """One with random weights and biases, and features that are active on about half of the rows."""
    _, config_class, own = ARCHITECTURES[architecture]
    each = config_class(**{"d_in": D, "d_sae": N, "dtype": "float64", **own, **fields.pop("each", {})})
    made = CrossLayerTrainingTranscoder(CrossLayerTrainingTranscoderConfig(n_layers=n_layers, per_layer=each, **fields))
    with torch.no_grad():
        made.b_dec.normal_(std=0.3)
        for part in made.parts:
            part.b_enc.normal_(std=0.3)
            part.W_enc *= 2
    return made


def rows(n: int = 6, n_layers: int = LAYERS) -> Tensor:
    return torch.randn(n, n_layers * D, dtype=torch.float64)


def block(jacobian: Tensor, l: int, m: int) -> Tensor:  # noqa: E741
    """The derivative of y_m by x_l in a whole Jacobian [..., L * D, L * D]."""
    return jacobian[..., m * D : (m + 1) * D, l * D : (l + 1) * D]


def per_layer(transcoder: CrossLayerTrainingTranscoder) -> list[Any]:
    """The transcoders of single layers with the weights of the diagonal."""
    alone = []
    for layer, part in enumerate(transcoder.parts):
        architecture = next(name for name, (cls, *_) in ARCHITECTURES.items() if type(part) is cls)
        own: Any = random_transcoder(architecture, D, D, N)
        state = {
            **part.state_dict(),
            "W_dec": part.W_dec[:, :D],
            "b_dec": transcoder.b_dec[layer * D : (layer + 1) * D],
        }
        own.load_state_dict(state)
        alone.append(own.train(transcoder.training))
    return alone


def without_crossing(transcoder: CrossLayerTrainingTranscoder) -> CrossLayerTrainingTranscoder:
    """The same one with decoders to later layers of 0."""
    with torch.no_grad():
        for part in transcoder.parts:
            part.W_dec[:, D:] = 0
    return transcoder
