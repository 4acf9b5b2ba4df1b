from dataclasses import dataclass
from itertools import product

import pytest
import torch
from oracles import random_transcoder

from faithfulness_plugin import JacobianMatching
from faithfulness_plugin.jacobian.estimators import ESTIMATORS
from faithfulness_plugin.jacobian.estimators.jvp import Jvp
from faithfulness_plugin.jacobian.matching_config import DATA, SHIPPED, JacobianMatchingConfig
from faithfulness_plugin.jacobian.matching_config import ISOTROPIC as ISOTROPIC_NAMES
from faithfulness_plugin.jacobian.probes import ISOTROPIC, PROBES
from faithfulness_plugin.store import DerivativeStore, StoredRows


def coordinates(x: torch.Tensor, n_probes: int = 1, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw unit vectors of random coordinates, times sqrt(d_in), so that E[v v^T] = I."""
    d_in = x.shape[-1]
    index = torch.randint(d_in, (n_probes, *x.shape[:-1]), generator=generator)
    return torch.nn.functional.one_hot(index, d_in).to(x.dtype) * d_in**0.5


@dataclass(frozen=True)
class Columns(Jvp):
    """An estimator of one's own: a class with a name and probes, and its registration."""

    name = "columns"
    probes = dict.fromkeys(ISOTROPIC, coordinates)


@pytest.fixture
def columns(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, Columns.name, Columns)


def test_the_names_are_those_of_configs_and_files():
    assert {name: ESTIMATORS[name].name for name in SHIPPED} == {n: n for n in ("jvp", "vjp", "secant", "exact")}


def test_a_config_refuses_before_torch_is_loaded_what_the_classes_refuse():
    assert tuple(ESTIMATORS)[: len(SHIPPED)] == SHIPPED
    assert tuple(ISOTROPIC) == ISOTROPIC_NAMES
    assert tuple(PROBES) == (*ISOTROPIC_NAMES, *DATA)
    for name, probe, width in product(SHIPPED, (*PROBES, "cube"), (None, 0.1)):
        refusals = []
        options = {"probe": probe, "gate_bandwidth": width}
        for make in (ESTIMATORS[name], lambda name=name, **of: JacobianMatchingConfig(estimator=name, **of)):
            try:
                refusals.append(str(make(**options) and ""))
            except ValueError as error:
                refusals.append(str(error))
        assert refusals[0] == refusals[1]


def test_an_estimator_of_ones_own_needs_a_class_and_its_registration(columns, mlp, tmp_path):
    student, x = random_transcoder("standard"), torch.randn(400, 5, dtype=torch.float64)
    exact = JacobianMatching(estimator="exact", normalize=False)(student, mlp, x)
    estimates = [JacobianMatching(estimator="columns", normalize=False, seed=s)(student, mlp, x) for s in range(20)]
    assert torch.stack(estimates).mean().item() == pytest.approx(exact.item(), rel=0.05)

    config = {"estimator": "columns", "n_probes": 2}
    store = DerivativeStore.create(tmp_path, source={}, d_in=5, d_out=4, products=[config], n_shards=1, dtype="float64")
    with store.writing():
        store.fill_shard(0, x, mlp)
    rows = StoredRows(DerivativeStore.open(tmp_path), config, batch_size=8)
    student = random_transcoder("standard", jacobian=config, jacobian_coefficient=1.0).set_layer(rows.layer)
    response = rows.layer.unpack(next(rows))
    assert response.v is not None
    assert ((response.v != 0).sum(-1) == 1).all()
    matching = JacobianMatching(config)
    assert matching.from_targets(student, matching.targets_of(response)).requires_grad
