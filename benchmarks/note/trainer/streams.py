"""What an ensemble's members learn from at each step: rows, and the layer's values and derivatives there.

Nothing here depends on a weight, so members that agree in data and probes share one stream: it is drawn and asked of
the layer once. A stream draws what `AbsInputs` and `JacobianMatching.targets` draw, in their order, from generators of
its own: what a member sees depends on its own settings alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.jacobian.estimators.secant import layer_secant
from faithfulness_plugin.jacobian.exact import EXACT_PROBES
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.probes import ISOTROPIC, PROBES, difference, gaussian
from faithfulness_plugin.layers.derivatives import Layer, layer_jvp, layer_output, layer_vjp
from faithfulness_plugin.toy.inputs import AbsDraw, abs_rows


class Targets(NamedTuple):
    """The layer's side of the Jacobian term, of every member."""

    x: Float[Tensor, "n batch d_in"] | None
    """Where Jacobians are compared, if not at the rows themselves."""
    v: Float[Tensor, "n n_probes batch d_probe"]
    Jv: Float[Tensor, "n n_probes batch d_product"]
    step: Float[Tensor, " n"]
    """The secant's."""
    scale: Float[Tensor, " n"]
    """What makes the error's unit: see `JacobianMatchingConfig.normalize`."""


class Batch(NamedTuple):
    """One step's rows for n members."""

    x: Float[Tensor, "n batch d_in"]
    y: Float[Tensor, "n batch d_out"]
    targets: Targets | None
    augmented: Float[Tensor, "n batch d_in"] | None
    y_augmented: Float[Tensor, "n batch d_out"] | None


