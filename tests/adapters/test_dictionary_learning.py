import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobians_of_batch
from torch import Tensor, nn

from faithfulness_plugin import (
    JacobianMatching,
    JacobianMatchingConfig,
    load_transcoder,
    metrics,
    transcoder_jvp,
    transcoder_vjp,
)
from faithfulness_plugin.transcoders.formats.errors import FormatError

pytest.importorskip("dictionary_learning")

from dictionary_learning.buffer import NNsightActivationBuffer
from dictionary_learning.dictionary import (
    AutoEncoder,
    AutoEncoderNew,
    GatedAutoEncoder,
    JumpReluAutoEncoder,
)
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE, BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReLUFunction, JumpReluTrainer
from dictionary_learning.trainers.p_anneal import PAnnealTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from nnsight import LanguageModel
from small_overhead import check_overhead, prompts, tokenizer
from tiny_models import hugging_face

from faithfulness_plugin.adapters.dictionary_learning import matched_trainer
from faithfulness_plugin.adapters.examples.offline import accepting_truncation

pytestmark = [
    pytest.mark.usefixtures("as_installed", "one_thread"),
    pytest.mark.filterwarnings("ignore"),
]  # of the library, as in a user's script
D, N_FEATURES, K = 8, 40, 4
DICTIONARIES: dict[str, Any] = {
    "ReLU": lambda: AutoEncoder(D, N_FEATURES),
    "ReLU, April update": lambda: AutoEncoderNew(D, N_FEATURES),
    "gated": lambda: GatedAutoEncoder(D, N_FEATURES),
    "JumpReLU": lambda: JumpReluAutoEncoder(D, N_FEATURES),
    "TopK": lambda: AutoEncoderTopK(D, N_FEATURES, K),
    "BatchTopK": lambda: BatchTopKSAE(D, N_FEATURES, K),
}
OF_K = {"k": K, "warmup_steps": 0, "lr": 1e-2, "threshold_start_step": 0, "threshold_beta": 0.9}
SPARSITY = {"warmup_steps": 0, "sparsity_warmup_steps": None, "lr": 1e-2}
TRAINERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ReLU": (StandardTrainer, {**SPARSITY, "l1_penalty": 0.05}),
    "ReLU, April update": (StandardTrainerAprilUpdate, {**SPARSITY, "l1_penalty": 0.05, "dict_class": AutoEncoderNew}),
    "gated": (GatedSAETrainer, {**SPARSITY, "l1_penalty": 0.05}),
    "JumpReLU": (JumpReluTrainer, {**SPARSITY, "target_l0": 6.0, "bandwidth": 0.1}),
    "TopK": (TopKTrainer, OF_K),
    "BatchTopK": (BatchTopKTrainer, OF_K),
}


def dictionary_of(kind: str, dtype: torch.dtype = torch.float64) -> Any:
    ae = DICTIONARIES[kind]().to(dtype)
    with torch.no_grad():
        for name, weight in ae.named_parameters():
            weight.normal_(std=0.5).abs_() if name == "threshold" else weight.normal_(std=0.5)
        if kind == "BatchTopK":
            ae.threshold.fill_(0.4)
    return ae


@pytest.fixture
def layer() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(D, 24), nn.GELU(), nn.Linear(24, D)).requires_grad_(False)


def batches(layer: Any, n: int = 30, rows: int = 64) -> Iterator[Tensor]:
    torch.manual_seed(2)
    basis = torch.randn(5, D)
    made = [torch.randn(rows, 5) @ basis for _ in range(n)]
    return cycle([torch.stack([x, layer(x)], dim=1) for x in made])


def train(
    kind: str, data: Any, steps: int, *, layer: Any = None, save: Path | None = None, d: int = D, **matched: Any
) -> Any:
    """The trainer after trainSAE; as the library has it, where no layer is given."""
    trainer, own = TRAINERS[kind]
    made: list[Any] = []

    class Kept(trainer if layer is None else matched_trainer(trainer, layer, **matched)):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    torch.manual_seed(0)
    config = {
        "trainer": Kept,
        "steps": steps,
        "activation_dim": d,
        "dict_size": N_FEATURES,
        "layer": 1,
        "lm_name": "a model",
        "device": "cpu",
        "seed": 0,
        **own,
    }
    trainSAE(
        data=data, trainer_configs=[config], steps=steps, save_dir=None if save is None else str(save), device="cpu"
    )
    return made[0]


