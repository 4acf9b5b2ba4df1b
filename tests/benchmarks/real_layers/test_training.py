import pytest
import torch
from real_layer_runs import TERMS, bench_of, config
from torch import Tensor

from faithfulness_plugin.benchmarks.real_layers import training
from faithfulness_plugin.benchmarks.real_layers.config import Run
from faithfulness_plugin.benchmarks.real_layers.training import InputsAlone, train
from faithfulness_plugin.store import StoredRows

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.fixture
def bench(hub, stores, tmp_path):
    arms = [{"skip": True, "layer": "permuted"}, {"skip": True, "control": "frozen skip"}]
    arms += [{**TERMS[-1], "skip": True, "layer": "permuted"}, {"skip": True, "control": "extra compute"}]
    return bench_of(config(hub, arms=[{}, {"skip": True}, *arms], stored_dtype="float32"), tmp_path, stores)


def runs(bench) -> dict[str, Run]:
    return {run.arm.name: run for run in bench.config.runs()}


@pytest.mark.exact("rows are read twice")
def test_inputs_alone_are_those_of_the_rows_and_continue_where_they_were(bench):
    store = bench.stores[1, False]
    one, other = (StoredRows(store, None, batch_size=32, seed=3) for _ in range(2))
    alone = InputsAlone(other)
    for _ in range(4):
        assert torch.equal(next(alone), one.layer.unpack(next(one)).x)
    again = InputsAlone(StoredRows(store, None, batch_size=32, seed=3))
    again.load_state_dict(alone.state_dict())
    assert torch.equal(next(again), next(alone))


@pytest.mark.exact("a weight without a gradient stays")
def test_a_frozen_skip_connection_stays(bench, tmp_path):
    run = runs(bench)["frozen mean Jacobian"]
    with bench.as_it_is(run) as layer:
        transcoder = bench.transcoder(run, layer)
        before = {name: part.detach().clone() for name, part in transcoder.named_parameters()}
        train(transcoder, run, layer.layer, layer.store, bench.config, tmp_path / "checkpoint")
    after = dict(transcoder.named_parameters())
    assert torch.equal(after["W_skip"], before["W_skip"])
    assert torch.equal(after["W_skip"], layer.mean.matrix)
    assert not torch.equal(after["W_enc"], before["W_enc"])


@pytest.mark.bitwise("the same steps on the same batches in one process round alike")
@pytest.mark.parametrize("name", ["skip, secant pair 0.5 (permuted layer)", "skip, extra compute"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(bench, tmp_path, monkeypatch, name):
    run, serve = runs(bench)[name], StoredRows.__next__
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 3)

    def trained(folder: str) -> dict[str, Tensor]:
        with bench.as_it_is(run) as layer:
            transcoder = bench.transcoder(run, layer)
            cost = train(transcoder, run, layer.layer, layer.store, bench.config, tmp_path / folder)
        assert cost.seconds is not None
        assert cost.peak_memory is not None
        return transcoder.state_dict()

    def stopping(rows: StoredRows) -> Tensor:
        if rows.batch == 7:
            raise KeyboardInterrupt
        return serve(rows)

    whole = trained("whole")
    with monkeypatch.context() as within:
        within.setattr(StoredRows, "__next__", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained("parts")
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["step_6"]
    again = trained("parts")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
