from typing import Any

import pytest
import torch
from oracles import jacobian_by_rows
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)

from faithfulness_plugin import TopKTranscoder, gradient_masking_penalty, transcoder_jvp, transcoder_vjp
from faithfulness_plugin.jacobian.linear_region import linear_region
from faithfulness_plugin.transcoders.topk_inference import TopKTranscoderConfig

STOCK: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "transcoder": (Transcoder, TranscoderConfig, {}),
    "skip": (SkipTranscoder, SkipTranscoderConfig, {}),
    "jumprelu": (JumpReLUTranscoder, JumpReLUTranscoderConfig, {}),
    "jumprelu skip": (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig, {}),
    "topk": (TopKTranscoder, TopKTranscoderConfig, {"k": 3}),
    "topk skip": (TopKTranscoder, TopKTranscoderConfig, {"k": 3, "skip": True}),
}


def stock(name: str, **fields: Any) -> Any:
    transcoder_class, config_class, own = STOCK[name]
    config = config_class(d_in=5, d_out=4, d_sae=12, dtype="float64", apply_b_dec_to_input=False, **own, **fields)
    transcoder = transcoder_class(config)
    with torch.no_grad():
        for parameter in transcoder.parameters():
            parameter.normal_(std=0.3)
        if "jumprelu" in name:
            transcoder.threshold.abs_()
    return transcoder


@pytest.mark.parametrize("name", STOCK)
def test_finished_transcoders_have_the_closed_form(name):
    transcoder, x, v = stock(name), torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    u = torch.randn(9, 4, dtype=torch.float64)
    assert linear_region(transcoder, x) is not None
    J = torch.stack([jacobian_by_rows(lambda row: transcoder(row[None])[0], row) for row in x])
    y, Jv = transcoder_jvp(transcoder, x, v)
    torch.testing.assert_close(y, transcoder(x))
    torch.testing.assert_close(Jv, torch.einsum("noi,ni->no", J, v))
    torch.testing.assert_close(transcoder_vjp(transcoder, x, u)[1], torch.einsum("noi,no->ni", J, u))
    torch.testing.assert_close(transcoder_jvp(transcoder, x, v, gate=transcoder.encode(x)), (y, Jv))
    assert gradient_masking_penalty(transcoder, x) > 0


@pytest.mark.parametrize("name", STOCK)
def test_straight_through_gates_train_biases_and_thresholds(name):
    transcoder, x = stock(name), torch.randn(40, 5, dtype=torch.float64)
    if "topk" in name:
        with pytest.raises(ValueError, match="train the training class"):
            transcoder_jvp(transcoder, x, x, gate_bandwidth=0.5)
        return
    Jv = transcoder_jvp(transcoder, x, x, gate_bandwidth=0.5)[1]
    torch.testing.assert_close(Jv, transcoder_jvp(transcoder, x, x)[1])
    wanted = [transcoder.b_enc, *([transcoder.threshold] if "jumprelu" in name else [])]
    assert all(grad.norm() > 1e-3 for grad in torch.autograd.grad(Jv.square().sum(), wanted))


def test_what_is_normalised_on_the_way_in_goes_through_autograd():
    transcoder, x = stock("skip", normalize_activations="layer_norm"), torch.randn(9, 5, dtype=torch.float64)
    assert linear_region(transcoder, x) is None
    v = torch.randn(9, 5, dtype=torch.float64)
    J = torch.stack([jacobian_by_rows(transcoder, row) for row in x])
    torch.testing.assert_close(transcoder_jvp(transcoder, x, v)[1], torch.einsum("noi,ni->no", J, v))
