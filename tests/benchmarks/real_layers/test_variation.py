import pytest
import torch
from pydantic import ValidationError
from real_layer_runs import TERMS, bench_of, config, run
from sae_lens import SAE

from faithfulness_plugin.benchmarks.real_layers.arms import SKIP, Arm
from faithfulness_plugin.benchmarks.real_layers.config import Run
from faithfulness_plugin.benchmarks.real_layers.experiment import TRANSCODERS
from faithfulness_plugin.benchmarks.real_layers.kinds import Kind
from faithfulness_plugin.benchmarks.real_layers.training import train
from faithfulness_plugin.benchmarks.real_layers.variation import Variation
from faithfulness_plugin.jacobian.matching_config import as_config

SECANT = {"skip": True, "term": "secant", "probe": "pair", "coefficient": 0.3}


def varied(**vary: object) -> Arm:
    return Arm.model_validate({**SECANT, "vary": vary})


def test_variations_reach_the_transcoder_and_its_term():
    cfg = varied(n_probes=4, and_jvp=True).config(Kind(), d_in=4, d_out=5, d_sae=64, device="cpu")
    assert as_config(cfg.jacobian).estimator == "secant_and_jvp"
    assert as_config(cfg.jacobian).n_probes == 4


def test_a_variation_is_compared_with_the_arm_without_it_and_with_skip_alone_of_as_many_features():
    arm = varied(d_sae=128, n_probes=2)
    assert arm.name == "skip, secant pair 0.3, 128 features, 2 probes"
    assert arm.unvaried == Arm.model_validate(SECANT)
    assert arm.baseline == Arm(skip=True, vary=Variation(d_sae=128))
    assert varied(skip_rank=8).baseline == SKIP
    assert not arm.is_recipe
    assert arm.unvaried.is_recipe


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({**SECANT, "vary": {}}, "nothing is changed"),
        ({"vary": {"skip_rank": 2}}, "set skip: true"),
        ({"skip": True, "vary": {"n_probes": 2}}, "n_probes belongs to jvp and secant"),
        ({"skip": True, "vary": {"skip_by_term": True}}, "needs a term"),
        ({**SECANT, "term": "jvp", "vary": {"and_jvp": True}}, "and_jvp goes with term: secant"),
        ({"skip": True, "vary": {"term_warm_up": 0.5}}, "term_warm_up belongs to jvp and secant"),
        ({"skip": True, "control": "constant map", "vary": {"d_sae": 9}}, "constant map is not varied"),
    ],
)
def test_variations_of_what_is_not_there_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Arm.model_validate(fields)


@pytest.mark.usefixtures("as_installed")
class TestOnATinyModel:
    def test_every_variation_is_trained_measured_and_saved_as_a_plain_transcoder(self, hub, stores, tmp_path):
        arm = {**TERMS[-1], "skip": True}
        each = [
            {"d_sae": 48},
            {"n_probes": 2},
            {"and_jvp": True},
            {"term_warm_up": 0.5},
            {"skip_rank": 2},
            {"skip_by_term": True},
            {"dead_window": 0.5},
            {"skip_rank": 2, "skip_by_term": True, "and_jvp": True},
        ]
        arms = [{"skip": True}, {"skip": True, "vary": {"d_sae": 48}}, arm, *({**arm, "vary": vary} for vary in each)]
        result = run(config(hub, arms=arms), tmp_path, stores)
        shapes, errors = {}, {}
        for of in result.trained:
            transcoder = SAE.load_from_disk(tmp_path / TRANSCODERS / of.run.folder)
            shapes[of.arm.name] = tuple(transcoder.W_enc.shape)
            errors[of.arm.name] = tuple(of.jacobian_error["data"])
            if of.arm.vary is not None and of.arm.vary.skip_rank is not None:
                assert torch.linalg.matrix_rank(transcoder.W_skip, rtol=1e-5) == 2
        assert len(set(errors.values())) == len(errors)
        assert {name for name, shape in shapes.items() if shape[1] == 48} == {
            "skip, 48 features",
            "skip, secant pair 0.5, 48 features",
        }

    @pytest.mark.bitwise("the same steps on the same batches in one process round alike")
    def test_a_varied_run_that_was_stopped_ends_as_if_it_had_not_been(self, hub, stores, tmp_path, monkeypatch):
        from faithfulness_plugin.benchmarks.real_layers import training
        from faithfulness_plugin.store import StoredRows

        monkeypatch.setattr(training, "CHECKPOINT_EVERY", 3)
        vary = {"skip_rank": 2, "skip_by_term": True, "term_warm_up": 0.5}
        arm = {**TERMS[-1], "skip": True}
        bench = bench_of(config(hub, arms=[{"skip": True}, arm, {**arm, "vary": vary}]), tmp_path, stores)
        of, serve = bench.config.runs()[-1], StoredRows.__next__

        def trained(folder: str) -> dict[str, torch.Tensor]:
            layer = bench.layer(1)
            transcoder = bench.transcoder(of, layer)
            train(transcoder, of, layer.layer, layer.store, bench.config, tmp_path / folder)
            return transcoder.state_dict()

        whole = trained("whole")
        served = 0

        def stop_after_five(rows: StoredRows) -> torch.Tensor:
            nonlocal served
            served += 1
            if served > 5:
                raise KeyboardInterrupt
            return serve(rows)

        monkeypatch.setattr(StoredRows, "__next__", stop_after_five)
        with pytest.raises(KeyboardInterrupt):
            trained("parts")
        monkeypatch.setattr(StoredRows, "__next__", serve)
        resumed = trained("parts")
        for name, weight in whole.items():
            assert torch.equal(resumed[name], weight), name


def test_runs_with_a_variation_have_folders_of_their_own():
    runs = {Run(1, Kind(), arm, 0, False).folder for arm in (varied(n_probes=2), varied(skip_by_term=True))}
    assert len(runs) == 2
