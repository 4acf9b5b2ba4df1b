import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobians_of_batch
from torch import Tensor, nn

from faithfulness_plugin import JacobianMatching, load_transcoder, metrics, transcoder_jvp, transcoder_vjp
from faithfulness_plugin.jacobian.linear_region import linear_region
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.jacobian.sparse_region import SparseRegion

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels, taken wherever Triton is installed, fail on a CPU
sparsify = pytest.importorskip("sparsify")

from datasets import Dataset  # noqa: E402
from small_overhead import check_overhead  # noqa: E402
from sparsify import SparseCoder, SparseCoderConfig, Trainer  # noqa: E402
from sparsify_trainer import MLP, MLPS, gradients_at_step, grown, trainer_of, weights  # noqa: E402

from faithfulness_plugin.adapters import sparsify as adapter  # noqa: E402
from faithfulness_plugin.adapters.sparsify import match_jacobians  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("as_installed", "one_thread"),
    pytest.mark.filterwarnings("ignore"),
]  # of sparsify, datasets and transformers, as in a user's script
KINDS: dict[str, dict[str, Any]] = {
    "TopK": {},
    "TopK with a skip connection": {"skip_connection": True},
    "Multi-TopK": {"multi_topk": True},
    "groupmax": {"activation": "groupmax"},
    "groupmax with Multi-TopK": {"activation": "groupmax", "multi_topk": True},
    "an autoencoder": {"transcode": False},
}


def coder_of(kind: str = "TopK", d_in: int = 6, n: int = 24, k: int = 4, dtype: Any = torch.float64) -> SparseCoder:
    config = SparseCoderConfig(**{"num_latents": n, "k": k, "transcode": True, **KINDS[kind]})
    coder = SparseCoder(d_in, config, dtype=dtype)
    with torch.no_grad():
        for weight in coder.parameters():
            weight.normal_(std=0.5)
    return coder


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def layer_and_rows(trainer: Trainer) -> tuple[nn.Module, Tensor]:
    module = trainer.model.base_model.get_submodule(MLP)
    rows: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, args, out: rows.append(args[0].flatten(0, 1)))
    for batch in torch.utils.data.DataLoader(trainer.dataset, batch_size=4):
        trainer.model(batch["input_ids"])
    hook.remove()
    return module, torch.cat(rows).detach()


@pytest.mark.works("J v, J^T v in closed form")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_the_closed_form_is_autograds(kind, seed):
    torch.manual_seed(seed)
    coder, x = coder_of(kind), torch.randn(5, 6, dtype=torch.float64)
    v, u = torch.randn_like(x), torch.randn_like(x)
    J = jacobians_of_batch(lambda rows: plain(coder, rows), x)
    if not coder.cfg.multi_topk and (coder.encode(x).top_acts > 0).all():  # through one at 0, its backward goes on
        torch.testing.assert_close(jacobians_of_batch(lambda rows: coder(rows).sae_out, x), J)
    y, Jv = transcoder_jvp(coder, x, v)
    torch.testing.assert_close(y, plain(coder, x))
    torch.testing.assert_close(Jv, torch.einsum("noi,ni->no", J, v))
    torch.testing.assert_close(transcoder_vjp(coder, x, u)[1], torch.einsum("noi,no->ni", J, u))


def plain(coder: SparseCoder, x: Tensor) -> Tensor:
    """t(x) of k features, on whole matrices."""
    at = x if coder.cfg.transcode else x - coder.b_dec
    pre = torch.relu(at @ coder.encoder.weight.T + coder.encoder.bias)
    if coder.cfg.activation == "groupmax":
        groups = pre.unflatten(-1, (coder.cfg.k, -1))
        kept = (groups == groups.amax(-1, keepdim=True)).flatten(-2)
    else:
        kept = pre >= pre.topk(coder.cfg.k).values[..., -1:]
    assert coder.W_dec is not None
    y = (pre * kept) @ coder.W_dec + coder.b_dec
    return y if coder.W_skip is None else y + x @ coder.W_skip.T


