import dataclasses
import json

import numpy as np
import pytest
import tiny_models
import torch
from oracles import exact_abs_transcoder, plant_datapoint_feature
from sae_lens import SAE

from faithfulness_plugin import (
    AbsInputs,
    AbsNetwork,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
)
from faithfulness_plugin.inspection.interventions import intervene
from faithfulness_plugin.layers.any_model import layer_between, mlp_layer

D = tiny_models.D_MODEL


@pytest.fixture
def rows():
    return next(AbsInputs(16, density=0.1, repeat_frac=0.05, batch_size=600)).double()


@pytest.mark.parametrize(("do", "value"), [("ablate", None), ("double", None), ("clamp", 0.3), ("steer", 0.2)])
@pytest.mark.parametrize("through", ["reading", "writing"])
def test_the_layers_own_features_do_what_the_layer_does(rows, do, value, through):
    layer = AbsNetwork(16).double()
    found = intervene(exact_abs_transcoder(16).eval(), rows, 5, layer=layer, do=do, value=value, through=through)
    assert found.faithfulness == pytest.approx(1)
    assert found.error[0] == pytest.approx(0, abs=1e-12)
    assert found.stages == ("hook_out",)
    active = int((rows[:, 5] > 0).sum())
    assert found.changed == (len(rows) if do == "steer" else active)


def test_a_datapoint_feature_is_unfaithful_in_what_it_reads_which_a_cosine_does_not_see(rows):
    transcoder, layer, point = exact_abs_transcoder(16, 40).eval(), AbsNetwork(16).double(), AbsInputs(16).point
    plant_datapoint_feature(transcoder, point.double(), 35)
    found = intervene(transcoder, rows, 35, layer=layer)
    assert found.faithfulness < 0.1
    assert found.cosine[0] is not None
    assert found.cosine[0] > 0.99
    assert found.changed == int((rows == point).all(-1).sum())
    # at p: the step moves its pre-activation, 1, to 0, so each of p's coordinates by 1 / 30
    size = (3**0.5 / 30) * (found.changed / len(rows)) ** 0.5
    assert found.size_layer[0] == pytest.approx(size)


def test_agreement_is_one_for_equal_effects_nothing_for_foreign_ones_and_sees_sizes():
    found = intervene(exact_abs_transcoder(4).eval(), torch.eye(4).double(), 0, layer=AbsNetwork(4).double())

    def with_effects(f, t):
        error = ((t - f).square().sum() / f.square().sum()).item()
        sizes = {"size_layer": (f.norm().item(),), "size_transcoder": (t.norm().item(),)}
        return dataclasses.replace(found, error=(error,), **sizes).faithfulness

    f, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 2.0])
    expected = {0: (f, f, 1.0), 1: (f, other, 0.0), 2: (f, 0 * f, 0.0), 3: (f, -f, -1.0), 4: (f, 3 * f, 0.6)}
    for of_layer, of_transcoder, agreement in expected.values():
        assert with_effects(of_layer, of_transcoder) == pytest.approx(agreement, abs=1e-6)


def test_a_layer_that_does_not_answer_at_all_has_nothing_of_what_the_transcoder_does(rows):
    network = AbsNetwork(16).double()
    with torch.no_grad():
        network.W_out[5] = 0  # what feature 5 stands for writes nothing in the layer
    found = intervene(exact_abs_transcoder(16).eval(), rows, np.int64(5), layer=network)
    assert found.error == (None,)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["error"] == [None]
    assert (found.cosine, found.moved) == ((None,), (0,))
    assert found.faithfulness == 0.0
    assert found.size_transcoder[0] > 0


def test_what_is_printed_and_kept_begins_with_the_agreement(rows):
    found = intervene(exact_abs_transcoder(16).eval(), rows, 5, layer=AbsNetwork(16).double())
    assert repr(found).startswith(f"InterventionEffect(faithfulness={found.faithfulness!r}, agreement=(")
    assert found.to_dict()["agreement"] == found.agreement
    assert f"moved=({found.moved[0]},)" in repr(found)
    assert 0 < found.moved[0] <= found.changed


def transcoder_of(layer, **fields) -> StandardTrainingTranscoder:
    config = StandardTrainingTranscoderConfig(d_in=D, d_sae=24, dtype="float64", **fields)
    made = StandardTrainingTranscoder(config).set_layer(layer)
    made.cfg.metadata.hook_name = layer.hook_in
    return made.eval()


