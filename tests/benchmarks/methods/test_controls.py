import pytest
import torch
from sae_lens.saes.sae import TrainingSAE, TrainStepInput

from faithfulness_plugin import AbsNetwork, NonFiniteError
from faithfulness_plugin.benchmarks.methods.controls import NoiseAugmentedTranscoder, NoiseAugmentedTranscoderConfig
from faithfulness_plugin.jacobian.probes import gaussian
from faithfulness_plugin.seeds import derived_seed


def test_noise_augmentation_adds_the_output_error_at_noised_inputs():
    config = NoiseAugmentedTranscoderConfig(
        d_in=5, d_out=5, d_sae=12, dtype="float64", augmentation_coefficient=2.0, augmentation_scale=0.3
    )
    layer = AbsNetwork(5).double()
    transcoder = NoiseAugmentedTranscoder(config).set_layer(layer)
    assert transcoder.get_coefficients()["augmentation"] == 2.0
    x = torch.randn(50, 5, dtype=torch.float64)
    noise = gaussian(x, 1, torch.Generator().manual_seed(derived_seed(0, "probes")))[
        0
    ]  # as the transcoder will draw it
    noised = x + 0.3 * x.square().mean().sqrt() * noise
    output = transcoder.training_forward_pass(TrainStepInput(x, {"sparsity": 0.2, "augmentation": 2.0}, None, 0, False))
    expected = 2.0 * (transcoder(noised) - noised.abs()).square().sum(-1).mean()
    torch.testing.assert_close(output.losses["augmentation_loss"], expected)
    torch.testing.assert_close(output.loss, torch.stack(list(output.losses.values())).sum())


def test_values_that_are_not_finite_beside_the_data_are_named():
    config = NoiseAugmentedTranscoderConfig(d_in=5, d_sae=12)
    x = torch.ones(9, 5)
    transcoder = NoiseAugmentedTranscoder(config).set_layer(lambda rows: torch.where(rows == 1, rows, torch.inf))
    with pytest.raises(NonFiniteError, match="step 7: NaN or Inf in augmentation_loss"):
        transcoder.training_forward_pass(TrainStepInput(x, {"sparsity": 0.2, "augmentation": 1.0}, None, 7, False))


def test_it_is_registered_and_survives_saving(tmp_path):
    config = NoiseAugmentedTranscoderConfig(d_in=5, d_out=5, d_sae=12, augmentation_scale=0.3)
    NoiseAugmentedTranscoder(config).save_model(tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path)
    assert type(loaded) is NoiseAugmentedTranscoder
    assert isinstance(loaded.cfg, NoiseAugmentedTranscoderConfig)
    assert loaded.cfg.augmentation_scale == 0.3
