import json
from typing import Any

import pytest
import torch
from cross_layer import LAYERS, D, N, chain, cross_layer, per_layer, rows, without_crossing
from oracles import ARCHITECTURES
from sae_lens import TrainingSAE
from sae_lens.saes.sae import TrainStepInput

from faithfulness_plugin import (
    CrossLayerTrainingTranscoder,
    CrossLayerTrainingTranscoderConfig,
    LayerChain,
    NonFiniteError,
    StandardTrainingTranscoderConfig,
    load_transcoder,
    metrics,
    train_transcoder,
)
from faithfulness_plugin.errors import FormatError, UsageError
from faithfulness_plugin.store.rows import PackedRows

MATCHED: dict[str, Any] = {"jacobian": {"direct": 0.5, "total": 0.5}, "jacobian_coefficient": 0.3}


def step(transcoder: Any, x: torch.Tensor, dead: torch.Tensor | None = None) -> Any:
    coefficients = {name: getattr(c, "value", c) for name, c in transcoder.get_coefficients().items()}
    return transcoder.training_forward_pass(TrainStepInput(x, coefficients, dead, 0, False))


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_crossing_it_is_the_transcoders_of_its_layers(architecture, matched):
    fields = {"jacobian": {"probe": "rademacher"}, "jacobian_coefficient": 0.3} if matched else {}
    clt, layers, x = without_crossing(cross_layer(architecture, bandwidth=1, **fields)), chain(), rows(12)
    alone, read = per_layer(clt), layers.split(x)
    torch.testing.assert_close(clt(x), torch.cat([own(row) for own, row in zip(alone, read, strict=True)], dim=-1))
    torch.testing.assert_close(
        clt.encode(x), torch.cat([own.encode(row) for own, row in zip(alone, read, strict=True)], dim=-1)
    )
    dead = torch.arange(LAYERS * N) % 3 == 0
    whole = step(clt.set_layer(layers), x, dead)
    parts = []
    for own, layer, row, mask in zip(alone, layers.layers, read, dead.chunk(LAYERS), strict=True):
        own.cfg.jacobian_coefficient = clt.cfg.jacobian_coefficient
        own.matching = clt.new_matching().each[len(parts)]
        parts.append(step(own.set_layer(layer), row, mask))
    assert set(whole.losses) == set(parts[0].losses)
    for name, loss in whole.losses.items():
        torch.testing.assert_close(loss, torch.stack([part.losses[name] for part in parts]).sum(), msg=name)
    torch.testing.assert_close(whole.sae_out, torch.cat([part.sae_out for part in parts], dim=-1))
    whole.loss.backward()
    for part, own, own_step in zip(clt.parts, alone, parts, strict=True):
        own_step.loss.backward()
        torch.testing.assert_close(part.W_dec.grad, own.W_dec.grad)
        torch.testing.assert_close(part.W_enc.grad, own.W_enc.grad)
        torch.testing.assert_close(part.b_enc.grad, own.b_enc.grad)
    torch.testing.assert_close(clt.b_dec.grad, torch.cat([own.b_dec.grad for own in alone]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_layer_is_the_transcoder(architecture):
    clt, x = cross_layer(architecture, n_layers=1, gradient_masking_coefficient=0.1, **MATCHED), rows(9, 1)
    own, layers = per_layer(clt)[0], chain(1)
    own.cfg.jacobian_coefficient, own.cfg.gradient_masking_coefficient = 0.3, 0.1
    own.matching = clt.new_matching().each[0]
    torch.testing.assert_close(clt(x), own(x))
    ours, theirs = step(clt.set_layer(layers), x), step(own.set_layer(layers.layers[0]), x)
    assert list(ours.losses) == list(theirs.losses)
    for name, loss in theirs.losses.items():
        torch.testing.assert_close(ours.losses[name], loss, msg=name)


@pytest.mark.parametrize("options", [{}, {"bandwidth": 2}, {"tied": True}], ids=str)
def test_every_layers_features_write_to_the_layers_within_its_bandwidth(options):
    clt, x = cross_layer(**options), rows()
    acts, read = [], x.chunk(LAYERS, dim=-1)
    for part, row in zip(clt.parts, read, strict=True):
        acts.append((row @ part.W_enc + part.b_enc).relu())
    for m, y in enumerate(clt(x).chunk(LAYERS, dim=-1)):
        sources = [l for l in range(m + 1) if m - l < options.get("bandwidth", LAYERS)]  # noqa: E741
        written = [acts[l] @ clt.parts[l].W_dec[:, (m - l) * D : (m - l + 1) * D] for l in sources]  # noqa: E741
        torch.testing.assert_close(y, torch.stack(written).sum(0) + clt.b_dec[m * D : (m + 1) * D])
    n_decoders = sum(p.numel() for name, p in clt.named_parameters() if "W_dec" in name)
    kept = {"bandwidth": 5, "tied": 3}.get(next(iter(options), ""), 6)
    assert n_decoders == kept * N * D


def test_rows_a_stack_and_a_tuple_are_the_same():
    clt, x = cross_layer(), rows(5)
    stack = x.unflatten(-1, (LAYERS, D))
    torch.testing.assert_close(clt(stack).flatten(-2), clt(x))
    torch.testing.assert_close(clt(tuple(stack.unbind(-2))), clt(stack))
    with pytest.raises(ValueError, match=r"have shape \[5, 7\], and 3 layers of d_in=4 are replaced: pass"):
        clt(torch.randn(5, 7))
    with pytest.raises(ValueError, match="layers that differ in width are widened with pad_layer"):
        clt((torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 3)))


CHAIN = LayerChain([torch.abs, torch.sin, torch.square], link="feed")
FAST: dict[str, Any] = {"batch_size": 32, "lr": 1e-2, "log_every": 5, "progress": False}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("options", [{"bandwidth": 2}, {"tied": True}], ids=str)
def test_it_trains_with_all_terms(architecture, options):
    clt = cross_layer(architecture, each={"dtype": "float32"}, **options, **MATCHED)
    result = train_transcoder(clt, CHAIN, CHAIN.rows(torch.randn(512, D)), n_steps=30, **FAST)
    assert result.history[-1]["mse_loss"] < 0.8 * result.history[0]["mse_loss"]
    assert result.history[-1]["jacobian_loss"] > 0
    assert not result.transcoder.training


def test_it_trains_alike_on_stacks_on_rows_and_on_what_the_first_layer_reads():
    x_0 = torch.randn(128, D)
    rows_of_all = CHAIN.rows(x_0)
    losses = []
    for inputs in (x_0, rows_of_all, rows_of_all.unflatten(-1, (LAYERS, D)), rows_of_all.numpy()):
        torch.manual_seed(1)
        clt = cross_layer("topk", each={"dtype": "float32"}, **MATCHED)
        losses.append(train_transcoder(clt, CHAIN, inputs, n_steps=3, **FAST).loss)
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-4)


