import copy
import json

import pytest
import torch
from oracles import SPARSE, densely, random_transcoder
from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepInput

from faithfulness_plugin import AbsNetwork, TopKTrainingTranscoder, TopKTrainingTranscoderConfig, TopKTranscoder
from faithfulness_plugin.transcoders.topk_inference import TopKTranscoderConfig


def step_input(x: torch.Tensor, dead: torch.Tensor | None = None, **coefficients: float) -> TrainStepInput:
    return TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False
    )


def rows(n: int = 30) -> torch.Tensor:
    return torch.randn(n, 5, dtype=torch.float64)


@pytest.mark.parametrize("rescale", [False, True])
def test_each_row_keeps_its_k_largest(make_transcoder, rescale):
    transcoder = make_transcoder("topk", rescale_acts_by_decoder_norm=rescale)
    acts, hidden_pre = transcoder.encode_with_hidden_pre(rows())
    score = hidden_pre * transcoder.W_dec.norm(dim=1) if rescale else hidden_pre
    for a, z, s in zip(acts, hidden_pre, score, strict=True):
        kept = set(s.argsort(descending=True)[:3].tolist())
        for i in range(12):
            assert a[i] == (z[i].clamp(min=0) if i in kept else 0)


def test_ranking_by_decoder_norm_computes_what_saelens_computes():
    theirs = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=5, d_sae=12, k=3, apply_b_dec_to_input=False, dtype="float64"))
    ours = random_transcoder("topk", d_out=5)
    with torch.no_grad():
        theirs.b_enc.normal_()
        theirs.W_dec.normal_()
    ours.load_state_dict(theirs.state_dict())
    x = rows()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.encode(x) * ours.W_dec.norm(dim=1), theirs.encode(x))
    grads = [torch.autograd.grad(t(x).pow(3).sum(), [t.W_enc, t.W_dec, t.b_enc]) for t in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("architecture", SPARSE)
@pytest.mark.parametrize("options", [{}, {"jitter": 0.3}, {"estimator": "secant"}, {"estimator": "vjp"}])
@pytest.mark.parametrize("n_dead", [0, 1, 5])
def test_the_sparse_step_is_the_dense_step(mlp, make_transcoder, architecture, options, n_dead):
    fields = {"jacobian": options, "jacobian_coefficient": 1.0, "gradient_masking_coefficient": 0.3, "skip": True}
    sparse = make_transcoder(architecture, **fields).set_layer(mlp)
    dense = densely(make_transcoder(architecture, **fields).set_layer(mlp))
    without = make_transcoder(architecture, **fields, use_sparse_activations=False).set_layer(mlp)
    dead, x = torch.arange(12) < n_dead, rows()
    for twin in (dense, without):
        twin.load_state_dict(sparse.state_dict())
    steps = [
        t.training_forward_pass(step_input(x, dead, jacobian=2.0, gradient_masking=0.3))
        for t in (sparse, dense, without)
    ]
    assert [step.feature_acts.is_sparse for step in steps] == [True, False, False]
    for step in steps:
        step.loss.backward()
    for step, twin in zip(steps[1:], (dense, without), strict=True):
        torch.testing.assert_close(steps[0].losses, step.losses)
        torch.testing.assert_close(steps[0].feature_acts.to_dense(), step.feature_acts)
        torch.testing.assert_close(steps[0].hidden_pre, step.hidden_pre)
        for (name, a), b in zip(sparse.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_the_sparse_step_saves_nothing_of_the_size_of_the_dense_one(mlp, make_transcoder):
    """Per step: the inputs, the weights, and per active entry a number; no [batch, d_sae] and no [batch, k, d]."""
    transcoder = make_transcoder("topk", d_sae=200, jacobian_coefficient=1.0).set_layer(mlp)
    x, saved = rows(300), []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor._nnz() if tensor.is_sparse else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        transcoder.training_forward_pass(step_input(x, jacobian=1.0))
    assert max(saved) <= 300 * 5  # weights 1,000; [batch, k, d] would be 4,500, [batch, d_sae] 60,000


def test_by_itself_it_is_sparse_where_that_pays(make_transcoder):
    assert not make_transcoder("topk", use_sparse_activations=None).sparse
    assert make_transcoder("topk", d_sae=512, k=16, use_sparse_activations=None).sparse
    assert not make_transcoder("topk", d_sae=512, k=17, use_sparse_activations=None).sparse
    assert not make_transcoder("topk", d_sae=400, k=1, use_sparse_activations=None).sparse


def test_dead_features_are_asked_to_explain_the_residual(mlp, make_transcoder):
    transcoder, x = make_transcoder("topk", aux_loss_coefficient=0.5).set_layer(mlp), rows()
    dead = torch.zeros(12, dtype=torch.bool)
    dead[[2, 7, 11]] = True
    output = transcoder.training_forward_pass(step_input(x, dead))
    hidden_pre = x @ transcoder.W_enc + transcoder.b_enc
    score = hidden_pre * transcoder.W_dec.norm(dim=1)
    total = 0.0
    for n in range(len(x)):  # d_out / 2 = 2 of the three dead ones, by rank
        best = sorted([2, 7, 11], key=lambda i: -score[n, i].item())[:2]
        revived = sum(hidden_pre[n, i] * transcoder.W_dec[i] for i in best)
        total += (revived - (mlp(x[n]) - transcoder(x)[n])).square().sum().item()
    loss = output.losses["auxiliary_reconstruction_loss"]
    assert loss.item() == pytest.approx(0.5 * total / len(x))
    grads = torch.autograd.grad(loss, [transcoder.W_enc, transcoder.W_dec, transcoder.b_enc])
    alive = ~dead
    assert not grads[0][:, alive].any()
    assert not grads[1][alive].any()
    assert not grads[2][alive].any()
    assert all(grad.norm() > 1e-3 for grad in grads)
    few = transcoder.training_forward_pass(step_input(x, torch.arange(12) == 2))
    assert few.losses["auxiliary_reconstruction_loss"] > 0
    off = make_transcoder("topk", aux_loss_coefficient=0.0).set_layer(mlp)
    assert off.training_forward_pass(step_input(x, dead)).losses["auxiliary_reconstruction_loss"] == 0


def test_hooks_may_edit_what_they_see(mlp, make_transcoder):
    transcoder, x = make_transcoder("topk").set_layer(mlp), rows()
    transcoder.hook_sae_acts_post.add_hook(lambda acts, hook: torch.zeros_like(acts))
    output = transcoder.training_forward_pass(step_input(x))
    torch.testing.assert_close(output.sae_out, transcoder.b_dec.expand(30, 4))
    transcoder.reset_hooks()
    transcoder.hook_sae_recons.add_hook(lambda recons, hook: recons + 1)  # does not need the dense path
    edited = transcoder.training_forward_pass(step_input(x))
    assert edited.feature_acts.is_sparse
    torch.testing.assert_close(edited.sae_out, transcoder(x))


def test_features_lie_side_by_side_in_memory_also_after_saving_and_moving(make_transcoder, tmp_path):
    transcoder = make_transcoder("topk", dtype="float32")
    transcoder.save_model(tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path)
    for t in (transcoder, loaded, copy.deepcopy(transcoder), transcoder.to(torch.float64)):
        assert t.W_enc.T.is_contiguous()
        assert t.W_enc.shape == (5, 12)
    torch.testing.assert_close(loaded.W_enc, transcoder.W_enc.float())
    optimizer = torch.optim.Adam(loaded.parameters())
    loaded(torch.randn(3, 5)).sum().backward()
    optimizer.step()
    assert loaded.W_enc.T.is_contiguous()


def test_a_whole_number_may_be_written_as_a_float(as_installed, mlp, make_transcoder):
    transcoder = make_transcoder("topk", k=3.0).set_layer(mlp)
    assert (transcoder.training_forward_pass(step_input(rows())).feature_acts.to_dense() > 0).sum(-1).max() <= 3


def test_copies_learn_from_the_same_layer(mlp, make_transcoder):
    for architecture in ("standard", "topk", "batch_topk", "jumprelu"):
        transcoder = make_transcoder(architecture).set_layer(mlp)
        twin = copy.deepcopy(transcoder)
        assert twin.layer is transcoder.layer
        assert twin.W_enc is not transcoder.W_enc
        with torch.no_grad():
            twin.b_enc.fill_(-100)
        assert transcoder.encode(rows()).any()
        assert not twin.encode(rows()).any()


def test_losses_in_half_precision_do_not_overflow():
    layer = torch.nn.Linear(64, 64).requires_grad_(False)
    torch.nn.init.eye_(layer.weight).mul_(4)
    transcoder = random_transcoder("standard", 64, 64, 128, dtype="float16").set_layer(layer)
    output = transcoder.training_forward_pass(step_input(torch.randn(2048, 64), sparsity=0.1))
    assert torch.isfinite(output.loss)


def test_decoder_norms_fold_where_that_changes_nothing(make_transcoder):
    transcoder, x = make_transcoder("topk"), rows()
    before = transcoder(x)
    transcoder.fold_W_dec_norm()
    torch.testing.assert_close(transcoder(x), before)
    with pytest.raises(NotImplementedError, match="only with rescale_acts_by_decoder_norm=True"):
        make_transcoder("topk", rescale_acts_by_decoder_norm=False).fold_W_dec_norm()
    finished = TopKTranscoder(TopKTranscoderConfig(d_in=5, d_sae=12, d_out=4, k=3, rescale_acts_by_decoder_norm=False))
    with pytest.raises(NotImplementedError, match="only with rescale_acts_by_decoder_norm=True"):
        finished.fold_W_dec_norm()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
def test_it_is_exported_as_an_architecture_that_this_package_registers(
    as_installed, make_transcoder, tmp_path, skip, rescale
):
    transcoder = make_transcoder("topk", skip=skip, rescale_acts_by_decoder_norm=rescale)
    transcoder.save_inference_model(tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "faithful_topk_transcoder"
    loaded, x = SAE.load_from_disk(tmp_path), rows()
    assert type(loaded) is TopKTranscoder
    torch.testing.assert_close(loaded(x), transcoder(x))
    torch.testing.assert_close(loaded.encode(x), transcoder.encode(x))
    loaded.save_model(tmp_path / "again")
    torch.testing.assert_close(SAE.load_from_disk(tmp_path / "again")(x), transcoder(x))
    assert isinstance(TopKTranscoder.from_dict(loaded.cfg.to_dict()), TopKTranscoder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 13}, "k=13: choose more than 0 active features and at most d_sae=12"),
        ({"k": 0}, "k=0: choose more than 0"),
        ({"k": 2.5}, "k=2.5: TopK keeps a whole number"),
        ({"aux_loss_coefficient": -1.0}, "aux_loss_coefficient=-1.0 must be finite and not negative"),
    ],
)
def test_bad_options_say_what_is_wanted(as_installed, fields, message):
    with pytest.raises(ValueError, match=message):
        TopKTrainingTranscoderConfig(d_in=5, d_sae=12, **{"k": 3, **fields})


