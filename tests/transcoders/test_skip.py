import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from oracles import ARCHITECTURES
from sae_lens import SAE
from torch import Tensor

from faithfulness_plugin.transcoders.skip import SkipInDecode, attachable, output_of


def by_hand(transcoder: Any, x: Tensor) -> Tensor:
    """t(x), the skip connection included, of the weights."""
    y = transcoder.encode(x) @ transcoder.W_dec + transcoder.b_dec
    return y if getattr(transcoder, "W_skip", None) is None else y + x @ transcoder.W_skip.T


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.fixture(params=["ours", "exported"])
def transcoder(request, as_installed, make_transcoder, architecture, tmp_path) -> Any:
    """With a skip connection: of our class, or as `SAE.load_from_disk` returns its export, made attachable."""
    made = make_transcoder(architecture, skip=True).eval()
    if request.param == "ours":
        return made
    made.save_inference_model(tmp_path)
    return attachable(SAE.load_from_disk(tmp_path))


@pytest.mark.parametrize("leading", [(), (7,), (2, 3)])
def test_decoding_what_encode_returned_adds_the_skip_connection_once(transcoder, leading):
    x = torch.randn(*leading, 5, dtype=torch.float64)
    expected = by_hand(transcoder, x)
    feature_acts = transcoder.encode(x)
    for y in (transcoder.decode(feature_acts), transcoder.decode(feature_acts), transcoder(x)):
        torch.testing.assert_close(y, expected)
    torch.testing.assert_close(output_of(transcoder, x, feature_acts), expected)


def test_every_forward_pass_gives_the_same(transcoder):
    x = torch.randn(7, 5, dtype=torch.float64)
    if hasattr(transcoder, "forward_with_activations"):
        y, feature_acts = transcoder.forward_with_activations(x)
        torch.testing.assert_close(y, by_hand(transcoder, x))
        torch.testing.assert_close(feature_acts, transcoder.encode(x))
    torch.testing.assert_close(transcoder(x), by_hand(transcoder, x))


def test_other_activations_are_decoded_without_it(transcoder):
    x = torch.randn(7, 5, dtype=torch.float64)
    feature_acts = transcoder.encode(x)
    for other in (feature_acts.clone(), feature_acts[:3], torch.rand(7, 12, dtype=torch.float64)):
        torch.testing.assert_close(transcoder.decode(other), other @ transcoder.W_dec + transcoder.b_dec)
    torch.testing.assert_close(output_of(transcoder, x, feature_acts.clone()), by_hand(transcoder, x))


def test_activations_of_another_transcoder_are_decoded_without_it(make_transcoder, architecture):
    one, other = (make_transcoder(architecture, skip=True) for _ in range(2))
    feature_acts = one.encode(torch.randn(7, 5, dtype=torch.float64))
    torch.testing.assert_close(other.decode(feature_acts), feature_acts @ other.W_dec + other.b_dec)


def test_edited_activations_keep_their_input(transcoder):
    x = torch.randn(7, 5, dtype=torch.float64)
    with torch.no_grad():
        feature_acts = transcoder.encode(x)
        feature_acts[:, 3] = 2.0
        expected = feature_acts @ transcoder.W_dec + transcoder.b_dec + x @ transcoder.W_skip.T
        torch.testing.assert_close(transcoder.decode(feature_acts), expected)


def test_a_hook_on_the_activations_edits_them_and_keeps_the_skip_connection(transcoder):
    x = torch.randn(7, 5, dtype=torch.float64)
    ablated = transcoder.encode(x).detach().clone()
    ablated[:, 3] = 0

    def ablate(tensor: Tensor, hook: Any) -> Tensor:
        return torch.where(torch.arange(12) == 3, 0.0, tensor)

    with transcoder.hooks(fwd_hooks=[("hook_sae_acts_post", ablate)]):
        y = transcoder.decode(transcoder.encode(x))
    torch.testing.assert_close(y, ablated @ transcoder.W_dec + transcoder.b_dec + x @ transcoder.W_skip.T)


def test_gradients_reach_the_input_and_the_skip_weights(transcoder):
    x, u = torch.randn(7, 5, dtype=torch.float64, requires_grad=True), torch.randn(7, 4, dtype=torch.float64)
    wanted = [x, transcoder.W_skip, transcoder.W_dec]
    found = torch.autograd.grad((u * transcoder.decode(transcoder.encode(x))).sum(), wanted)
    torch.testing.assert_close(found, torch.autograd.grad((u * by_hand(transcoder, x)).sum(), wanted))


def test_memory_is_let_go_with_the_activations(transcoder):
    x = torch.randn(7, 5, dtype=torch.float64)
    feature_acts = transcoder.encode(x)
    transcoder.decode(feature_acts)
    refs = [weakref.ref(x), weakref.ref(feature_acts)]
    del x
    gc.collect()
    assert refs[0]() is not None
    del feature_acts
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_the_transcoder_is_let_go(make_transcoder, architecture):
    transcoder = make_transcoder(architecture, skip=True)
    transcoder.decode(transcoder.encode(torch.randn(7, 5, dtype=torch.float64)))
    ref = weakref.ref(transcoder)
    del transcoder
    gc.collect()
    assert ref() is None


def test_a_copy_has_a_skip_connection_of_its_own(transcoder):
    x = torch.randn(7, 5, dtype=torch.float64)
    expected, feature_acts = by_hand(transcoder, x), transcoder.encode(x)
    copied = copy.deepcopy(transcoder)
    with torch.no_grad():
        copied.W_skip.zero_()
    torch.testing.assert_close(copied.decode(copied.encode(x)), by_hand(copied, x))
    torch.testing.assert_close(transcoder.decode(transcoder.encode(x)), expected)
    torch.testing.assert_close(copied.decode(feature_acts), by_hand(copied, x))  # not its own: none is added


def test_threads_do_not_mix_their_inputs_up(transcoder):
    xs = [torch.randn(7, 5, dtype=torch.float64) for _ in range(4)]
    expected = [by_hand(transcoder, x) for x in xs]

    def many(which: int) -> None:
        for _ in range(50):
            torch.testing.assert_close(transcoder.decode(transcoder.encode(xs[which])), expected[which])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(many, range(4)))


@pytest.mark.parametrize("skip", [False, True])
def test_attachable_returns_ours_and_skipless_ones_as_they_are(
    as_installed, make_transcoder, architecture, tmp_path, skip
):
    made = make_transcoder(architecture, skip=skip)
    assert attachable(made) is made
    made.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    kept = attachable(loaded)
    assert (kept is loaded) == (not skip or isinstance(loaded, SkipInDecode))
    assert attachable(kept) is kept


def test_a_stock_skip_transcoder_stays_itself_and_shares_its_weights(make_transcoder, tmp_path):
    make_transcoder(skip=True).save_inference_model(tmp_path)
    loaded: Any = SAE.load_from_disk(tmp_path)
    kept, x = attachable(loaded), torch.randn(7, 5, dtype=torch.float64)
    assert isinstance(kept, type(loaded))
    assert not isinstance(loaded, SkipInDecode)
    skip = x @ loaded.W_skip.T
    torch.testing.assert_close(loaded.decode(loaded.encode(x)) + skip, kept.decode(kept.encode(x)))
    torch.testing.assert_close(loaded(x), kept(x))
    with torch.no_grad():
        loaded.W_skip.mul_(2)
    torch.testing.assert_close(kept(x), loaded(x))
    kept.save_model(tmp_path / "again")
    torch.testing.assert_close(SAE.load_from_disk(tmp_path / "again")(x), loaded(x))
