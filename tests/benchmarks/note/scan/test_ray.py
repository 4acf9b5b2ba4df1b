"""The same scan on a local Ray cluster of two workers."""

import pytest

from faithfulness_plugin.benchmarks.note.scan.experiment import Scan, ScanOptions
from faithfulness_plugin.benchmarks.note.scan.spec import ScanSpec
from faithfulness_plugin.results.experiment import complete

ray = pytest.importorskip("ray")

SPEC = ScanSpec.model_validate(
    {
        "base": {"d_in": 4, "d_sae": 12, "density": 0.5, "batch_size": 16, "n_steps": 20},
        "arms": {"no term": {}, "Jacobian": {"jacobian_coefficient": 1.0}},
        "grid": {"sparsity_coefficient": [0.1, 0.2]},
        "seeds": 2,
        "n_validation": 400,
        "n_jacobian": 50,
    }
)


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.bitwise("torch multiplies the matrices of a batch one by one, each as if it stood alone, in every process")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_scan_on_ray_is_the_scan_on_this_machine(cluster, tmp_path):
    local = complete(Scan(), SPEC, tmp_path / "local")
    there = complete(Scan(), SPEC, tmp_path / "ray", n_jobs=2, backend="ray", options=ScanOptions(shard_size=3))
    assert there == local
