"""Members on rows of their own, and the iterator of such rows."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch

from faithfulness_plugin import AbsNetwork, StandardTrainingTranscoderConfig
from faithfulness_plugin.benchmarks.note.trainer.ensemble import train_ensemble
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.rows import RowInputs, RowSource
from faithfulness_plugin.training.train import train_transcoder
from faithfulness_plugin.transcoders.seeded import made_with_seed


@dataclass(frozen=True)
class Scaled:
    """Gaussian rows."""

    scale: float
    d_in: int = 4

    def draw(self, n_rows: int, generator: torch.Generator) -> torch.Tensor:
        return self.scale * torch.randn(n_rows, self.d_in, generator=generator)


def member(scale: float, seed: int) -> ToyMember:
    config = StandardTrainingTranscoderConfig(
        d_in=4, d_sae=16, jacobian={"estimator": "secant", "seed": seed}, jacobian_coefficient=1.0
    )
    return ToyMember(transcoder=config, seed=seed, batch_size=16, rows=Scaled(scale))


def test_a_member_is_the_transcoder_trained_alone_on_its_rows():
    members, layer = [member(1.0, 0), member(0.5, 0), member(1.0, 1)], AbsNetwork(4)
    ensemble = train_ensemble(members, layer, n_steps=15)
    for i, of in enumerate(members):
        start = made_with_seed(deepcopy(of.transcoder), of.seed)
        alone = train_transcoder(start, layer, of.inputs(), n_steps=15, lr=3e-3)
        for name, weight in ensemble.transcoder(i).named_parameters():
            torch.testing.assert_close(weight, alone.transcoder.get_parameter(name), rtol=1e-4, atol=1e-5)


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
def test_stopped_and_resumed_it_is_the_uninterrupted_run(tmp_path):
    members, layer, path = [member(1.0, 0), member(0.5, 1)], AbsNetwork(4), tmp_path / "checkpoint.pt"
    calls = 0

    def killed(x):
        nonlocal calls
        calls += 1
        if calls > 20:
            raise KeyboardInterrupt
        return layer(x)

    with pytest.raises(KeyboardInterrupt):
        train_ensemble(members, killed, n_steps=20, checkpoint=path, checkpoint_every=3)
    resumed = train_ensemble(members, layer, n_steps=20, checkpoint=path)
    whole = train_ensemble(members, layer, n_steps=20)
    for here, there in zip(resumed.weights, whole.weights, strict=True):
        assert torch.equal(here.W_enc, there.W_enc)
    with pytest.raises(ValueError, match="other settings"):
        train_ensemble([member(0.7, 0), member(0.5, 1)], layer, n_steps=20, checkpoint=path)


@pytest.mark.exact("draws from generators in one state")
def test_the_stream_goes_on_where_it_was_and_refuses_another_source():
    assert isinstance(Scaled(1.0), RowSource)
    inputs = RowInputs(Scaled(1.0), 5, seed=3)
    next(inputs)
    state, expected = inputs.state_dict(), next(inputs)
    other = RowInputs(Scaled(1.0), 5, seed=8)
    other.load_state_dict(state)
    assert torch.equal(next(other), expected)
    with pytest.raises(ValueError, match="of other data"):
        RowInputs(Scaled(2.0), 5).load_state_dict(state)
    with pytest.raises(ValueError, match="at least one row"):
        RowInputs(Scaled(1.0), 0)