def test_a_list_of_layers_is_enough_and_a_checkpoint_resumes(tmp_path):
    x = torch.randn(256, LAYERS * D)
    fields = {"each": {"dtype": "float32"}, "jacobian": {"direct": 0.5}, "jacobian_coefficient": 0.3}
    options: dict[str, Any] = {"batch_size": 32, "progress": False, "n_steps": 30}
    torch.manual_seed(3)
    whole = cross_layer("batch_topk", **fields)
    torch.manual_seed(3)
    parts = cross_layer("batch_topk", **fields)
    layers = [torch.abs, torch.sin, torch.square]
    first = train_transcoder(whole, layers, x, **options)

    options |= {"checkpoint": tmp_path, "checkpoint_every": 10}

    class Stopped(Exception): ...

    def stop(*_: Any) -> dict[str, float]:
        raise Stopped

    with pytest.raises(Stopped):
        train_transcoder(parts, layers, x, **options, evaluator=stop, evaluate_every=15)
    torch.manual_seed(4)
    again = train_transcoder(cross_layer("batch_topk", **fields), layers, x, **options, resume=True)
    for name, weight in first.transcoder.state_dict().items():
        torch.testing.assert_close(again.transcoder.state_dict()[name], weight, msg=name)
    assert again.checkpoint is not None
    loaded: Any = TrainingSAE.load_from_disk(again.checkpoint)
    assert isinstance(loaded, CrossLayerTrainingTranscoder)
    torch.testing.assert_close(loaded.eval()(x), again.transcoder(x))
    with pytest.raises(FormatError, match="is of a cross-layer transcoder in training, which replaces no single layer"):
        load_transcoder(again.checkpoint)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_config_survives_json_and_the_dtype_changes_as_a_whole(architecture):
    clt = cross_layer(architecture, bandwidth=2, **MATCHED)
    config = CrossLayerTrainingTranscoderConfig.from_dict(json.loads(json.dumps(clt.cfg.to_dict())))
    assert config.to_dict() == clt.cfg.to_dict()
    assert (config.d_in, config.d_sae, config.d_out) == (LAYERS * D, LAYERS * N, LAYERS * D)
    # files from before these fields existed say the same
    assert not {"own", "direct", "total"} & {*StandardTrainingTranscoderConfig(d_in=D, d_sae=N).to_dict()["jacobian"]}
    single = clt.to(torch.float32)
    assert single(rows().float()).dtype == torch.float32
    assert single.cfg.dtype == "float32"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_librarys_measures_take_it_beside_its_chain(architecture):
    clt, layers = cross_layer(architecture).eval(), chain(link="residual")
    if architecture == "batch_topk":
        for part in clt.parts:
            part.topk_threshold.fill_(0.3)
    x = layers.rows(torch.randn(24, D, dtype=torch.float64))
    error = metrics.jacobian_error(clt, layers, x)
    assert error.relative_error >= metrics.jacobian_floor(clt, layers, x).relative_error > 0
    assert metrics.reconstruction(clt, layers, x).l0 == pytest.approx(
        (clt.encode(x) > 0).sum(-1).double().mean().item()
    )
    assert metrics.gradient_masking(clt, x)
    assert metrics.memorization(clt, x[0], layer=layers)


