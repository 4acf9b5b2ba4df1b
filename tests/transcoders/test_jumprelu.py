import pytest
import torch
from sae_lens import SAE, JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUTranscoder

from faithfulness_plugin import JumpReLUTrainingTranscoderConfig, transcoder_jvp


def step_input(x: torch.Tensor) -> TrainStepInput:
    dead = torch.arange(12) < 3
    return TrainStepInput(
        sae_in=x, coefficients={"l0": 0.7}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False
    )


def rows(n: int = 30) -> torch.Tensor:
    return torch.randn(n, 5, dtype=torch.float64)


@pytest.mark.parametrize("mode", ["step", "tanh", "quadratic"])
@pytest.mark.parametrize("ste_to_input", [False, True])
def test_on_the_identity_it_trains_as_saelens_trains(make_transcoder, mode, ste_to_input):
    fields = {
        "jumprelu_sparsity_loss_mode": mode,
        "jumprelu_ste_to_input": ste_to_input,
        "target_l0": 3.0,
        "pre_act_loss_coefficient": 0.3,
        "jumprelu_bandwidth": 0.5,
    }
    ours = make_transcoder("jumprelu", d_out=5, **fields).set_layer(lambda x: x)
    config = JumpReLUTrainingSAEConfig(d_in=5, d_sae=12, dtype="float64", apply_b_dec_to_input=False, **fields)
    theirs = JumpReLUTrainingSAE(config)
    theirs.load_state_dict(ours.state_dict())
    x, grads, losses = rows(), [], []
    for sae in (ours, theirs):
        output = sae.training_forward_pass(step_input(x))
        losses.append(output.losses)
        names = [name for name, _ in theirs.named_parameters()]
        grads.append(torch.autograd.grad(output.loss, [sae.get_parameter(name) for name in names]))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(grads[0], grads[1])
    assert ours.get_coefficients() == theirs.get_coefficients()


def test_the_same_function_with_and_without_thresholds_to_train(make_transcoder):
    transcoder, x = make_transcoder("jumprelu"), rows()
    training = transcoder.encode(x)
    torch.testing.assert_close(transcoder.eval().encode(x), training)
    v = rows()
    assert torch.func.jvp(transcoder, (x,), (v,))[1].any()  # SAELens's own activation has no forward-mode rule


def test_thresholds_stay_positive_and_in_single_precision(mlp, make_transcoder):
    transcoder = make_transcoder("jumprelu").set_layer(mlp)
    with torch.no_grad():
        transcoder.threshold[3] = -1.0
    transcoder.training_forward_pass(step_input(rows()))
    assert transcoder.threshold[3] == 0
    assert transcoder.to(torch.bfloat16).threshold.dtype == torch.float32


def test_thresholds_that_the_last_step_left_below_0_count_as_0(make_transcoder, tmp_path):
    transcoder, x = make_transcoder("jumprelu").eval(), rows()
    with torch.no_grad():
        transcoder.threshold.fill_(-0.5)
    transcoder.save_inference_model(tmp_path)
    assert (transcoder.encode(x) >= 0).all()
    torch.testing.assert_close(SAE.load_from_disk(tmp_path)(x), transcoder(x))
    torch.testing.assert_close(transcoder_jvp(transcoder, x, x)[1], torch.func.jvp(transcoder, (x,), (x,))[1])


def test_thresholds_learn_from_rows_of_any_shape(make_transcoder):
    transcoder, x = make_transcoder("jumprelu", jumprelu_bandwidth=0.5), rows(6)
    grads = [
        torch.autograd.grad(transcoder(inputs).square().sum(), transcoder.threshold)[0]
        for inputs in (x, x.view(2, 3, 5))
    ]
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0].any()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_export_is_saelenss_own(make_transcoder, tmp_path, skip, dtype):
    transcoder = make_transcoder("jumprelu", skip=skip, dtype=dtype)
    with torch.no_grad():
        transcoder.threshold.uniform_(0, 0.5)
    transcoder.save_inference_model(tmp_path)
    loaded, x = SAE.load_from_disk(tmp_path), rows().to(transcoder.dtype)
    assert type(loaded) is (JumpReLUSkipTranscoder if skip else JumpReLUTranscoder)
    torch.testing.assert_close(loaded(x), transcoder(x))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"jumprelu_bandwidth": 0.0}, "a width is positive"),
        ({"jumprelu_sparsity_loss_mode": "l1"}, "choose 'step', 'tanh' or 'quadratic'"),
        ({"l0_coefficient": -1.0}, "l0_coefficient=-1.0 must be finite and not negative"),
    ],
)
def test_bad_options_say_what_is_wanted(as_installed, fields, message):
    with pytest.raises(ValueError, match=message):
        JumpReLUTrainingTranscoderConfig(d_in=5, d_sae=12, **fields)