class Streams:
    """Endless batches for members of one program (see `objective.Program`) and one layer."""

    def __init__(self, members: Sequence[ToyMember], layer: Layer, device: torch.device, dtype: torch.dtype) -> None:
        self.layer, self.device, self.dtype = layer, device, dtype
        first = members[0]
        self.config = first.matching if first.matched else None
        self.augmentation = first.augmentation
        self._rows = (_Rows if first.rows is None else _OwnRows)(members, device, dtype)
        targets_of, target_of = _shared([(_data_key(m), m.matching, m.augmentation) for m in members])
        self._row_of_target = self._rows.index[self._index(targets_of)]
        self._generators = [JacobianMatching(members[i].matching).generator(device) for i in targets_of]
        self._jitter = self._numbers([members[i].matching.jitter for i in targets_of])
        self._radius = self._numbers([members[i].matching.radius for i in targets_of])
        scales = [m.augmentation.scale if m.augmentation else 0.0 for m in members]
        self._augmentation_scale = self._numbers([scales[i] for i in targets_of])
        self._target_index = self._index(target_of)

    @torch.no_grad()
    def __next__(self) -> Batch:
        rows = next(self._rows)
        y = self._of_layer(rows)
        targets = augmented = y_augmented = None
        if self.config or self.augmentation:
            x, y_here = _each(rows, self._row_of_target), _each(y, self._row_of_target)
            rms = x.square().mean((1, 2)).sqrt()
            rms = torch.where(rms > 0, rms, torch.ones_like(rms))
            if self.config:
                targets = self._expanded(self._targets(x, y_here, rms))
            if self.augmentation:
                moved = self._augmented(x, rms)
                augmented = _each(moved, self._target_index)
                y_augmented = _each(self._of_layer(moved), self._target_index)
        return Batch(_each(rows, self._rows.index), _each(y, self._rows.index), targets, augmented, y_augmented)

    def _targets(self, x: Tensor, y: Tensor, rms: Tensor) -> Targets:
        """As `JacobianMatching.targets`, of each stream."""
        config = self.config
        assert config is not None
        moved = x
        if config.jitter > 0:
            moved = x + (self._jitter * rms)[:, None, None] * self._draw(gaussian, x)[0]
        step = self._radius * (rms if config.probe in ISOTROPIC else torch.ones_like(rms))
        v, Jv = self._products(moved, y, step)
        scale = torch.ones_like(rms)
        if config.normalize:
            variance = (y - y.mean(1, keepdim=True)).square().sum(-1).mean(1)
            energy = Jv.square().sum(-1).mean((0, 2))
            if config.estimator == "exact":
                energy = energy * len(Jv)
            scale = torch.where(energy > 0, variance / energy, torch.zeros_like(energy))
        return Targets(moved if config.jitter > 0 else None, v.transpose(0, 1), Jv.transpose(0, 1), step, scale)

    def _products(self, x: Tensor, y: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """(probes, the layer's products along them), [n_probes, streams, batch, ...]."""
        config = self.config
        assert config is not None
        flat = x.flatten(0, 1)
        if config.estimator == "vjp":
            u = self._draw(PROBES[config.probe], y, config.n_probes)
            return u, layer_vjp(self.layer, flat, u.flatten(1, 2))[1].view(len(u), *x.shape)
        if config.estimator == "exact":
            v = torch.stack([EXACT_PROBES[config.probe](rows) for rows in x], dim=1)
        else:
            v = self._draw(PROBES[config.probe], x, config.n_probes)
        if config.estimator == "secant":
            each = step.repeat_interleave(x.shape[1])[:, None]  # one step a row
            Jv = layer_secant(self.layer, flat, v.flatten(1, 2), each, central=config.central)[1]
        else:
            Jv = layer_jvp(self.layer, flat, v.flatten(1, 2))[1]
        return v, Jv.view(len(v), *x.shape[:2], -1)

    def _augmented(self, x: Tensor, rms: Tensor) -> Tensor:
        assert self.augmentation is not None
        if self.augmentation.kind == "noise":
            return x + (self._augmentation_scale * rms)[:, None, None] * self._draw(gaussian, x)[0]
        return x + self._augmentation_scale[:, None, None] * self._draw(difference, x)[0]

    def _draw(self, probe: Any, like: Tensor, n_probes: int = 1) -> Tensor:
        """[n_probes, streams, batch, ...], each stream from its own generator."""
        drawn = [probe(rows, n_probes, generator) for rows, generator in zip(like, self._generators, strict=True)]
        return torch.stack(drawn, dim=1)

    def _of_layer(self, x: Tensor) -> Tensor:
        """f, row by row, on [streams, batch, d_in]."""
        return layer_output(self.layer, x.flatten(0, 1)).view(*x.shape[:2], -1)

    def _expanded(self, targets: Targets) -> Targets:
        """From streams to members."""
        x, *others = targets
        return Targets(
            None if x is None else _each(x, self._target_index), *(_each(t, self._target_index) for t in others)
        )

    def _numbers(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self.device, dtype=self.dtype)

    def _index(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """Where all streams stand."""
        return {
            "inputs": self._rows.state_dict(),
            "generators": [generator.get_state() for generator in self._generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rows.load_state_dict(state["inputs"])
        for generator, there in zip(self._generators, state["generators"], strict=True):
            generator.set_state(there.cpu())


class _Rows:
    """The distinct batches of rows among the members, [streams, batch, d_in]; `index` gives each member's. Members of
    the same seed have the same draws, from which their rows differ by density, repeat fraction and point."""

    def __init__(self, members: Sequence[ToyMember], device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        firsts, index = _shared([_data_key(m) for m in members])
        distinct = [members[i] for i in firsts]
        seeds, draw_of = _shared([m.seed for m in distinct])
        self._inputs = [distinct[i].abs_inputs(device) for i in seeds]

        def each(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device)[:, None, None]

        self._density, self._repeat_frac = each([m.density for m in distinct]), each([m.repeat_frac for m in distinct])
        self._points = torch.stack([m.abs_inputs(device).point for m in distinct])[:, None]
        self._draw_of, self.index = torch.tensor(draw_of, device=device), torch.tensor(index, device=device)

    def __next__(self) -> Tensor:
        draws = [inputs.draw() for inputs in self._inputs]
        stacked = AbsDraw(*(_each(torch.stack(each), self._draw_of) for each in zip(*draws, strict=True)))
        return abs_rows(stacked, self._density, self._repeat_frac, self._points).to(self.dtype)

    def state_dict(self) -> list[dict[str, Any]]:
        return [inputs.state_dict() for inputs in self._inputs]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        for inputs, state in zip(self._inputs, states, strict=True):
            inputs.load_state_dict(state)


class _OwnRows:
    """The same of members with rows of their own, which share no draws but those of the same source and seed."""

    def __init__(self, members: Sequence[ToyMember], device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        firsts, index = _shared([_data_key(m) for m in members])
        self._inputs = [members[i].inputs(device) for i in firsts]
        self.index = torch.tensor(index, device=device)

    def __next__(self) -> Tensor:
        return torch.stack([next(inputs) for inputs in self._inputs]).to(self.dtype)

    def state_dict(self) -> list[dict[str, Any]]:
        return [inputs.state_dict() for inputs in self._inputs]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        for inputs, state in zip(self._inputs, states, strict=True):
            inputs.load_state_dict(state)


def _each(values: Tensor, index: Tensor) -> Tensor:
    """values[index], at no cost where each has its own."""
    if len(values) == len(index):  # indices number their like in order, so that this is the identity
        return values
    return values.index_select(0, index)


def _data_key(member: ToyMember) -> tuple[Any, ...]:
    if member.rows is not None:
        return (member.seed, member.rows)
    return (member.seed, member.density, member.repeat_frac, member.n_ones)


def _shared(keys: Sequence[Any]) -> tuple[list[int], list[int]]:
    """(for each distinct key the first that has it, for each key the number of its like)."""
    numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    firsts = [keys.index(key) for key in numbers]
    return firsts, [numbers[key] for key in keys]
