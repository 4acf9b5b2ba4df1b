"""What an ensemble's members learn from at each step: rows, and the layer's values and derivatives there.

Nothing here depends on a weight, so members that agree in data and probes share one stream, which is drawn and asked of
the layer once. A stream draws what `AbsInputs` and `JacobianMatching.targets` draw, in their order, from generators of
its own: what a member sees depends on its own settings alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.probes import difference, gaussian
from faithfulness_plugin.layers.derivatives import Layer, layer_output
from faithfulness_plugin.toy.inputs import AbsDraw, abs_rows


class Batch(NamedTuple):
    """One step's rows for n members."""

    x: Float[Tensor, "n batch d_in"]
    y: Float[Tensor, "n batch d_out"]
    response: LayerResponse | None
    """All members': x and y [n, batch, d], v and Jv [n_probes, n, batch, d], step [n, batch, 1], scale [n]."""
    augmented: Float[Tensor, "n batch d_in"] | None
    y_augmented: Float[Tensor, "n batch d_out"] | None


class Streams:
    """Endless batches for members of one `Program` and one layer.

    Args:
        members: of one program.
        layer: what they learn to replace.
        device: where the layer and the members are.
        dtype: the members'.
    """

    def __init__(self, members: Sequence[ToyMember], layer: Layer, device: torch.device, dtype: torch.dtype) -> None:
        first = members[0]
        self.layer, self.augmentation, self.matched = layer, first.augmentation, first.matched
        self.normalize, self.jittered = first.matching.normalize, first.matching.jitter > 0
        self.estimator = first.matching.build_estimator()
        self._rows = (_Rows if first.rows is None else _OwnRows)(members, device, dtype)
        firsts, numbers = _shared([(_data_key(m), m.matching, m.augmentation) for m in members])
        streams = [members[i] for i in firsts]
        self._generators = [JacobianMatching(m.matching).generator(device) for m in streams]

        def each(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=device, dtype=dtype)

        self._jitter = each([m.matching.jitter for m in streams])
        self._radius = each([m.matching.radius for m in streams])
        self._augmentation_scale = each([m.augmentation.scale if m.augmentation else 0.0 for m in streams])
        self._stream_of = torch.tensor(numbers, device=device)
        self._rows_of = self._rows.index[torch.tensor(firsts, device=device)]

    @torch.no_grad()
    def __next__(self) -> Batch:
        rows = next(self._rows)  # [distinct, batch, d_in]: members share what they agree in
        y = self._of_layer(rows)
        response = augmented = y_augmented = None
        if self.matched or self.augmentation:
            x, y_here = _each(rows, self._rows_of), _each(y, self._rows_of)
            rms = x.square().mean((1, 2)).sqrt()  # [streams]
            rms = torch.where(rms > 0, rms, torch.ones_like(rms))
            if self.matched:
                x_there, y_there, v, Jv, step, scale = self._response(x, y_here, rms)
                x_there, y_there, step, scale = (
                    _each(part, self._stream_of) for part in (x_there, y_there, step, scale)
                )
                v, Jv = (_each(part, self._stream_of, dim=1) for part in (v, Jv))
                response = LayerResponse(x_there, y_there, v, Jv, step, scale)
            if self.augmentation:
                moved = self._augmented(x, rms)
                augmented = _each(moved, self._stream_of)
                y_augmented = _each(self._of_layer(moved), self._stream_of)
        return Batch(_each(rows, self._rows.index), _each(y, self._rows.index), response, augmented, y_augmented)

    def _response(self, x: Tensor, y: Tensor, rms: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of `LayerResponse` as `JacobianMatching.targets` makes them, for each stream.

        x [streams, batch, d_in], y [streams, batch, d_out] and rms [streams] are theirs at the data.
        """
        estimator, flat_shape = self.estimator, (-1, x.shape[-1])
        if self.jittered:
            x = x + (self._jitter * rms)[:, None, None] * self._draw(gaussian, x)[0]
        step = self._radius * (rms if estimator.isotropic else torch.ones_like(rms))
        of_rows = y if estimator.pulls_back else x  # where probes live: Jv along inputs, J^T v along outputs
        # v [n_probes, streams, batch, d]: each stream draws from its own generator
        v = torch.stack([estimator.draw(rows, g) for rows, g in zip(of_rows, self._generators, strict=True)], dim=1)
        # the layer is asked once about all streams' rows: x [streams * batch, d_in], a step [.., 1] for each
        each_row = step.repeat_interleave(x.shape[1])[:, None]  # [streams * batch, 1]
        y_there, Jv = estimator.layer_products(self.layer, x.reshape(flat_shape), v.flatten(1, 2), each_row)
        Jv = Jv.view(len(v), *x.shape[:2], -1)  # [n_probes, streams, batch, d]
        scale = torch.ones_like(rms)
        if self.normalize:
            variance = (y - y.mean(1, keepdim=True)).square().sum(-1).mean(1)  # [streams]
            energy = Jv.square().sum(-1).mean((0, 2))  # over probes and rows
            if estimator.fixed_probes:
                energy = energy * len(Jv)  # the probes together are one basis: their sum is ||J||^2, not their mean
            scale = torch.where(energy > 0, variance / energy, torch.zeros_like(energy))
        return x, y_there.view(*x.shape[:2], -1), v, Jv, each_row.view(*x.shape[:2], 1), scale

    def _augmented(self, x: Tensor, rms: Tensor) -> Tensor:
        assert self.augmentation is not None
        if self.augmentation.kind == "noise":
            return x + (self._augmentation_scale * rms)[:, None, None] * self._draw(gaussian, x)[0]
        return x + self._augmentation_scale[:, None, None] * self._draw(difference, x)[0]

    def _draw(self, probe: Any, like: Tensor) -> Tensor:
        """Draw one probe a row, [1, streams, batch, ...], each stream's from its own generator."""
        return torch.stack([probe(x, 1, g) for x, g in zip(like, self._generators, strict=True)], dim=1)

    def _of_layer(self, x: Tensor) -> Tensor:
        """Return f, row by row, on [streams, batch, d_in]."""
        return layer_output(self.layer, x.flatten(0, 1)).view(*x.shape[:2], -1)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of all streams.

        Returns:
            The states of the rows and of the generators that probes and noise come from.
        """
        return {
            "inputs": self._rows.state_dict(),
            "generators": [generator.get_state() for generator in self._generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume all streams.

        Args:
            state: what `state_dict` returned.
        """
        self._rows.load_state_dict(state["inputs"])
        for generator, there in zip(self._generators, state["generators"], strict=True):
            generator.set_state(there.cpu())


class _OwnRows:
    """The distinct batches of rows among the members, [streams, batch, d_in]; `index` gives each member's."""

    def __init__(self, members: Sequence[ToyMember], device: torch.device, dtype: torch.dtype) -> None:
        self.dtype = dtype
        firsts, index = _shared([_data_key(m) for m in members])
        self.index = torch.tensor(index, device=device)
        self._set_up([members[i] for i in firsts], device)

    def _set_up(self, distinct: Sequence[ToyMember], device: torch.device) -> None:
        self._inputs: list[Any] = [member.inputs(device) for member in distinct]

    def __next__(self) -> Tensor:
        return torch.stack([next(inputs) for inputs in self._inputs]).to(self.dtype)

    def state_dict(self) -> list[dict[str, Any]]:
        return [inputs.state_dict() for inputs in self._inputs]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        for inputs, state in zip(self._inputs, states, strict=True):
            inputs.load_state_dict(state)


class _Rows(_OwnRows):
    """Rows of `AbsInputs`. Members of the same seed share draws, and differ by density, repeat fraction and point."""

    def _set_up(self, distinct: Sequence[ToyMember], device: torch.device) -> None:
        seeds, draw_of = _shared([m.seed for m in distinct])
        self._inputs = [distinct[i].abs_inputs(device) for i in seeds]
        self._draw_of = torch.tensor(draw_of, device=device)
        self._density, self._repeat_frac = (
            torch.tensor([getattr(m, name) for m in distinct], device=device)[:, None, None]
            for name in ("density", "repeat_frac")
        )
        self._points = torch.stack([m.abs_inputs(device).point for m in distinct])[:, None]

    def __next__(self) -> Tensor:
        draws = [inputs.draw() for inputs in self._inputs]  # one for each seed
        stacked = AbsDraw(*(_each(torch.stack(each), self._draw_of) for each in zip(*draws, strict=True)))
        return abs_rows(stacked, self._density, self._repeat_frac, self._points).to(self.dtype)


def _each(values: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    """Return values[index] along a dimension, at no cost where each has its own."""
    if values.shape[dim] == len(index):  # indices number equal keys in order, so that this is the identity
        return values
    return values.index_select(dim, index)


def _data_key(member: ToyMember) -> tuple[Any, ...]:
    if member.rows is not None:
        return (member.seed, member.rows)
    return (member.seed, member.density, member.repeat_frac, member.n_ones)


def _shared(keys: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Return (for each distinct key the first that has it, for each key the number of its distinct one)."""
    numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return [keys.index(key) for key in numbers], [numbers[key] for key in keys]