@pytest.mark.works("J v, J^T v in closed form")
@pytest.mark.parametrize("kind", DICTIONARIES)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_the_closed_form_is_autograds(kind, seed):
    torch.manual_seed(seed)
    ae, x = dictionary_of(kind), torch.randn(5, D, dtype=torch.float64)
    v, u = torch.randn_like(x), torch.randn_like(x)
    J = jacobians_of_batch(ae, x)
    y, Jv = transcoder_jvp(ae, x, v)
    torch.testing.assert_close(y, ae(x))
    torch.testing.assert_close(Jv, torch.einsum("noi,ni->no", J, v))
    torch.testing.assert_close(transcoder_vjp(ae, x, u)[1], torch.einsum("noi,no->ni", J, u))


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.works("coefficient 0 on pairs (x, x) is bit-identical to the library alone")
@pytest.mark.parametrize("kind", TRAINERS)
def test_with_coefficient_0_and_pairs_of_the_same_it_is_the_library(kind, layer):
    pairs = list(islice(batches(layer), 20))
    alone = train(kind, (pair[:, 0] for pair in pairs), 19)
    off = train(kind, (pair[:, :1].expand(-1, 2, -1) for pair in pairs), 19, layer=lambda x: x, coefficient=0.0)
    for name, weight in alone.ae.state_dict().items():
        assert torch.equal(weight, off.ae.state_dict()[name]), name


@pytest.mark.works("every trainer learns the layer, and the relative Jacobian error falls by 20 % or more")
@pytest.mark.parametrize("kind", TRAINERS)
def test_it_learns_the_layer_and_the_jacobian_error_falls(kind, layer):
    rows = next(batches(layer))[:, 0]
    y = layer(rows)
    errors = {}
    for coefficient in (0.0, 1.0):
        ae = train(kind, batches(layer), 400, layer=layer, coefficient=coefficient, probe="rademacher", n_probes=2).ae
        assert (ae(rows) - y).square().sum() < 0.5 * (y - y.mean(0)).square().sum()
        errors[coefficient] = metrics.jacobian_error(ae, layer, rows).relative_error
    assert errors[1.0] < 0.8 * errors[0.0]


