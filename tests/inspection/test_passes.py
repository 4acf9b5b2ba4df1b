"""Parts of an inspection: kept when they are finished, and not made again."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import inspected
import numpy as np
import pytest
import torch
from scipy.sparse import issparse

from faithfulness_plugin import AbsInputs, AbsNetwork
from faithfulness_plugin.inspection import passes as module
from faithfulness_plugin.inspection.inspection import inspect_transcoder
from faithfulness_plugin.inspection.passes import Passes, digest
from faithfulness_plugin.inspection.sample import row_sample


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("made again")


def same(one: Any, other: Any) -> bool:
    if is_dataclass(one):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    assert not issparse(one)
    return one == other or (one != one and other != other)


def test_a_finished_part_is_read_and_one_of_another_key_is_made(tmp_path):
    said: list[tuple[str, float]] = []
    runs = Passes(tmp_path / "deep", lambda *part: said.append(part))
    found = {"rows": np.arange(3.0), "of": [torch.ones(2), ("a", 1, None)], "share": np.float64(0.5)}
    assert runs.run("rows", "one", lambda done: (done(0.25), found)[1]) is found
    assert said == [("rows", 0.0), ("rows", 0.25), ("rows", 1.0)]
    again = Passes(tmp_path / "deep").run("rows", "one", never)
    assert same(again["rows"], found["rows"])
    assert same(again["of"], found["of"])
    assert again["share"] == 0.5
    with pytest.raises(AssertionError, match="made again"):
        Passes(tmp_path / "deep").run("rows", "two", never)
    runs.clear()
    assert not (tmp_path / "deep").exists()
    assert Passes().run("rows", Passes().key(torch.ones(3)), lambda _: 3) == 3


def test_what_was_interrupted_or_damaged_is_made_again(tmp_path):
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Passes(tmp_path).run("rows", "one", interrupted)
    assert list(tmp_path.iterdir()) == []
    assert Passes(tmp_path).run("rows", "one", lambda _: 1) == 1
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    assert Passes(tmp_path).run("rows", "one", lambda _: 2) == 2
    assert Passes(tmp_path).run("rows", "one", never) == 2


def test_no_class_is_built_but_dataclasses_of_the_package(tmp_path):
    for of in ("builtins:dict", "os:system", "faithfulness_plugin.messages:say", "faithfulness_plugin_evil:A"):
        torch.save([{"class": of, "fields": {}}], tmp_path / "a.pt")
        assert module._read(tmp_path / "a.pt") is None


def test_digests_tell_texts_and_tensors_apart():
    rows = torch.arange(6.0)
    different = [rows, rows.reshape(2, 3), rows.long(), rows.double(), "rows", "row", torch.empty(0)]
    assert len({digest(each) for each in different}) == len(different)
    assert digest("a", "bc") != digest("ab", "c")
    assert digest(rows.reshape(2, 3).T) == digest(rows.reshape(2, 3).T.contiguous())


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("kind", ["toy", "text"])
def test_an_inspection_that_is_resumed_finds_the_same_and_reads_nothing(tmp_path, monkeypatch, kind):
    shared: dict[str, Any]
    of: Any
    if kind == "text":
        of, layer, shared = inspected.text(), inspected.layer(), {"vocabulary": inspected.vocabulary()}
    else:
        (of,), layer, shared = inspected.toy(), AbsNetwork(16).double(), {"kinks": True}
    one = inspect_transcoder(of.transcoder, layer, of.sample, **shared, passes=Passes(tmp_path))
    for name in ("read_sample", "feature_records", "feature_details", "overview", "feature_tokens"):
        monkeypatch.setattr(f"faithfulness_plugin.inspection.inspection.{name}", never)
    two = inspect_transcoder(of.transcoder, layer, of.sample, **shared, passes=Passes(tmp_path))
    assert same(replace(one, transcoder=None), replace(two, transcoder=None))
    with torch.no_grad():
        of.transcoder.b_enc[3] += 1
    with pytest.raises(AssertionError, match="made again"):
        inspect_transcoder(of.transcoder, layer, of.sample, **shared, passes=Passes(tmp_path))


def test_how_far_it_is(tmp_path, make_transcoder):
    said: list[tuple[str, float]] = []
    layer, transcoder = AbsNetwork(5), make_transcoder(d_out=5, dtype="float32").eval()
    sample = row_sample(layer, next(AbsInputs(5, batch_size=60)), memory=2e-5)
    inspect_transcoder(transcoder, layer, sample, passes=Passes(on_part=lambda *part: said.append(part)))
    assert list(dict.fromkeys(part for part, _ in said)) == [
        "activations",
        "features",
        "details",
        "Jacobians",
        "together",
    ]
    shares = [share for part, share in said if part == "activations"]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1], len(shares) > 3) == (0.0, 1.0, True)