@pytest.mark.parametrize("estimator", ["jvp", "secant", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_terms_gradient_is_that_on_whole_matrices(kind, estimator):
    coder, x = coder_of(kind), torch.randn(7, 6, dtype=torch.float64)
    layer = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6)).double().requires_grad_(False)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.coder = coder

        def forward(self, rows: Tensor) -> Tensor:
            return plain(self.coder, rows)

    ours, theirs = (JacobianMatching(estimator=estimator)(student, layer, x) for student in (coder, Plain()))
    torch.testing.assert_close(ours, theirs)
    names, parameters = zip(*coder.named_parameters(), strict=True)
    for name, a, b in zip(
        names,
        torch.autograd.grad(ours, parameters, allow_unused=True),
        torch.autograd.grad(theirs, parameters, allow_unused=True),
        strict=True,
    ):
        if a is None or b is None:  # a bias that the derivative does not know
            assert a is None or not a.any(), name
            assert b is None or not b.any(), name
        else:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["TopK", "TopK with a skip connection", "Multi-TopK", "groupmax"])
def test_nothing_is_encoded_twice_and_the_pass_at_hand_says_the_same(kind, monkeypatch):
    coder, x = coder_of(kind), torch.randn(9, 6, dtype=torch.float64)
    v = torch.randn_like(x)
    fresh, out = linear_region(coder, x), coder(x, torch.randn_like(x))
    monkeypatch.setattr(SparseCoder, "encode", lambda *_: pytest.fail("encoded again"))
    region = adapter._region_of_output(coder, x, out)
    assert isinstance(region, SparseRegion)
    assert fresh is not None
    torch.testing.assert_close(region.jvp(v), fresh.jvp(v))
    torch.testing.assert_close(region.output(), fresh.output())
    wanted, found = (torch.autograd.grad(p.output().square().sum(), coder.encoder.weight)[0] for p in (fresh, region))
    torch.testing.assert_close(found, wanted)


@pytest.mark.bitwise("the same weights and the same rows in one process round alike")
def test_of_multi_topks_pass_groupmax_keeps_the_largest_of_each_group():
    coder, x = coder_of("groupmax with Multi-TopK"), torch.randn(9, 6, dtype=torch.float64)
    v, fresh = torch.randn_like(x), linear_region(coder, x)
    region = adapter._region_of_output(coder, x, coder(x, torch.randn_like(x)))
    assert fresh is not None
    assert torch.equal(region.active().positions, fresh.active().positions)
    torch.testing.assert_close(region.jvp(v), fresh.jvp(v))
    torch.testing.assert_close(region.output(), plain(coder, x))


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.works("coefficient 0 is bit-identical to the library alone")
@pytest.mark.parametrize("optimizer", ["adam", "signum"])
def test_with_coefficient_0_nothing_changes(tmp_path, optimizer):
    alone, off = (trainer_of(tmp_path, save_dir=name, optimizer=optimizer) for name in ("alone", "off"))
    alone.fit()
    with match_jacobians(off, coefficient=0.0):
        off.fit()
    assert equal(weights(alone), weights(off))
    on = trainer_of(tmp_path, save_dir="on", optimizer=optimizer)
    match_jacobians(on, coefficient=0.5)
    on.fit()
    assert not equal(weights(alone), weights(on))


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.works("removed, the library is as before")
def test_removed_the_trainer_is_as_before(tmp_path):
    alone, removed = (trainer_of(tmp_path, save_dir=name) for name in ("alone", "removed"))
    with match_jacobians(removed, coefficient=0.5) as matched:
        assert all(len(coder._forward_hooks) == 1 for coder in removed.saes.values())
    assert not any(coder._forward_hooks for coder in removed.saes.values())
    matched.remove()
    alone.fit()
    removed.fit()
    assert equal(weights(alone), weights(removed))


