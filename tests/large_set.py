"""The inspections of a set of many layers and features, made up from one small one: numbers that no two features share,
examples all over a text of 20,000 tokens, tokens of a large vocabulary, sparse activations."""

from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import inspected
import numpy as np
import torch

from faithfulness_plugin.inspection.between.edges import FeatureEdges
from faithfulness_plugin.inspection.between.interference import Interference
from faithfulness_plugin.inspection.between.partners import MOST, Partners
from faithfulness_plugin.inspection.inspection import Inspection

VOCABULARY = 49_152
SMALL = 64
"""Features of the small one."""


def token_text(token: int) -> str:
    letters = np.random.default_rng(token).integers(0, 26, 1 + token % 9)
    return " " + "".join(chr(97 + letter) for letter in letters)


def large_set(n_layers: int = 30, d_sae: int = 2304) -> list[Inspection]:
    of, draw = inspected.text(SMALL, n_prompts=156, n_pos=128), np.random.default_rng(0)
    assert of.sample.origins is not None
    of.sample.origins.tokens.copy_(torch.from_numpy(draw.zipf(1.2, (156, 128)) % VOCABULARY))
    return [_layer(of, n, n_layers, d_sae, draw) for n in range(n_layers)]


def _layer(of: Inspection, n: int, n_layers: int, d_sae: int, draw: np.random.Generator) -> Inspection:
    names = ("records", "details", "tokens", "together")
    large = replace(of, **{name: _made_up(getattr(of, name), name, of, d_sae, draw) for name in names})
    scores = {name: draw.random(d_sae) for name in ("score", "concentration", "alone")}
    records = replace(large.records, datapoint=replace(large.records.datapoint, **scores))
    shape = {"W_enc": (80, d_sae), "W_dec": (d_sae, 80)}
    weights = {name: torch.randn(*size, generator=torch.Generator().manual_seed(n)) for name, size in shape.items()}
    sides = [_partners(range(n), d_sae, draw), _partners(range(n + 1, n_layers), d_sae, draw)]
    up_together, down_together = draw.random((2, d_sae, MOST))
    interference = Interference(*draw.random((3, d_sae)))
    edges = FeatureEdges(sides[0], sides[1], up_together, down_together, interference, 0.5, 1000)
    transcoder: Any = SimpleNamespace(**weights, cfg=of.transcoder.cfg)
    sample = of.sample.without_rows()
    return replace(large, name=f"block {n}", records=records, transcoder=transcoder, edges=edges, sample=sample)


def _partners(places: range, d_sae: int, draw: np.random.Generator) -> Partners:
    shape = (d_sae, MOST)
    if not places:
        return Partners(np.full(shape, -1), np.full(shape, -1), *np.zeros((3, *shape)))
    where = draw.integers(places.start, places.stop, shape)
    return Partners(where, draw.integers(0, d_sae, shape), *draw.standard_normal((3, *shape)))


def _made_up(value: Any, name: str, of: Inspection, d_sae: int, draw: np.random.Generator) -> Any:
    """Return a value with its features again and again, each with numbers of its own."""
    if is_dataclass(value) and not isinstance(value, type):
        each = {field.name: getattr(value, field.name) for field in fields(value)}
        return type(value)(**{name: _made_up(part, name, of, d_sae, draw) for name, part in each.items()})
    if not isinstance(value, np.ndarray) or value.shape[:1] != (SMALL,):
        return value
    shape = (d_sae, *value.shape[1:])
    many = np.concatenate([value] * (-(-d_sae // SMALL)))[:d_sae]
    if name == "tokens":
        return draw.integers(0, VOCABULARY, shape)
    if "rows" in name or name == "features":
        most = d_sae if name == "features" else of.records.n_rows
        return np.where(many >= 0, draw.integers(0, most, shape), -1)
    if name == "windows":  # of transcoders that are used, few activations are not 0
        return np.where(draw.random(shape) < 0.1, draw.integers(1, 256, shape), 0).astype(np.uint8)
    if value.dtype.kind == "f":
        return many * np.exp(0.3 * draw.standard_normal(shape))
    return draw.permutation(many.ravel()).reshape(shape)