def test_a_batch_without_rows_can_be_stepped_on(make_transcoder):
    for architecture in ("standard", "topk", "batch_topk", "jumprelu"):
        transcoder = make_transcoder(architecture, d_out=5, jacobian_coefficient=1.0).set_layer(AbsNetwork(5).double())
        coefficients = dict.fromkeys(transcoder.get_coefficients(), 1.0)
        output = transcoder.training_forward_pass(step_input(rows(0), torch.arange(12) < 2, **coefficients))
        output.loss.backward()
        assert output.losses["mse_loss"] == 0
        assert output.losses["jacobian_loss"] == 0


@pytest.mark.bitwise("the backward pass adds up in one order, whatever the threads do")
def test_gradients_are_the_same_every_time_with_several_threads(as_installed):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        config = TopKTrainingTranscoderConfig(d_in=64, d_sae=512, k=8, use_sparse_activations=True)
        transcoder = TopKTrainingTranscoder(config).set_layer(torch.nn.Linear(64, 64).requires_grad_(False))
        dead = torch.ones(512, dtype=torch.bool)  # 32 of them a row: more entries than torch adds up in one thread
        step = step_input(torch.randn(4096, 64), dead)

        def gradients() -> list[torch.Tensor]:
            return list(torch.autograd.grad(transcoder.training_forward_pass(step).loss, list(transcoder.parameters())))

        first = gradients()
        for _ in range(5):
            assert all(map(torch.equal, gradients(), first))
    finally:
        torch.set_num_threads(threads)