@pytest.mark.works("the logged FVU and save_best leave the term out")
def test_what_is_logged_is_the_fvu_alone(tmp_path, monkeypatch):
    logged: dict[str, list[float]] = {"alone": [], "matched": []}
    for name, of in logged.items():
        trainer = trainer_of(tmp_path, save_dir=name, n_batches=1, save_best=True)
        monkeypatch.setattr(trainer, "save_best", lambda losses, of=of: of.append(losses[MLP]))
        if name == "matched":
            match_jacobians(trainer, coefficient=10.0)
        trainer.fit()
    assert logged["matched"] == logged["alone"]
    assert logged["alone"][0] > 0


def gradients(trainer: Trainer, x: Tensor, y: Tensor, chunks: int) -> dict[str, Tensor]:
    """Return the gradients that one batch leaves, as the trainer goes through its chunks."""
    coder = trainer.saes[MLP]
    total = (y - y.mean(0)).pow(2).sum()
    for a, b in zip(x.chunk(chunks), y.chunk(chunks), strict=True):
        coder(x=a, y=b, total_variance=total).fvu.backward()
    return {name: p.grad.clone() for name, p in coder.named_parameters() if p.grad is not None}


@pytest.mark.works("micro-chunks and gradient accumulation")
def test_a_chunk_has_its_share_of_the_term(tmp_path):
    def prepared() -> tuple[Trainer, Tensor, Tensor]:
        torch.manual_seed(3)
        trainer = trainer_of(tmp_path, coder={"num_latents": 64, "k": 8, "transcode": True})
        layer, rows = layer_and_rows(trainer)
        twice = torch.cat([rows[:16], rows[:16]])  # halves with the same mean, variance and Jacobians
        with torch.no_grad():
            trainer.saes[MLP].W_dec.normal_(std=0.1)
        match_jacobians(trainer, coefficient=2.0, estimator="exact")
        return trainer, twice, layer(twice).detach()

    whole, in_two = gradients(*prepared(), chunks=1), gradients(*prepared(), chunks=2)
    assert whole.keys() == in_two.keys()
    for name in whole:
        torch.testing.assert_close(in_two[name], whole[name], rtol=1e-3, atol=1e-4)


@pytest.mark.works("micro-chunks and gradient accumulation")
@pytest.mark.parametrize(("loss_fn", "chunks"), [("fvu", 1), ("fvu", 2), ("kl", 1)])
def test_accumulated_gradients_are_the_mean_over_batches(tmp_path, loss_fn, chunks):
    def gathered(prompts: Any, n: int, coefficient: float = 10.0) -> dict[str, Tensor]:
        changed = {"loss_fn": loss_fn, "micro_acc_steps": chunks, "grad_acc_steps": n, "dtype": torch.float64}
        trainer = grown(trainer_of(tmp_path, n_batches=2, **changed))
        trainer.dataset = trainer.dataset.select(prompts)
        match_jacobians(trainer, coefficient=coefficient, estimator="exact")
        return gradients_at_step(trainer)

    both, one, two = gathered(range(8), 2), gathered(range(4), 1), gathered(range(4, 8), 1)
    alone = gathered(range(8), 2, coefficient=0.0)
    assert both.keys() == one.keys() == two.keys()
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, (one[name] + two[name]) / 2)
    assert (both[f"{MLP} W_dec"] - alone[f"{MLP} W_dec"]).norm() > 0.1 * alone[f"{MLP} W_dec"].norm()


