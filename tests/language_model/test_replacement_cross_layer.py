"""A cross-layer transcoder in the places of a model's layers."""

from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from faithfulness_plugin import (
    CrossLayerTrainingTranscoder,
    CrossLayerTrainingTranscoderConfig,
    StandardTrainingTranscoderConfig,
)
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.replacement import ReplacementModel
from faithfulness_plugin.layers.any_model import hooks_of, mlp_layer
from faithfulness_plugin.layers.spliced import run_replaced
from faithfulness_plugin.transcoders.layer_views import layer_views

D = tiny_models.D_MODEL


def cross_layer(**fields: Any) -> CrossLayerTrainingTranscoder:
    torch.manual_seed(3)
    each = StandardTrainingTranscoderConfig(d_in=D, d_sae=24, dtype="float64")
    made = CrossLayerTrainingTranscoder(CrossLayerTrainingTranscoderConfig(n_layers=2, per_layer=each, **fields)).eval()
    with torch.no_grad():
        made.b_dec.normal_(std=0.3)
    return made


def tokens() -> Tensor:
    found = torch.randint(1, tiny_models.N_VOCAB, (3, 7), generator=torch.Generator().manual_seed(5))
    found[:, 0] = 0
    return found


def replaced(clt: CrossLayerTrainingTranscoder) -> ReplacementModel:
    hooks = hooks_of(tiny_models.hugging_face("llama"))
    layers = {block: mlp_layer(hooks, block) for block in (0, 1)}
    views: dict[int, Any] = dict(enumerate(layer_views(clt)))
    return ReplacementModel(hooks, layers, views, exclude=torch.tensor([0]))


@pytest.mark.parametrize("fields", [{}, {"tied": True}, {"bandwidth": 1}], ids=str)
@torch.no_grad()
def test_what_is_written_is_the_whole_transcoder_at_what_its_layers_read_in_that_run(fields):
    clt = cross_layer(**fields)
    model = replaced(clt)
    read: dict[int, Tensor] = {}

    def keep(block: int) -> Any:
        return lambda x: read.setdefault(block, x)

    # the slow twin: what both layers read in that run, the whole transcoder there, and its outputs as constants
    sites = model.sites(tokens())
    twins = [
        type(site)(site.layer, site.kept, site.transcoder, of_input=keep(block)) for block, site in enumerate(sites)
    ]
    logits = run_replaced(model.hooks, tokens(), twins).logits
    torch.testing.assert_close(model.run(tokens()).logits, logits)
    y = clt(torch.cat([read[0], read[1]], dim=-1)).chunk(2, dim=-1)

    def written(block: int) -> Any:
        return lambda own: torch.where(sites[block].kept[..., None], y[block], own)

    constant = [type(site)(site.layer, site.kept, of_output=written(block)) for block, site in enumerate(sites)]
    torch.testing.assert_close(run_replaced(model.hooks, tokens(), constant).logits, logits)


@torch.no_grad()
def test_with_error_nodes_the_logits_are_the_models():
    model = replaced(cross_layer())
    clean = model.hooks.run(tokens(), {})
    torch.testing.assert_close(model.run(tokens(), errors=True).logits, clean)
    assert (model.run(tokens()).logits - clean).abs().max() > 0.01


@torch.no_grad()
def test_a_run_that_leaves_a_layer_out_is_refused_and_the_next_one_is_right():
    model = replaced(cross_layer())
    right = model.run(tokens()).logits
    with pytest.raises(UsageError, match="replace all of its layers in a run, in order"):
        model.run(tokens(), [1])
    model.run(tokens(), [0])
    torch.testing.assert_close(model.run(tokens()).logits, right)


@torch.no_grad()
def test_with_no_decoders_across_layers_it_is_one_transcoder_for_each():
    clt = cross_layer(bandwidth=1)
    x = torch.randn(4, 2 * D, dtype=torch.float64)
    first, second = layer_views(clt)
    torch.testing.assert_close(torch.cat([first(x[:, :D]), second(x[:, D:])], dim=-1), clt(x))
    assert first.W_dec.shape == (24, D)
