"""Methods for chains as an outsider might write them, good and bad."""

from typing import Any

import torch

from faithfulness_plugin import (
    CrossLayerTrainingTranscoder,
    CrossLayerTrainingTranscoderConfig,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    train_transcoder,
)


class Together:
    strengths = (0.1,)

    def train(self, chain: Any, inputs: Any, *, seed: int, strength: float) -> Any:
        each = StandardTrainingTranscoderConfig(d_in=inputs.d_in, d_sae=12, sparsity_coefficient=strength)
        config = CrossLayerTrainingTranscoderConfig(n_layers=inputs.n_layers, per_layer=each)
        return train_transcoder(
            CrossLayerTrainingTranscoder(config), chain, inputs, n_steps=20, progress=False
        ).transcoder


class EachAlone(Together):
    def train(self, chain: Any, inputs: Any, *, seed: int, strength: float) -> Any:
        config = StandardTrainingTranscoderConfig(d_in=inputs.d_in, d_sae=12, sparsity_coefficient=strength)
        return [StandardTrainingTranscoder(config).eval() for _ in chain.layers]


class Short(EachAlone):
    def train(self, *arguments: Any, **options: Any) -> Any:
        return super().train(*arguments, **options)[:1]


class Number(Together):
    def train(self, *arguments: Any, **options: Any) -> Any:
        return 3


class IsNan(EachAlone):
    def train(self, *arguments: Any, **options: Any) -> Any:
        made = super().train(*arguments, **options)
        with torch.no_grad():
            made[0].b_dec.fill_(torch.nan)
        return made


together, each_alone, a_list_too_short, a_number, is_nan = Together(), EachAlone(), Short(), Number(), IsNan()