@pytest.mark.bitwise("the same weights and the same rows in one process round alike")
@pytest.mark.parametrize("options", [{}, {"estimator": "secant", "probe": "pair"}], ids=str)
def test_a_chunk_of_one_row_adds_no_term(tmp_path, options):
    trainer = grown(trainer_of(tmp_path, n_batches=1, micro_acc_steps=8, exclude_tokens=[0], dtype=torch.float64))
    coder, seen, (layer, rows) = trainer.saes[MLP], [], layer_and_rows(trainer)
    total, one = torch.ones((), dtype=torch.float64), {"x": rows[:1], "y": layer(rows[:1])}

    def gradient() -> Tensor:
        return torch.autograd.grad(coder(**one, total_variance=total).fvu, coder.W_dec)[0]

    alone = gradient()
    match_jacobians(trainer, coefficient=2.0, **options)
    assert torch.equal(gradient(), alone)
    prompts = torch.randint(1, 50, (4, 16))
    prompts[0, :7] = 0  # which leaves 57 rows: seven chunks of 8, and one
    trainer.dataset = Dataset.from_dict({"input_ids": prompts.tolist()}).with_format("torch")
    coder.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(kwargs["x"])), with_kwargs=True)
    trainer.fit()
    assert seen == [8] * 7 + [1]
    assert all(weight.isfinite().all() for weight in weights(trainer).values())


@pytest.mark.exact("copies of the same numbers")
def test_accumulated_steps_and_chunks_train(tmp_path):
    trainer = trainer_of(tmp_path, n_batches=8, grad_acc_steps=2, micro_acc_steps=2)
    before = weights(trainer)
    with match_jacobians(trainer, coefficient=0.5) as matched:
        trainer.fit()
    assert not equal(before, weights(trainer))
    assert 0 < matched.relative_errors[MLP] < 2


@pytest.mark.works("the relative Jacobian error falls by 20 % or more in a short run")
@pytest.mark.parametrize("coder", [{}, {"skip_connection": True}, {"multi_topk": True}], ids=str)
def test_the_jacobian_error_falls(tmp_path, coder):
    errors = {}
    for coefficient in (0.0, 2.0):
        trainer = trainer_of(tmp_path, n_batches=150, coder=coder, save_dir=f"{coefficient}")
        match_jacobians(trainer, coefficient=coefficient, probe="rademacher", n_probes=2)
        trainer.fit()
        layer, rows = layer_and_rows(trainer)
        errors[coefficient] = metrics.jacobian_error(trainer.saes[MLP], layer, rows[:64]).relative_error
    assert errors[2.0] < 0.8 * errors[0.0]


@pytest.mark.works("several hookpoints and seeds at once")
def test_every_transcoder_matches_its_own_layer(tmp_path):
    trainer = trainer_of(tmp_path, hookpoints=["layers.0.mlp", MLP], seeds=(0, 1))
    with match_jacobians(trainer, coefficient=0.5) as matched:
        trainer.fit()
    assert set(matched.relative_errors) == {f"{h}/seed{s}" for h in ("layers.0.mlp", MLP) for s in (0, 1)}
    assert len({float(error) for error in matched.relative_errors.values()}) == 4


@pytest.mark.works('loss_fn "ce" and "kl"')
@pytest.mark.parametrize("loss_fn", ["ce", "kl"])
def test_end_to_end_losses_take_the_term_as_well(tmp_path, loss_fn):
    trained = {}
    for coefficient in (0.0, 1.0):
        trainer = trainer_of(tmp_path, loss_fn=loss_fn, n_batches=30, save_dir=f"{coefficient}")
        layer, rows = layer_and_rows(trainer)
        match_jacobians(trainer, coefficient=coefficient)
        trainer.fit()
        trained[coefficient] = metrics.jacobian_error(trainer.saes[MLP], layer, rows[:64]).relative_error
    assert trained[1.0] < trained[0.0]


