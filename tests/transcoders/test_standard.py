import copy
import json

import pytest
import torch
from sae_lens.saes.sae import TrainCoefficientConfig, TrainingSAE, TrainingSAEConfig, TrainStepInput

from faithfulness_plugin import (
    AbsInputs,
    AbsNetwork,
    JacobianMatching,
    NonFiniteError,
    StandardTrainingTranscoder,
    StandardTrainingTranscoderConfig,
    metrics,
)
from faithfulness_plugin.toy.circuits import abs_circuits, datapoint_circuit


def step_input(x: torch.Tensor, step: int = 0, **coefficients: float) -> TrainStepInput:
    return TrainStepInput(
        sae_in=x,
        coefficients={"sparsity": 0.2, **coefficients},
        dead_neuron_mask=None,
        n_training_steps=step,
        is_logging_step=False,
    )


@pytest.mark.parametrize("sparsity", ["tanh", "l1"])
def test_the_losses_are_their_formulas(mlp, make_transcoder, sparsity):
    transcoder = make_transcoder(sparsity=sparsity, tanh_scale=3.0).set_layer(mlp)
    x = torch.randn(9, 5, dtype=torch.float64)
    output = transcoder.training_forward_pass(step_input(x, sparsity=0.7))
    a = torch.relu(x @ transcoder.W_enc + transcoder.b_enc)
    t = a @ transcoder.W_dec + transcoder.b_dec
    weighted = a * transcoder.W_dec.norm(dim=1)
    penalty = torch.tanh(3.0 * weighted) if sparsity == "tanh" else weighted
    torch.testing.assert_close(output.losses["mse_loss"], (t - mlp(x)).square().sum(1).mean())
    torch.testing.assert_close(output.losses["sparsity_loss"], 0.7 * penalty.sum(1).mean())
    torch.testing.assert_close(output.loss, output.losses["mse_loss"] + output.losses["sparsity_loss"])
    torch.testing.assert_close(output.sae_in, mlp(x))  # the target, not the input
    torch.testing.assert_close(output.sae_out, t)


def test_the_penalty_does_not_change_when_scale_moves_between_the_matrices(mlp, make_transcoder):
    transcoder = make_transcoder().set_layer(mlp)
    x = torch.randn(9, 5, dtype=torch.float64)
    before = transcoder.training_forward_pass(step_input(x)).loss
    transcoder.fold_W_dec_norm()
    torch.testing.assert_close(transcoder.training_forward_pass(step_input(x)).loss, before)


@pytest.mark.parametrize("options", [{}, {"jitter": 0.3}, {"estimator": "secant"}, {"normalize": False}])
def test_the_jacobian_term_is_the_matching_loss_times_its_coefficient(mlp, make_transcoder, options):
    transcoder = make_transcoder(jacobian=options, jacobian_coefficient=2.0).set_layer(mlp)
    x = torch.randn(9, 5, dtype=torch.float64)
    output = transcoder.training_forward_pass(step_input(x, jacobian=2.0))
    alone = JacobianMatching(options)(transcoder, mlp, x)
    torch.testing.assert_close(output.losses["jacobian_loss"], 2 * alone)
    torch.testing.assert_close(output.loss, torch.stack(list(output.losses.values())).sum())
    relative = output.metrics["jacobian_relative_error"]
    assert callable(relative)
    targets = JacobianMatching(options).targets(mlp, x)
    unscaled = JacobianMatching({**options, "normalize": False})(transcoder, mlp, x)
    assert targets.Jv is not None
    torch.testing.assert_close(relative(), unscaled / targets.Jv.square().sum(-1).mean())
    grad = torch.autograd.grad(output.losses["jacobian_loss"], [transcoder.W_enc, transcoder.W_dec])
    assert all(g.norm() > 1e-6 for g in grad)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("estimator", ["jvp", "secant"])