EACH = StandardTrainingTranscoderConfig(d_in=D, d_sae=N)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bandwidth": 4}, "bandwidth=4: of 3 layers a feature writes to 1 to 3; None is all from its own on"),
        ({"bandwidth": 0}, "bandwidth=0: of 3 layers"),
        ({"n_layers": 0}, "n_layers=0: there is at least one layer"),
        ({"d_in": 5}, "d_in=5: 3 layers of 4 have 12; leave it out"),
        ({"skip": True}, "a cross-layer transcoder has no skip connection; leave it out"),
        ({"per_layer": 3}, "per_layer is a int: pass the config of one layer's features"),
        (
            {"per_layer": StandardTrainingTranscoderConfig(d_in=D, d_sae=N, jacobian_coefficient=1.0)},
            "per_layer has jacobian_coefficient=1.0: it is of all layers together; pass it to CrossLayer",
        ),
        ({"jacobian": {"estimator": "secant"}}, "estimator='secant' has no partial products of a cross-layer"),
        ({"tied": "yes"}, "tied='yes': choose True or False"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_a_line(as_installed, fields, message):
    with pytest.raises(ValueError, match=message):
        CrossLayerTrainingTranscoderConfig(**{"n_layers": LAYERS, "per_layer": EACH, **fields})


def test_what_a_user_can_get_wrong(as_installed, tmp_path):
    clt = cross_layer()
    with pytest.raises(UsageError, match="replaces several layers, and this is a Sin: pass a list of the layers"):
        clt.set_layer(type("Sin", (), {})())
    with pytest.raises(UsageError, match="2 layers for a transcoder of 3: pass as many, or n_layers=2"):
        clt.set_layer([torch.sin, torch.cos])
    with pytest.raises(UsageError, match="and this is a PackedRows"):
        clt.set_layer(PackedRows.__new__(PackedRows))
    options: dict[str, Any] = {"batch_size": 8, "n_steps": 1, "progress": False}
    narrow = LayerChain([torch.sin, torch.sin, lambda x: x[..., :2]])
    with pytest.raises(UsageError, match="layer 2 writes 2 numbers and layer 0 4"):
        train_transcoder(clt, narrow, rows(16), **options)
    matched = cross_layer(**MATCHED)
    with pytest.raises(UsageError, match="something stands between them, such as attention"):
        train_transcoder(matched, chain(), rows(16), **options)
    with torch.no_grad():
        clt.parts[1].W_dec[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"NaN or Inf in the weight parts\.1\.W_dec: nothing was written"):
        clt.save_inference_model(tmp_path / "clt")
    assert list(tmp_path.iterdir()) == []