@pytest.mark.parametrize("options", [{"estimator": "jvp"}, {"estimator": "secant"}], ids=str)
@pytest.mark.parametrize("coder", [{}, {"skip_connection": True}, {"multi_topk": True}], ids=str)
def test_end_to_end_a_layers_term_trains_its_own_transcoder_alone(tmp_path, coder, options):
    found = {}
    for coefficient in (0.0, 2.0):
        changed = {"loss_fn": "kl", "hookpoints": MLPS, "dtype": torch.float64, "coder": coder}
        trainer = grown(trainer_of(tmp_path, n_batches=1, **changed))
        matched = match_jacobians(trainer, coefficient=coefficient, **options)
        if matched._hooks:
            matched._hooks[0].remove()  # that of the layer before
        found[coefficient] = gradients_at_step(trainer)
    for name, gradient in found[0.0].items():
        if name.startswith(MLPS[0]):
            assert gradient.any() or not name.endswith("W_dec")  # Multi-TopK trains no encoder end to end
            torch.testing.assert_close(found[2.0][name], gradient, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(found[2.0][f"{MLP} W_dec"], found[0.0][f"{MLP} W_dec"])


@pytest.mark.works("bfloat16 autocast")
def test_under_autocast_the_term_is_nearly_the_same(tmp_path):
    terms = {}
    for enabled in (False, True):
        trainer = trainer_of(tmp_path, n_batches=2)
        with match_jacobians(trainer, coefficient=0.5) as matched, torch.autocast("cpu", torch.bfloat16, enabled):
            trainer.fit()
        assert all(weight.isfinite().all() for weight in weights(trainer).values())
        terms[enabled] = float(matched.relative_errors[MLP])
    assert terms[True] == pytest.approx(terms[False], rel=0.1)


@pytest.mark.bitwise("the same weights and the same rows in one process round alike")
@pytest.mark.works("what is saved loads in the library and in load_transcoder, with equal outputs")
@pytest.mark.parametrize("coder", [{}, {"skip_connection": True}], ids=str)
def test_what_is_saved_loads_everywhere(tmp_path, coder):
    trainer = trainer_of(tmp_path, coder=coder)
    match_jacobians(trainer, coefficient=0.5)
    trainer.fit()
    folder, x = tmp_path / "saved" / "run" / MLP, torch.randn(10, 16)
    wanted = trainer.saes[MLP](x).sae_out
    assert torch.equal(SparseCoder.load_from_disk(folder)(x).sae_out, wanted)
    ours = load_transcoder(folder)
    torch.testing.assert_close(ours(x), wanted, rtol=1e-4, atol=1e-5)
    assert ours.cfg.metadata.hookpoint == MLP


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_probes_go_on_where_they_stood(tmp_path):
    def fitted(n: int, state: Any = None) -> Any:
        trainer = trainer_of(tmp_path, n_batches=n)
        with match_jacobians(trainer, coefficient=0.5) as matched:
            if state is not None:
                matched.load_state_dict(state)
            trainer.fit()
        return matched.state_dict()[MLP]["generator"]

    half = {MLP: {"device": "cpu", "generator": fitted(2)}}
    assert torch.equal(fitted(2, half), fitted(4))


def in_two_processes(folder: Path, changed: dict[str, Any], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each of them found in a trainer matched by these options."""
    script = Path(__file__).parents[1] / "sparsify_together.py"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(folder), json.dumps(changed), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.works("DDP")
def test_in_two_processes_both_train_the_same_transcoder(tmp_path):
    one, two = in_two_processes(tmp_path, {}, {})
    assert one["weights"] == two["weights"]
    assert one["relative_errors"] != two["relative_errors"]  # each of its own rows
    assert one["moved"] > 0


@pytest.mark.works("distribute_modules")
def test_transcoders_shared_out_over_processes_are_those_of_one(tmp_path):
    options = {"estimator": "exact"}  # probes are drawn for each process
    found = in_two_processes(tmp_path, {"distribute_modules": True, "hookpoints": MLPS}, options)
    assert [list(one["relative_errors"]) for one in found] == [[name] for name in MLPS]
    alone = trainer_of(tmp_path, n_batches=4, batch_size=8, hookpoints=MLPS, dtype=torch.float64, save_dir="alone")
    alone.dataset = alone.dataset.select(torch.arange(32).view(2, 4, 4).transpose(0, 1).flatten())  # both's batches
    alone.lr_schedulers.clear()
    with match_jacobians(alone, coefficient=0.5, **options) as matched:
        alone.fit()
    both = {name: torch.tensor(weight) for one in found for name, weight in one["weights"].items()}
    torch.testing.assert_close(both, {name: weight.float() for name, weight in weights(alone).items()})
    for name, error in matched.relative_errors.items():
        assert found[MLPS.index(name)]["relative_errors"][name] == pytest.approx(float(error))


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"coder": {"transcode": False}}, {}, "transcode=True"),
        ({"hookpoints": ["layers.1", "layers.1.mlp"]}, {}, "is within layers.1"),
        ({}, {"gate_bandwidth": 0.1}, r"gate_bandwidth=0.1: .* leave it out"),
        ({}, {"coefficient": -1.0}, "coefficient=-1"),
        ({}, {"config": JacobianMatchingConfig(), "probe": "pair"}, "either a config or its fields"),
    ],
)
def test_trainers_that_cannot_be_matched(tmp_path, changed, options, message):
    with pytest.raises(ValueError, match=message):
        match_jacobians(trainer_of(tmp_path, **changed), **options)


def test_hookpoints_of_other_processes_are_looked_at_as_well(tmp_path):
    trainer = trainer_of(tmp_path, hookpoints=["layers.1", "layers.1.mlp"])
    del trainer.saes["layers.1.mlp"]  # as distribute_modules leaves it to another process
    with pytest.raises(ValueError, match=r"layers.1.mlp is within layers.1"):
        match_jacobians(trainer)


def test_a_trainer_is_matched_once_and_a_refused_call_leaves_nothing(tmp_path):
    trainer = trainer_of(tmp_path)
    with pytest.raises(ValueError, match=r"coefficient=inf: choose 0 .* or a finite number"):
        match_jacobians(trainer, coefficient=float("inf"))
    with pytest.raises(ValueError, match="matched already"), match_jacobians(trainer):
        match_jacobians(trainer)


class Shifted(nn.Module):
    """An MLP that reads the row before as well, as RWKV's does."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x + x.roll(1, dims=-2))


@pytest.mark.parametrize(
    ("model", "hookpoint", "loss_fn"),
    [
        *(
            (model, block, loss_fn)
            for model, block in (("llama", "layers.1"), ("gpt2", "h.1"))
            for loss_fn in ("fvu", "kl")
        ),
        *(("llama", MLP, loss_fn) for loss_fn in (*("fvu", "kl"), "ce")),  # "ce" itself takes no blocks
    ],
)
def test_layers_that_mix_rows_are_refused(tmp_path, model, hookpoint, loss_fn):
    trainer = trainer_of(tmp_path, hookpoints=[hookpoint], model=model, loss_fn=loss_fn)
    if hookpoint == MLP:
        trainer.model.base_model.set_submodule(MLP, Shifted(trainer.model.base_model.get_submodule(MLP)))
    match_jacobians(trainer)
    with pytest.raises(ValueError, match="no function of its input, row by row"):
        trainer.fit()


def test_its_classes_are_known_at_first_sight():
    """In a process that has not seen the adapter."""
    code = """
import sys
import torch
from faithfulness_plugin import transcoder_jvp
from sparsify import SparseCoder, SparseCoderConfig
transcoder = SparseCoder(6, SparseCoderConfig(num_latents=24, k=4, transcode=True))
assert "faithfulness_plugin.adapters.sparsify" not in sys.modules
x = torch.randn(3, 6)
transcoder_jvp(transcoder, x, x, gate=None)
assert "faithfulness_plugin.adapters.sparsify" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_its_overhead_is_measured(tmp_path, monkeypatch):
    check_overhead("sparsify", tmp_path, monkeypatch)
