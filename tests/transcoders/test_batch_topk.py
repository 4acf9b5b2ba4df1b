import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUTranscoder

from faithfulness_plugin import BatchTopKTrainingTranscoderConfig, JacobianMatching
from faithfulness_plugin.jacobian.estimators.secant import row_function, transcoder_secant
from faithfulness_plugin.transcoders.batch_topk import largest


def step_input(x: torch.Tensor) -> TrainStepInput:
    return TrainStepInput(sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False)


def rows(n: int = 30) -> torch.Tensor:
    return torch.randn(n, 5, dtype=torch.float64)


@pytest.mark.exact("copies of the same numbers")
@given(n=st.integers(1, 3000), share=st.floats(0, 1), ties=st.booleans())
def test_the_largest_are_found_however_the_values_lie(n, share, ties):
    values = torch.randint(5, (n,)).double() if ties else torch.randn(n)
    for arranged in (values, values.sort().values, values.sort(descending=True).values):
        count = int(share * n)
        found = largest(arranged, count)
        assert len(set(found.tolist())) == count
        assert torch.equal(arranged[found].sort().values, values.sort().values[n - count :])


def test_a_batch_keeps_its_k_n_largest(make_transcoder):
    transcoder, x = make_transcoder("batch_topk"), rows()
    acts, hidden_pre = transcoder.encode_with_hidden_pre(x)
    score = (hidden_pre * transcoder.W_dec.norm(dim=1)).flatten()
    least = score.sort(descending=True).values[int(2.5 * 30) - 1]
    torch.testing.assert_close(acts, hidden_pre * (score >= least).view(30, 12))
    assert (acts > 0).sum() == 75
    assert len({int(row) for row in (acts > 0).sum(1)}) > 1  # however they fall on the rows


def test_the_threshold_is_the_moving_average_of_the_least_score_that_stays(mlp, make_transcoder):
    for sparse in (True, False):
        transcoder = make_transcoder("batch_topk", topk_threshold_lr=0.2, use_sparse_activations=sparse).set_layer(mlp)
        expected = 0.0
        for _ in range(3):
            x = rows()
            score = transcoder.encode(x) * transcoder.W_dec.norm(dim=1)
            expected = 0.8 * expected + 0.2 * score[score > 0].min().item()
            metrics = transcoder.training_forward_pass(step_input(x)).metrics
            assert transcoder.topk_threshold.item() == pytest.approx(expected)
            assert metrics["topk_threshold"] == transcoder.topk_threshold
        learned = transcoder.topk_threshold.item()
        transcoder.eval().training_forward_pass(step_input(rows()))
        assert transcoder.topk_threshold.item() == learned
        assert transcoder.to(torch.bfloat16).topk_threshold.item() == learned
        assert transcoder.to(torch.bfloat16).topk_threshold.dtype == torch.float64


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
def test_in_eval_mode_it_is_what_it_exports(make_transcoder, tmp_path, skip, rescale):
    transcoder = make_transcoder("batch_topk", skip=skip, rescale_acts_by_decoder_norm=rescale).eval()
    transcoder.topk_threshold.fill_(0.4)
    transcoder.save_inference_model(tmp_path)
    loaded, x = SAE.load_from_disk(tmp_path), rows()
    assert type(loaded) is (JumpReLUSkipTranscoder if skip else JumpReLUTranscoder)
    torch.testing.assert_close(loaded(x), transcoder(x))
    torch.testing.assert_close(loaded.encode(x), transcoder.encode(x))
    torch.testing.assert_close(transcoder(x[:1]), transcoder(x)[:1])  # rows stand alone
    region = transcoder.encode_to_region(x)
    torch.testing.assert_close(region.output(), transcoder(x))


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("given_gate", [False, True])
def test_its_secant_keeps_the_batchs_threshold(make_transcoder, central, given_gate):
    transcoder, x, v = make_transcoder("batch_topk", skip=True), rows(), rows()
    acts, hidden_pre = transcoder.encode_with_hidden_pre(x)
    score = (hidden_pre * transcoder.W_dec.norm(dim=1)).flatten().sort(descending=True).values
    threshold = (score[74] + score[75]) / 2

    def at_threshold(x: torch.Tensor) -> torch.Tensor:
        z = x @ transcoder.W_enc + transcoder.b_enc
        acts = z * (z * transcoder.W_dec.norm(dim=1) > threshold)
        return acts @ transcoder.W_dec + transcoder.b_dec + x @ transcoder.W_skip.T

    torch.testing.assert_close(at_threshold(x), transcoder(x))
    there = at_threshold(x + 0.5 * v)
    expected = (there - at_threshold(x - 0.5 * v)) / 1.0 if central else (there - at_threshold(x)) / 0.5
    gate = acts if given_gate else None
    torch.testing.assert_close(transcoder_secant(transcoder, x, v, 0.5, central=central, gate=gate)[1], expected)
    own_batch = (transcoder(x + 0.5 * v) - transcoder(x)) / 0.5  # the moved rows' own competition is another thing
    assert (own_batch - expected).norm() > 1e-3


@pytest.mark.parametrize("sparse", [True, False])
def test_its_secant_at_x_is_the_transcoder_also_where_features_tie(make_transcoder, sparse):
    transcoder = make_transcoder("batch_topk", use_sparse_activations=sparse)
    x, v = rows(1).repeat(40, 1), rows(40)  # 40 equal rows: whole groups of features tie
    acts = transcoder.encode_to_region(x).feature_acts.to_dense()
    assert len({tuple(row) for row in (acts > 0).tolist()}) > 1  # some of a group stay
    region = transcoder.encode_to_region(x)
    torch.testing.assert_close(row_function(transcoder, x, region)(x, None), region.output())
    Jv = region.jvp(v)
    torch.testing.assert_close(transcoder_secant(transcoder, x, 0 * v, 1e-3)[1], torch.zeros_like(Jv))


def test_rows_of_a_large_batch_take_the_fast_way(mlp, make_transcoder):
    transcoder = make_transcoder("batch_topk", d_sae=500).set_layer(mlp)
    x = rows(200)
    output = transcoder.training_forward_pass(step_input(x))
    torch.testing.assert_close(output.feature_acts.to_dense(), transcoder.encode(x))
    JacobianMatching()(transcoder, mlp, x).backward()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"k": 12.5}, "at most d_sae=12"),
        ({"topk_threshold_lr": 0.0}, "choose a rate above 0"),
    ],
)
def test_bad_options_say_what_is_wanted(as_installed, fields, message):
    with pytest.raises(ValueError, match=message):
        BatchTopKTrainingTranscoderConfig(d_in=5, d_sae=12, **{"k": 3.0, **fields})