@pytest.mark.works("secants")
@pytest.mark.parametrize("kind", TRAINERS)
def test_a_secants_gradient_is_that_of_the_function_itself(kind, layer):
    """The function is the trainer's own forward pass: for BatchTopK with the threshold that the batch has set."""
    trainer = train(kind, batches(layer), 5, layer=layer, coefficient=0.0)
    ae, pair = trainer.ae, next(batches(layer))
    x = pair[:, 0]
    matching = JacobianMatching(estimator="secant", probe="pair")
    targets = matching.targets(layer, x)
    with trainer._reading(x) as encoded:
        trainer.own_loss(x, pair[:, 1], 5, False)
    ours = matching.from_targets(ae, targets, gate=trainer._region(x, encoded[-1]))
    if kind == "JumpReLU":

        def t(rows: Tensor) -> Tensor:
            pre: Any = JumpReLUFunction.apply(rows @ ae.W_enc + ae.b_enc, ae.threshold, trainer.bandwidth)
            return ae.decode(pre)
    elif kind == "BatchTopK":
        pre = torch.relu(ae.encoder(x - ae.b_dec))
        least = pre.flatten().topk(K * len(x)).values[-1]

        def t(rows: Tensor) -> Tensor:
            acts = torch.relu(ae.encoder(rows - ae.b_dec))
            return ae.decode(acts * (acts >= least))
    else:
        t = ae
    quotient = (t(x + targets.step * targets.v[0]) - t(x)) / targets.step
    theirs = (quotient - targets.Jv[0]).square().sum(-1).mean() * targets.scale
    torch.testing.assert_close(ours, theirs)
    trained = [encoder_of(ae), *([ae.threshold] if kind == "JumpReLU" else [])]
    for weight, gradient in zip(trained, torch.autograd.grad(ours, trained, retain_graph=True), strict=True):
        wanted = torch.autograd.grad(theirs, weight, retain_graph=True)[0]
        assert wanted.abs().max() > 0
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.works("bf16 autocast")
@pytest.mark.parametrize("options", [{}, {"jitter": 0.5}, {"estimator": "secant"}, {"estimator": "vjp"}], ids=str)
@pytest.mark.parametrize("kind", TRAINERS)
def test_the_term_stays_in_single_precision_under_autocast(kind, options, layer):
    """On a GPU trainSAE has activations in half precision, weights in single."""
    trainer = train(kind, batches(layer), 5, layer=layer, **options)
    pair = next(batches(layer))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trainer.update(6, pair.to(torch.bfloat16))
    seen = trainer._matching.state_dict()
    plain = trainer.loss(pair, step=6, logging=True).losses["jacobian_relative_error"]
    trainer._matching.load_state_dict(seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = trainer.loss(pair.to(torch.bfloat16), step=6, logging=True).losses["jacobian_relative_error"]
    assert rounded == pytest.approx(plain, rel=0.15)


def test_with_jitter_rows_of_a_batch_compete_where_they_are_differentiated(layer):
    """The learned threshold, which the first steps do not have, plays no part."""
    trainer = train("BatchTopK", batches(layer), 5, layer=layer, jitter=0.5)
    x = next(batches(layer))[:, 0]
    region = trainer._region_at(x)
    assert len(region.active().features) == K * len(x)
    torch.testing.assert_close(region.feature_acts.to_dense(), trainer.ae.encode(x, use_threshold=False))


def encoder_of(ae: Any) -> Tensor:
    return ae.W_enc if isinstance(ae, JumpReluAutoEncoder) else ae.encoder.weight


def test_topk_kinds_start_with_inputs_centred(layer):
    pair = next(batches(layer)) + 5.0
    shifted = pair[:, 0]
    trainer = matched_trainer(TopKTrainer, layer, coefficient=0.0)(
        steps=10, activation_dim=D, dict_size=N_FEATURES, layer=0, lm_name="", device="cpu", seed=0, **OF_K
    )
    trainer._centre(shifted, pair[:, 1])
    trainer.ae.b_dec.data = trainer_module().geometric_median(pair[:, 1])
    centred = trainer.ae.encoder(trainer_module().geometric_median(shifted) - trainer.ae.b_dec)
    torch.testing.assert_close(centred, torch.zeros(N_FEATURES), rtol=0, atol=1e-4)


def trainer_module() -> Any:
    from dictionary_learning.trainers import top_k

    return top_k


@pytest.mark.bitwise("the same weights and the same rows in one process round alike")
@pytest.mark.works("what is saved loads in the library and in load_transcoder, with equal outputs")
@pytest.mark.parametrize("kind", TRAINERS)
def test_what_is_saved_loads_everywhere(kind, layer, tmp_path):
    trainer = train(kind, batches(layer), 60, layer=layer, coefficient=0.5, save=tmp_path)
    folder, x = tmp_path / "trainer_0", next(batches(layer))[:, 0]
    wanted = trainer.ae(x)
    if kind == "ReLU, April update":  # which the library saves as another class, so that its loader fails
        again = AutoEncoderNew.from_pretrained(folder / "ae.pt")
    else:
        again, _ = load_dictionary(str(folder), "cpu")
    assert torch.equal(again(x), wanted)
    torch.testing.assert_close(load_transcoder(folder)(x), wanted, rtol=1e-4, atol=1e-4)
    config = json.loads((folder / "config.json").read_text())["trainer"]
    assert (config["jacobian_coefficient"], config["jacobian"]["estimator"]) == (0.5, "jvp")


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_every_dictionary_is_read_as_the_function_that_it_is(kind, tmp_path):
    ae, x = dictionary_of(kind), torch.randn(50, D, dtype=torch.float64)
    torch.save(ae.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": type(ae).__name__, "layer": 3}}))
    read = load_transcoder(tmp_path, dtype=None)
    torch.testing.assert_close(read(x), ae(x))
    (tmp_path / "checkpoints").mkdir()
    torch.save(ae.state_dict(), tmp_path / "checkpoints" / "ae_7.pt")
    torch.testing.assert_close(load_transcoder(tmp_path / "checkpoints" / "ae_7.pt", dtype=None)(x), ae(x))
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "MyOwn"}}))
    with pytest.raises(FormatError, match="dict_class MyOwn is not known: choose from AutoEncoder"):
        load_transcoder(tmp_path)


@pytest.mark.exact("copies of the same numbers")
@pytest.mark.works("logs of trainSAE")
@pytest.mark.parametrize("kind", TRAINERS)
def test_logs_tell_of_the_term(kind, layer):
    trainer = train(kind, batches(layer), 3, layer=layer, coefficient=0.5)
    pair = next(batches(layer))
    log = trainer.loss(pair, step=3, logging=True)
    assert torch.equal(log[0], pair[:, 1])
    assert log.losses["jacobian_relative_error"] > 0
    without = train(kind, batches(layer), 3, layer=layer, coefficient=0.0).loss(pair, step=3, logging=True)
    assert "jacobian_relative_error" not in without.losses


