"""dictionary_learning's folders: what its buffer says of inputs and outputs."""

import pytest
import torch
from published_files import D, N, dictionary_learning

from faithfulness_plugin import load_transcoder
from faithfulness_plugin.transcoders.formats.errors import FormatError

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.mark.parametrize("io", ["in", "out"])
def test_one_side_of_a_module_makes_an_autoencoder(io, tmp_path):
    it = dictionary_learning("BatchTopKSAE", io)
    it.write(tmp_path, it)
    with pytest.raises(FormatError, match=rf"autoencoder of the {io}put of mlp_1 \(buffer io: {io}\): .*--autoencoder"):
        load_transcoder(tmp_path)
    read = load_transcoder(tmp_path, autoencoder=True, dtype=torch.float64)
    x = torch.randn(50, D, dtype=torch.float64)
    wanted = it.formula({name: tensor.double() for name, tensor in it.tensors.items()}, x)
    torch.testing.assert_close(read(x), wanted, rtol=1e-9, atol=1e-9)
    assert read.cfg.metadata.autoencoder is True
    assert (read.cfg.metadata.model_name, read.cfg.metadata.layer) == ("tiny", 1)


def test_pairs_are_of_a_transcoder(tmp_path):
    it = dictionary_learning("AutoEncoderTopK")
    with pytest.raises(FormatError, match=r"is a transcoder \(buffer io: in_and_out\), and autoencoder=True was asked"):
        load_transcoder(it.write(tmp_path, it), autoencoder=True)


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        (("trainer",), "activation_dim", D + 1, "activation_dim in config.json is 7, and the weights say 6"),
        (("trainer",), "dict_size", N + 1, "dict_size in config.json is 21, and the weights say 20"),
        (("trainer",), "dict_class", "Other", "dict_class Other is not known: choose from AutoEncoder, "),
        (("trainer",), "dict_class", ["Other"], "dict_class .* is not known"),
        (("buffer",), "io", "both", "says io: 'both'"),
        ((), "trainer", 3, "holds a int, no values by name"),
        ((), "buffer", 3, "holds a int, no values by name"),
    ],
)
def test_settings_that_contradict_the_weights(section, name, value, message, tmp_path):
    it = dictionary_learning("AutoEncoderTopK").with_setting(section, name, value)
    with pytest.raises(FormatError, match=message):
        load_transcoder(it.write(tmp_path, it))