def test_the_layer_keeps_its_own_dtype(dtype, estimator):
    config = StandardTrainingTranscoderConfig(
        d_in=5, d_sae=12, dtype=dtype, jacobian={"estimator": estimator}, jacobian_coefficient=1.0
    )
    transcoder = StandardTrainingTranscoder(config).set_layer(AbsNetwork(5))  # in float32, as the data
    output = transcoder.training_forward_pass(step_input(torch.randn(9, 5), jacobian=1.0))
    output.loss.backward()
    assert output.sae_in.dtype == transcoder.dtype
    assert transcoder.W_enc.grad is not None
    assert transcoder.W_enc.grad.norm() > 1e-3


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_it_is_measured_in_any_dtype(dtype):
    config = StandardTrainingTranscoderConfig(d_in=6, d_sae=12, dtype=dtype)
    transcoder, layer, inputs = StandardTrainingTranscoder(config), AbsNetwork(6), AbsInputs(6, repeat_frac=0.1)
    same = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=6, d_sae=12))
    same.load_state_dict({k: v.float() for k, v in transcoder.state_dict().items()})
    x, circuits = next(inputs), [*abs_circuits(6), datapoint_circuit(inputs.point)]

    def measured(t: StandardTrainingTranscoder) -> list[float]:
        return [
            metrics.memorization(t, inputs.point, layer=layer).m,
            metrics.reconstruction(t, layer, x).fvu,
            metrics.jacobian_error(t, layer, x).relative_error,
            metrics.off_diagonal_energy(t, inputs.point).energy,
            metrics.feature_recovery(t, x, circuits).mean_cosine,
            JacobianMatching()(t, layer, x).item(),
            JacobianMatching(estimator="secant")(t, layer, x).item(),
        ]

    assert measured(transcoder) == pytest.approx(measured(same), rel=0.05, abs=0.02)


def test_batches_made_in_inference_mode_can_be_trained_on(mlp, make_transcoder):
    with torch.inference_mode():
        x = torch.randn(9, 5, dtype=torch.float64)
    for jitter in (0.0, 0.3):
        transcoder = make_transcoder(jacobian={"jitter": jitter}, jacobian_coefficient=1.0).set_layer(mlp)
        transcoder.training_forward_pass(step_input(x, jacobian=1.0)).loss.backward()
        assert transcoder.W_enc.grad is not None


def test_forward_is_the_output_and_nothing_else(make_transcoder):
    transcoder, x = make_transcoder(), torch.randn(3, 5, dtype=torch.float64)
    with pytest.warns(DeprecationWarning, match="add_sae"):
        transcoder.use_error_term = True  # as `add_sae` reads it; f(x) is not known here
    torch.testing.assert_close(transcoder(x), transcoder.decode(transcoder.encode(x)))


def test_coefficients_are_named_and_warm_up(make_transcoder):
    off = make_transcoder(sparsity_warm_up_steps=7).get_coefficients()
    assert off == {"sparsity": TrainCoefficientConfig(0.2, 7)}
    on = make_transcoder(jacobian_coefficient=3.0, jacobian_warm_up_steps=5).get_coefficients()
    assert on["jacobian"] == TrainCoefficientConfig(3.0, 5)


def test_without_a_coefficient_the_layer_is_not_differentiated(make_transcoder):
    class Opaque(torch.autograd.Function):  # has no forward-mode rule
        @staticmethod
        def forward(ctx, x):
            return x[..., :4].abs()

    transcoder = make_transcoder().set_layer(Opaque.apply)
    assert "jacobian_loss" not in transcoder.training_forward_pass(step_input(torch.randn(3, 5).double())).losses