MODELS = {
    "sae": lambda: tiny_models.hooked(sae=True),
    "hooked": lambda: tiny_models.hooked("LN"),
    "bridge": lambda: tiny_models.bridge("llama"),
    "sae bridge": tiny_models.sae_bridge,
}


@pytest.mark.parametrize("kind", MODELS)
def test_in_a_model_effects_are_compared_after_every_block_from_the_layers_own_on(kind):
    model, tokens = MODELS[kind](), tiny_models.tokens()
    transcoder = transcoder_of(mlp_layer(model, 0))
    feature = int(
        (transcoder.encode(torch.randn(200, D).double()) > 0).double().mean(0).sub(0.5).abs().argmin()
    )  # one that fires now and then
    for through in ("reading", "writing"):
        found = intervene(transcoder, tokens, feature, model=model, do="steer", value=0.5, through=through)
        assert found.stages == ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
        assert found.changed == tokens.numel()
        assert -1 <= found.faithfulness <= 1
    # what is added to both streams is the same after the layer's own block
    assert found.agreement[0] == pytest.approx(1)


def test_what_is_steered_moves_the_transcoders_output_by_what_the_feature_writes():
    model, tokens = tiny_models.bridge("llama"), tiny_models.tokens()
    layer = mlp_layer(model, 1)
    transcoder = transcoder_of(layer)
    found = intervene(transcoder, tokens, [2, 3], model=model, layer=layer, do="steer", value=0.5, through="writing")
    written = 0.5 * (transcoder.W_dec[2] + transcoder.W_dec[3])
    size = (written.norm() * tokens.shape[1] ** 0.5).item()
    assert found.size_layer[0] == pytest.approx(size)
    assert found.size_transcoder[0] == pytest.approx(size)


@pytest.mark.bitwise("both ways run the same operations on the same prompts")
def test_a_transcoder_that_reads_before_the_norms_scale_is_changed_there():
    model, tokens = MODELS["sae"](), tiny_models.tokens()
    between = layer_between(model, "blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out")
    transcoder = transcoder_of(between)
    found = intervene(transcoder, tokens, 1, model=model, do="steer", value=0.5)
    assert found == intervene(transcoder, tokens, 1, model=model, layer=between, do="steer", value=0.5)
    assert found != intervene(transcoder, tokens, 1, model=model, layer=mlp_layer(model, 0), do="steer", value=0.5)


def test_tokens_that_are_not_kept_are_left_alone():
    model, tokens = tiny_models.bridge("llama"), tiny_models.tokens()
    kept = torch.zeros_like(tokens, dtype=torch.bool)
    kept[0, 2] = True
    layer = mlp_layer(model, 0)
    found = intervene(transcoder_of(layer), tokens, 1, model=model, layer=layer, do="steer", value=1.0, kept=kept)
    assert found.changed == 1


def test_a_stock_transcoder_that_sae_lens_loads(tmp_path):
    model, tokens = tiny_models.bridge("llama").float(), tiny_models.tokens()
    layer = mlp_layer(model, 0)
    made = transcoder_of(layer).to(torch.float32)
    made.cfg.dtype = "float32"
    made.save_inference_model(tmp_path)
    stock = SAE.load_from_disk(tmp_path)
    found = intervene(stock, tokens, 1, model=model, do="steer", value=0.5)
    assert found.stages[0] == "blocks.0.hook_resid_post"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 40}, "features 0 to 31"),
        ({"features": []}, "features 0 to 31"),
        ({"do": "clamp"}, "clamp takes a value"),
        ({"value": 1.0}, "ablate takes no value"),
        ({"do": "double", "value": 2.0}, "double takes no value"),
        ({"do": "remove"}, "choose do from"),
        ({"through": "both"}, "and through from"),
        ({"layer": None}, "pass the model"),
        ({"inputs": torch.zeros(3, 16).double()}, "not active on these inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(rows, options, message, as_installed):
    given = {"inputs": rows, "features": 1, "layer": AbsNetwork(16).double(), **options}
    with pytest.raises(ValueError, match=message):
        intervene(exact_abs_transcoder(16).eval(), **given)


def test_a_transcoder_that_does_not_say_its_layer_is_refused():
    model = tiny_models.bridge("llama")
    transcoder = transcoder_of(mlp_layer(model, 0))
    transcoder.cfg.metadata.hook_name = None
    with pytest.raises(ValueError, match="do not say which layer"):
        intervene(transcoder, tiny_models.tokens(), 1, model=model)
