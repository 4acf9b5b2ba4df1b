"""The cache that delphi reads, against a schema written from its public source."""

import json
from itertools import pairwise
from pathlib import Path

import inspected
import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load_file

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.inspection.exports.delphi import write_delphi_cache
from faithfulness_plugin.inspection.hooked_reading import acts_at

pytestmark = pytest.mark.usefixtures("as_installed")


class CacheConfig(BaseModel):
    """delphi/config.py, CacheConfig, and what save_config adds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset_repo: str
    dataset_split: str
    dataset_name: str
    dataset_column: str
    batch_size: int
    cache_ctx_len: int
    n_tokens: int
    n_splits: int
    model_name: str


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries (prompt, position, feature), their activations, and tokens, as delphi's loader puts them together."""
    config = CacheConfig.model_validate_json((folder / "config.json").read_text())
    edges = sorted(tuple(map(int, file.stem.split("_"))) for file in folder.glob("*.safetensors"))
    assert len(edges) == config.n_splits
    assert {file.name for file in folder.iterdir()} == {"config.json", *(f"{a}_{b}.safetensors" for a, b in edges)}
    # ranges follow each other: features are looked up by their boundaries
    assert edges[0][0] == 0
    assert all(one[1] + 1 == other[0] for one, other in pairwise(edges))
    locations, activations, tokens = [], [], []
    for first, last in edges:
        split = load_file(folder / f"{first}_{last}.safetensors")
        assert set(split) == {"locations", "activations", "tokens"}
        assert split["locations"].dtype in (np.uint16, np.uint32)
        assert split["activations"].dtype in (np.float16, np.float32)
        assert split["tokens"].dtype == np.int64
        assert split["locations"].shape == (len(split["activations"]), 3)
        here = split["locations"].astype(np.int64) + np.array([0, 0, first])
        assert here[:, 2].max(initial=first) <= last
        locations.append(here)
        activations.append(split["activations"])
        tokens.append(split["tokens"])
    assert all((of == tokens[0]).all() for of in tokens)
    assert tokens[0].shape[1] == config.cache_ctx_len
    assert tokens[0].size == config.n_tokens
    return np.concatenate(locations), np.concatenate(activations), tokens[0]


@pytest.mark.parametrize("n_splits", [1, 5, 7])
def test_every_activation_stands_at_its_place(tmp_path, n_splits):
    of = inspected.text()
    written = write_delphi_cache(
        of.transcoder, of.sample, tmp_path, name="mine", model_name="some/model", n_splits=n_splits
    )
    assert written == tmp_path / "mine"
    locations, activations, tokens = read(written)
    origins = of.sample.origins
    assert origins is not None
    np.testing.assert_array_equal(tokens, origins.tokens.numpy())
    with torch.no_grad():
        acts = acts_at(of.transcoder, of.sample.x.to(of.transcoder.W_enc)).float().numpy()
    # what SAEBench's autointerp asks for: each feature's activations at all positions, and how often it fires
    dense = np.zeros((*tokens.shape, acts.shape[1]), np.float32)
    dense[tuple(locations.T)] = activations
    at_rows = dense[origins.prompt.numpy(), origins.position.numpy()]
    np.testing.assert_allclose(at_rows, np.where(acts > 1e-5, acts, 0), rtol=1e-3)
    assert np.count_nonzero(dense) == len(activations) == (acts > 1e-5).sum()
    np.testing.assert_array_equal(np.bincount(locations[:, 2], minlength=acts.shape[1]), (acts > 1e-5).sum(0))


def test_large_activations_keep_their_value(tmp_path):
    of = inspected.text()
    with torch.no_grad():
        of.transcoder.W_enc.mul_(1e6)
    _, activations, _ = read(write_delphi_cache(of.transcoder, of.sample, tmp_path, name="a", model_name=""))
    assert np.isfinite(activations).all()
    assert activations.max() > np.finfo(np.float16).max


def test_rows_without_text_are_refused_and_leave_nothing(tmp_path):
    (of,) = inspected.toy()
    with pytest.raises(UsageError, match="of none"):
        write_delphi_cache(of.transcoder, of.sample, tmp_path / "a", name="toy", model_name="")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_files_or_of_another_cache_is_refused(tmp_path):
    of = inspected.text()
    write_delphi_cache(of.transcoder, of.sample, tmp_path, name="a", model_name="m")
    with pytest.raises(UsageError, match=r"a is not empty: it holds delphi's latents of a transcoder of m; choose"):
        write_delphi_cache(of.transcoder, of.sample, tmp_path, name="a", model_name="other")
    (tmp_path / "a" / "model.safetensors").touch()
    with pytest.raises(UsageError, match=r"it holds model.safetensors, which is none of delphi's latents"):
        write_delphi_cache(of.transcoder, of.sample, tmp_path, name="a", model_name="m", overwrite=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UsageError, match=r"it holds config.json, which is none of delphi's latents"):
        write_delphi_cache(of.transcoder, of.sample, tmp_path, name="b", model_name="m", overwrite=True)


def test_a_cache_is_replaced_whole(tmp_path):
    of = inspected.text()
    for n_splits in (7, 2):
        write_delphi_cache(
            of.transcoder, of.sample, tmp_path, name="a", model_name="m", n_splits=n_splits, overwrite=True
        )
    assert json.loads((tmp_path / "a" / "config.json").read_text())["n_splits"] == 2
    read(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