def test_the_layer_is_neither_a_parameter_nor_saved_nor_trained(make_transcoder):
    layer = AbsNetwork(5)
    for p in layer.parameters():
        p.requires_grad_(True)
    transcoder = make_transcoder(d_out=5, dtype="float32", jacobian_coefficient=1.0).set_layer(layer)
    assert set(transcoder.state_dict()) == {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert len(list(transcoder.parameters())) == 4
    assert layer not in list(transcoder.modules())
    transcoder.training_forward_pass(step_input(torch.randn(4, 5), jacobian=1.0)).loss.backward()
    assert all(p.grad is None for p in layer.parameters())
    assert copy.deepcopy(transcoder).layer is not None


def test_hooks_fire_with_what_their_names_say(make_transcoder):
    transcoder = make_transcoder()
    x = torch.randn(3, 5, dtype=torch.float64)
    _, cache = transcoder.run_with_cache(x)
    torch.testing.assert_close(cache["hook_sae_input"], x)
    torch.testing.assert_close(cache["hook_sae_acts_pre"], x @ transcoder.W_enc + transcoder.b_enc)
    torch.testing.assert_close(cache["hook_sae_acts_post"], cache["hook_sae_acts_pre"].relu())
    torch.testing.assert_close(cache["hook_sae_output"], transcoder(x))


def test_initial_weights_are_uniform_untied_and_scaled_by_fan_in():
    transcoder = StandardTrainingTranscoder(StandardTrainingTranscoderConfig(d_in=16, d_out=16, d_sae=400))
    for weight, fan_in in ((transcoder.W_enc, 16), (transcoder.W_dec, 400)):
        bound = fan_in**-0.5
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert torch.corrcoef(torch.stack([transcoder.W_enc.flatten(), transcoder.W_dec.T.flatten()]))[0, 1].abs() < 0.05
    scaled = StandardTrainingTranscoderConfig(d_in=16, d_out=16, d_sae=40, decoder_init_norm=0.3)
    torch.testing.assert_close(StandardTrainingTranscoder(scaled).W_dec.norm(dim=1), torch.full((40,), 0.3))


def test_the_output_is_as_wide_as_the_input_unless_said_otherwise():
    assert StandardTrainingTranscoderConfig(d_in=5, d_sae=7).d_out == 5  # SAELens's command line makes it so


def test_the_config_survives_json_and_saelens_registry():
    config = StandardTrainingTranscoderConfig(
        d_in=5, d_out=4, d_sae=7, jacobian={"estimator": "secant"}, jacobian_coefficient=2.0, sparsity="l1"
    )
    fields = json.loads(json.dumps(config.to_dict()))
    assert fields["architecture"] == "faithful_standard_transcoder"
    assert fields["jacobian"]["estimator"] == "secant"
    again = TrainingSAEConfig.from_dict(fields)
    assert again.to_dict() == config.to_dict()
    assert isinstance(TrainingSAE.from_dict(fields), StandardTrainingTranscoder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalize_activations": "expected_average_only_in"}, 'is not supported: .* Use "none"'),
        ({"normalize_activations": "layer_norm"}, "is not supported"),
        ({"reshape_activations": "hook_z"}, "not supported for transcoders"),
        ({"apply_b_dec_to_input": True}, "b_dec lives in the output space"),
        ({"sparsity": "l2"}, "choose 'tanh' or 'l1'"),
        ({"sparsity_coefficient": -1.0}, "sparsity_coefficient=-1.0 must be finite and not negative"),
        ({"jacobian_coefficient": float("nan")}, "jacobian_coefficient=nan must be finite"),
        ({"jacobian": "secant"}, "pass a JacobianMatchingConfig or a dict"),
        ({"tanh_scale": 0.0}, "choose a positive scale"),
        ({"jacobian_coefficient": -1.0}, "jacobian_coefficient=-1.0 must be finite and not negative"),
        ({"jacobian": {"estimator": "jjvp"}}, "choose one of"),
        ({"d_sae": 0}, "d_sae=0"),
    ],
)
def test_bad_options_say_what_is_wanted(as_installed, fields, message):
    with pytest.raises(ValueError, match=message):
        StandardTrainingTranscoderConfig(**{"d_in": 5, "d_out": 4, "d_sae": 7, **fields})


def test_wrong_use_says_what_to_do(as_installed, mlp, make_transcoder):
    transcoder, x = make_transcoder(), torch.randn(3, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"call transcoder\.set_layer\(layer\)"):
        transcoder.training_forward_pass(step_input(x))
    with pytest.raises(ValueError, match=r"inputs are 6 wide .* d_in=5"):
        transcoder.set_layer(mlp).training_forward_pass(step_input(torch.zeros(3, 6).double()))
    with pytest.raises(ValueError, match=r"returns shape \[3, 4\] .* \[3, 2\]: make the transcoder with d_out=4"):
        make_transcoder(d_out=2).set_layer(mlp).training_forward_pass(step_input(x))
    with pytest.raises(TypeError, match="must be callable, not str"):
        transcoder.set_layer("mlp")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named_with_their_step(mlp, make_transcoder, bad):
    x = torch.randn(3, 5, dtype=torch.float64)
    transcoder = make_transcoder(jacobian_coefficient=1.0).set_layer(mlp)
    poisoned = x.clone()
    poisoned[1, 2] = bad
    with pytest.raises(NonFiniteError, match="step 12: NaN or Inf in the inputs"):
        transcoder.training_forward_pass(step_input(poisoned, 12, jacobian=1.0))
    transcoder.set_layer(lambda rows: torch.where(rows[:, :1] == x[1, 0], bad, mlp(rows)))
    with pytest.raises(NonFiniteError, match="step 13: NaN or Inf in the layer's output"):
        transcoder.training_forward_pass(step_input(x, 13, jacobian=1.0))
    with torch.no_grad():
        transcoder.set_layer(mlp).W_dec[0, 0] = bad
    with pytest.raises(NonFiniteError, match="step 14: NaN or Inf in the weight W_dec"):
        transcoder.training_forward_pass(step_input(x, 14, jacobian=1.0))


def test_a_derivative_that_is_not_finite_is_named(make_transcoder):
    transcoder = make_transcoder(jacobian_coefficient=1.0).set_layer(lambda rows: rows[:, :4].abs().sqrt())
    x = torch.randn(3, 5, dtype=torch.float64)
    x[1, 2] = 0.0  # sqrt |x| is vertical there
    with pytest.raises(NonFiniteError, match="step 3: NaN or Inf in jacobian_loss"):
        transcoder.training_forward_pass(step_input(x, 3, jacobian=1.0))
