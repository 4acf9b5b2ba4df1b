"""sparsify's folders and those of its fork clt-training: settings that change the function are refused by name."""

from typing import Any

import pytest
import torch
from published_files import D, K, N, clt_training, sparsify

from faithfulness_plugin import gradient_masking_penalty, load_transcoder, topk_to_jumprelu, transcoder_jvp
from faithfulness_plugin.jacobian.dense_region import SignedRegion
from faithfulness_plugin.jacobian.linear_region import linear_region
from faithfulness_plugin.transcoders.formats.errors import FormatError

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"signed": True}, "says signed: True, which may change the function and is not read here; only False is"),
        ({"activation": "groupmax"}, "says activation: 'groupmax'"),
        ({"embed_skip": True}, "says embed_skip: True"),
        ({"gram_lookup": True}, "says gram_lookup: True"),
        ({"transcode": "yes"}, "says transcode: 'yes'"),
        ({"transcode": 1}, "says transcode: 1"),
        ({"k": 0}, "k is 0, and of 20 features 1 to 20 can stay"),
        ({"k": True}, "k is True, and of"),
        ({"num_latents": N + 1}, "num_latents in cfg.json is 21, and the weights say 20"),
        ({"d_in": D + 1}, "d_in in cfg.json is 7, and the weights say 6"),
        ({"d_in": "6"}, "d_in in cfg.json is '6', and a whole number above 0 is needed"),
        ({"skip_connection": False}, "the tensor W_skip, which a sparsify folder is not known to have"),
        ({"transcode": False}, r"is an autoencoder of layers\.3\.mlp \(transcode: false\): .*autoencoder=True"),
    ],
)
def test_what_sparsify_says_that_is_not_read(settings, message, tmp_path):
    it, folder = sparsify(**settings), tmp_path / "layers.3.mlp"
    folder.mkdir()
    with pytest.raises(FormatError, match=message):
        load_transcoder(it.write(folder, it))


def test_settings_of_older_and_newer_versions_that_change_nothing(tmp_path):
    it = sparsify(signed=False, embed_skip=False, gram_lookup=False, lookup_max_order=4, gram_table_hash=None)
    assert load_transcoder(it.write(tmp_path, it)).cfg.d_sae == N


def test_an_autoencoder_where_it_is_asked_for(tmp_path):
    it, folder = sparsify(transcode=False), tmp_path / "layers.3.mlp"
    folder.mkdir()
    read = load_transcoder(it.write(folder, it), autoencoder=True, dtype=torch.float64)
    x = torch.randn(50, D, dtype=torch.float64)
    wanted = it.formula({name: tensor.double() for name, tensor in it.tensors.items()}, x)
    torch.testing.assert_close(read(x), wanted, rtol=1e-9, atol=1e-9)
    assert (read.cfg.metadata.autoencoder, read.cfg.metadata.hookpoint) == (True, "layers.3.mlp")
    it = sparsify()
    with pytest.raises(FormatError, match=r"is a transcoder \(transcode: true\), and autoencoder=True was asked for"):
        load_transcoder(it.write(folder, it), autoencoder=True)


def test_a_skip_connection_that_is_announced_and_not_there(tmp_path):
    it = sparsify().with_tensor("W_skip", None)
    with pytest.raises(FormatError, match=r"sae\.safetensors looks like a sparsify folder, and lacks W_skip"):
        load_transcoder(it.write(tmp_path, it))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_targets", 2, "says n_targets: 2: it writes to 2 layers, so that it replaces no single layer"),
        ("n_sources", 3, "says n_sources: 3"),
        ("activation", "batchtopk", "says activation: 'batchtopk'"),
        ("transcode", False, "says transcode: False"),
        ("coalesce_topk", "concat", "says coalesce_topk: 'concat'"),
        ("use_fp8", True, "says use_fp8: True"),
        ("normalize_io", False, "the tensors in_norm, out_norm, which a clt-training folder is not known to have"),
        ("post_encoder_scale", False, "the tensor post_enc_scale, which a clt-training folder is not known to have"),
        ("k", N + 1, "k is 21, and of 20"),
    ],
)
def test_what_clt_training_says_that_is_no_function_of_one_layer(name, value, message, tmp_path):
    it = clt_training().with_setting((), name, value)
    with pytest.raises(FormatError, match=message):
        load_transcoder(it.write(tmp_path, it))


@pytest.mark.parametrize("shift", ["positive", "of both signs"])
def test_what_is_added_to_features_that_stay(shift, tmp_path):
    """The Jacobian is that of the features that stay, also where what is added makes them negative."""
    post_enc = torch.rand(N) if shift == "positive" else torch.randn(N) * 3
    it = clt_training().with_tensor("post_enc", post_enc)
    read: Any = load_transcoder(it.write(tmp_path, it), dtype=torch.float64)
    x = torch.randn(50, D, dtype=torch.float64)
    assert (read.encode(x) < 0).any() == (shift != "positive")
    weights = {name: tensor.double() for name, tensor in it.tensors.items()}
    v = torch.randn_like(x)
    y, Jv = transcoder_jvp(read, x, v)
    torch.testing.assert_close(y, it.formula(weights, x))
    wanted = torch.func.jvp(lambda rows: it.formula(weights, rows), (x,), (v,))[1]
    torch.testing.assert_close(Jv, wanted)
    torch.testing.assert_close(transcoder_jvp(read, x, v, gate=read.encode(x))[1], wanted)
    assert type(linear_region(read, x)) is SignedRegion
    norms = read.W_enc.norm(dim=0) * read.W_dec.norm(dim=1)
    masking = ((read.encode(x) != 0).double() @ norms).mean()
    torch.testing.assert_close(gradient_masking_penalty(read, x), masking)
    read.save_model(tmp_path / "saved")
    torch.testing.assert_close(load_transcoder(tmp_path / "saved", dtype=None)(x), y)
    with pytest.raises(ValueError, match="post_enc is added to the features that stay"):
        topk_to_jumprelu(read, x)


@pytest.mark.parametrize("names", [["in_norm"], ["out_norm"], ["in_norm", "out_norm"]])
def test_a_norm_is_one_number(names, tmp_path):
    it = clt_training()
    for name in names:
        it = it.with_tensor(name, torch.ones(5))
    with pytest.raises(FormatError, match=rf"{names[0]} has shape \[5\], and \[1\] is needed"):
        load_transcoder(it.write(tmp_path, it))


def test_a_copy_of_a_skip_connection_that_is_not_announced(tmp_path):
    it = clt_training(1).with_setting((), "skip_connection", False).with_tensor("W_skips.0", None)
    it = it.with_tensor("W_skip", torch.ones(D, D))
    with pytest.raises(FormatError, match="the tensor W_skip, which a clt-training folder is not known to have"):
        load_transcoder(it.write(tmp_path, it))


def test_one_target_is_the_coder_itself(tmp_path):
    it = clt_training(1).with_tensor("W_dec", torch.zeros(N, D))
    with pytest.raises(FormatError, match=r"W_dec and W_decs\.0 differ"):
        load_transcoder(it.write(tmp_path, it))
    it = clt_training(1)
    it = it.with_tensor("W_dec", it.tensors["W_decs.0"].clone())
    read: Any = load_transcoder(it.write(tmp_path, it))
    assert read.cfg.k == K
    it = clt_training().with_tensor("post_enc", torch.zeros(N))
    read = load_transcoder(it.write(tmp_path, it))
    assert not read.cfg.shift