def test_what_a_user_can_get_wrong(layer):
    with pytest.raises(ValueError, match="choose from StandardTrainer, "):
        matched_trainer(PAnnealTrainer, layer)
    with pytest.raises(ValueError, match="coefficient=-1"):
        matched_trainer(TopKTrainer, layer, coefficient=-1)
    with pytest.raises(ValueError, match=r"coefficient=inf: choose 0 .* or a finite number"):
        matched_trainer(TopKTrainer, layer, coefficient=float("inf"))
    with pytest.raises(ValueError, match="MatchedTopKTrainer is matched already"):
        matched_trainer(matched_trainer(TopKTrainer, layer), layer)
    with pytest.raises(ValueError, match="pass either a config or its fields"):
        matched_trainer(TopKTrainer, layer, config=JacobianMatchingConfig(), estimator="secant")
    with pytest.raises(ValueError, match=r"gate_bandwidth=0\.1: .*secant"):
        matched_trainer(JumpReluTrainer, layer, gate_bandwidth=0.1)
    with pytest.raises(ValueError, match=r"Mine has a loss of its own.*own_loss"):
        matched_trainer(type("Mine", (JumpReluTrainer,), {"loss": lambda self, x, step, logging=False: x.sum()}), layer)
    blind = type("Blind", (TopKTrainer,), {"loss": lambda self, x, step, logging=False: self.ae.b_dec.sum()})
    with pytest.raises(ValueError, match=r"MatchedBlind does not call ae\.encode"):
        matched_trainer(blind, layer)(
            steps=10, activation_dim=D, dict_size=N_FEATURES, layer=0, lm_name="", device="cpu", seed=0, **OF_K
        ).update(0, next(batches(layer)))
    with pytest.raises(ValueError, match=r"shape \[64, 8\]: pass pairs"):
        train("TopK", (pair[:, 0] for pair in batches(layer)), 3, layer=layer)
    with pytest.raises(ValueError, match=r"is not layer\(the first\)"):
        train("TopK", batches(lambda x: 2 * layer(x)), 3, layer=layer)
    with pytest.raises(ValueError, match="resample_steps"):
        matched_trainer(StandardTrainer, layer)(
            steps=10,
            activation_dim=D,
            dict_size=N_FEATURES,
            layer=0,
            lm_name="",
            device="cpu",
            warmup_steps=1,
            sparsity_warmup_steps=None,
            resample_steps=5,
        )


def test_its_classes_are_known_at_first_sight():
    """In a process that has not seen the adapter."""
    code = """
import sys
import torch
from faithfulness_plugin import transcoder_jvp
from dictionary_learning.trainers.top_k import AutoEncoderTopK
transcoder = AutoEncoderTopK(6, 24, 4)
assert "faithfulness_plugin.adapters.dictionary_learning" not in sys.modules
x = torch.randn(3, 6)
transcoder_jvp(transcoder, x, x, gate=None)
assert "faithfulness_plugin.adapters.dictionary_learning" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.works("the pairs of its NNsightActivationBuffer")
def test_it_trains_on_the_librarys_own_buffer():
    model = hugging_face("llama").to(torch.float32).requires_grad_(False)
    traced = LanguageModel(model, tokenizer=accepting_truncation(tokenizer()))
    buffer = NNsightActivationBuffer(
        cycle(prompts(16, 8)),
        traced,
        traced.model.layers[1].mlp,
        d_submodule=16,
        io="in_and_out",
        n_ctxs=16,
        ctx_len=8,
        refresh_batch_size=4,
        out_batch_size=32,
    )
    layer = model.model.layers[1].mlp
    x, y = next(buffer).unbind(1)
    torch.testing.assert_close(y, layer(x))
    trainer = train("TopK", buffer, 200, layer=layer, coefficient=0.5, probe="rademacher", d=16)
    assert (trainer.ae(x) - y).square().sum() < 0.5 * (y - y.mean(0)).square().sum()
    alone = train("TopK", buffer, 200, layer=layer, coefficient=0, d=16)
    errors = [metrics.jacobian_error(t.ae, layer, x).relative_error for t in (trainer, alone)]
    assert errors[0] < 0.8 * errors[1]


def test_its_overhead_is_measured(tmp_path, monkeypatch):
    check_overhead("dictionary_learning", tmp_path, monkeypatch)
