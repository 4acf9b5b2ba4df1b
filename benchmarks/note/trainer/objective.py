"""The objective of this package's transcoders and its gradient, for n of them in one batched computation.

Per member, as its `training_forward_pass`:

    mean_rows ||t(x) - f(x)||^2 + what the architecture asks for its features + jacobian * the Jacobian term
    + masking * mean_rows sum_i 1[a_i > 0] ||W_enc^i|| ||W_dec^i|| + augmentation * mean_rows ||t(x') - f(x')||^2

The gradient is written out, because at this size autograd's bookkeeping and its fresh buffers cost more than the
arithmetic. All rows at which a member is evaluated (data, the ends of secants, augmented rows, rows whose gates alone
count) stand in one matrix, for one encoder and one decoder product a step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness_plugin.benchmarks.note.trainer.dead_features import DeadFeatures
from faithfulness_plugin.benchmarks.note.trainer.gates import GATES, JumpReLUGate
from faithfulness_plugin.benchmarks.note.trainer.member import ToyMember
from faithfulness_plugin.benchmarks.note.trainer.penalties import Activity, penalty_of
from faithfulness_plugin.benchmarks.note.trainer.program import Coefficients, Program
from faithfulness_plugin.benchmarks.note.trainer.streams import Batch
from faithfulness_plugin.benchmarks.note.trainer.weights import StackedWeights
from faithfulness_plugin.jacobian.estimators.base import Estimator
from faithfulness_plugin.jacobian.estimators.secant import Secant
from faithfulness_plugin.jacobian.layer_response import LayerResponse


class Objective:
    """Losses and their gradients, which a call with weights, coefficients and a batch overwrites.

    Buffers are made once and used at every step: n * (rows a step) * d_sae numbers, three times, are all the memory
    that it needs beside the weights.
    """

    def __init__(
        self, members: Sequence[ToyMember], dead_feature_window: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.program = program = Program.of(members[0])
        n = len(members)
        d_in, d_sae, d_out, self._batch = program.shape
        blocks = {"x": 1}  # in batches of rows; those that are decoded come first
        if secant := program.secant:
            blocks |= {"base": 1} if program.jittered else {}
            blocks |= {"plus": secant.n_probes} | ({"minus": secant.n_probes} if secant.central else {})
        if program.augmentation:
            blocks["augmented"] = 1
        n_decoded = program.n_decoded * self._batch
        if program.tangent and program.jittered:
            blocks["gate"] = 1
        self._rows: dict[str, slice] = {}
        for name, count in blocks.items():
            start = max((rows.stop for rows in self._rows.values()), default=0)
            self._rows[name] = slice(start, start + count * self._batch)
        self._decoded = slice(0, n_decoded)

        def buffer(*shape: int) -> Tensor:
            return torch.zeros(n, *shape, device=device, dtype=dtype)

        n_rows = sum(blocks.values()) * self._batch
        self._x, self._acts = buffer(n_rows, d_in), buffer(n_rows, d_sae)
        self._out, self._g_out, self._g_acts = (
            buffer(n_decoded, d_out),
            buffer(n_decoded, d_out),
            buffer(n_decoded, d_sae),
        )
        self.gate = GATES[program.architecture](members, self._rows)
        self._penalty = penalty_of(program)
        self._dead = DeadFeatures(members, dead_feature_window) if program.revives else None
        n_probed = program.n_products * self._batch
        self._through, self._g_through = buffer(n_probed, d_sae), buffer(n_probed, d_sae)

    @torch.no_grad()
    def __call__(
        self, weights: StackedWeights, coefficients: Coefficients, batch: Batch, gradients: StackedWeights, log: bool
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return the losses by name and the L0 of each member, where they are to be logged; else nothing."""
        if gradients.threshold is not None:
            gradients.threshold.zero_()
        near = self._forward(weights, batch)
        losses = self._values(coefficients, batch, log)
        torch.bmm(self._g_out, weights.W_dec.mT, out=self._g_acts)
        torch.bmm(self._acts[:, self._decoded].mT, self._g_out, out=gradients.W_dec)
        if self._penalty is not None:
            losses |= self._penalty(self._activity, weights, coefficients, gradients, log)
        self.gate.back(self._g_acts, self._acts[:, self._decoded], weights, gradients)
        torch.bmm(self._x[:, self._decoded].mT, self._g_acts, out=gradients.W_enc)
        if gradients.W_skip is not None:
            torch.bmm(self._g_out.mT, self._x[:, self._decoded], out=gradients.W_skip)
        torch.sum(self._g_acts, 1, out=gradients.b_enc)
        torch.sum(self._g_out, 1, out=gradients.b_dec)
        if self.program.tangent and batch.response is not None:
            losses |= self._products(self.program.tangent, weights, coefficients, batch.response, gradients, near, log)
        if self.program.masking:
            losses |= self._masking(weights, coefficients, gradients, log)
        if self._dead is not None:
            data = self._rows["x"]
            residual = batch.y - self._out[:, data]
            losses |= self._dead(batch.x, self._acts[:, data], residual, weights, gradients, log)
        if log:
            losses["loss"] = torch.stack(list(losses.values())).sum(0)
            losses["l0"] = (self._acts[:, self._rows["x"]] > 0).sum((1, 2)) / self._batch
        return losses

    def _forward(self, weights: StackedWeights, batch: Batch) -> Tensor | None:
        """Fill x, acts and out; return the slopes of straight-through gates, if there are any."""
        self._x[:, self._rows["x"]] = batch.x
        if response := batch.response:
            assert response.v is not None
            assert isinstance(response.step, Tensor)
            for name, sign in (("plus", 1), ("minus", -1)):
                if name in self._rows:
                    moved = response.x[:, None] + sign * response.step[:, None, None, None] * response.v
                    self._x[:, self._rows[name]] = moved.flatten(1, 2)
            for name in {"base", "gate"} & set(self._rows):
                self._x[:, self._rows[name]] = response.x
        if batch.augmented is not None:
            self._x[:, self._rows["augmented"]] = batch.augmented
        torch.baddbmm(weights.b_enc[:, None], self._x, weights.W_enc, out=self._acts)
        near = None
        if self.program.tangent and self.program.tangent.gate_bandwidth is not None:
            z, width = self._acts[:, self._gate_rows], self.program.tangent.gate_bandwidth
            near = (z.abs() < width / 2).to(z.dtype) / width
        self.gate.close(self._acts, weights)
        torch.baddbmm(weights.b_dec[:, None], self._acts[:, self._decoded], weights.W_dec, out=self._out)
        if weights.W_skip is not None:
            self._out.baddbmm_(self._x[:, self._decoded], weights.W_skip.mT)
        return near

    @property
    def _activity(self) -> Activity:
        data = self._rows["x"]
        near = self.gate.near if isinstance(self.gate, JumpReLUGate) else None
        return Activity(self._acts[:, data], self._g_acts[:, data], None if near is None else near[:, data])

    @property
    def _gate_rows(self) -> slice:
        return self._rows.get("gate", self._rows["x"])

    def _values(self, coefficients: Coefficients, batch: Batch, log: bool) -> dict[str, Tensor]:
        """Return the terms that depend on outputs alone; fill their gradient to the outputs."""
        losses = {}
        error = self._out[:, self._rows["x"]] - batch.y
        torch.mul(error, 2 / self._batch, out=self._g_out[:, self._rows["x"]])
        if log:
            losses["mse_loss"] = error.square().sum((1, 2)) / self._batch
        if batch.augmented is not None and batch.y_augmented is not None:
            error = self._out[:, self._rows["augmented"]] - batch.y_augmented
            weight = coefficients.augmentation[:, None, None] / self._batch
            self._g_out[:, self._rows["augmented"]] = 2 * weight * error
            if log:
                losses["augmentation_loss"] = (weight * error.square()).sum((1, 2))
        if self.program.secant and batch.response is not None:
            losses |= self._quotients(self.program.secant, coefficients, batch.response, log)
        return losses

    def _quotients(
        self, secant: Secant, coefficients: Coefficients, response: LayerResponse, log: bool
    ) -> dict[str, Tensor]:
        """Return the Jacobian term by quotients (t(x + step v) - t(x)) / step, or central ones."""
        assert response.Jv is not None
        assert response.scale is not None
        assert isinstance(response.step, Tensor)
        n, n_probes, batch, d_out = response.Jv.shape

        def out(name: str) -> Tensor:
            return self._out[:, self._rows[name]].view(n, -1, batch, d_out)

        base = "base" if "base" in self._rows else "x"
        run = response.step[:, None, None, None] * (2 if secant.central else 1)
        error = (out("plus") - out("minus" if secant.central else base)) / run - response.Jv
        weight = (coefficients.jacobian * response.scale / (n_probes * batch))[:, None, None, None]
        gradient = 2 * weight / run * error
        self._g_out[:, self._rows["plus"]] = gradient.flatten(1, 2)
        if secant.central:
            self._g_out[:, self._rows["minus"]] = -gradient.flatten(1, 2)
        elif base == "base":
            self._g_out[:, self._rows["base"]] = -gradient.sum(1)
        else:
            self._g_out[:, self._rows["x"]] -= gradient.sum(1)
        return {"jacobian_loss": (weight * error.square()).sum((1, 2, 3))} if log else {}

    def _products(
        self,
        estimator: Estimator,
        weights: StackedWeights,
        coefficients: Coefficients,
        response: LayerResponse,
        gradients: StackedWeights,
        near: Tensor | None,
        log: bool,
    ) -> dict[str, Tensor]:
        """Return the Jacobian term by products J v = W_dec (gate * (W_enc v)), or J^T u with the matrices exchanged."""
        assert response.v is not None
        assert response.Jv is not None
        assert response.scale is not None
        pulled = estimator.pulls_back
        reads, writes = (weights.W_dec.mT, weights.W_enc.mT) if pulled else (weights.W_enc, weights.W_dec)
        v, Jv = response.v.flatten(1, 2), response.Jv.flatten(1, 2)
        read = torch.bmm(v, reads, out=self._through)
        kept = None if near is None else read.clone()
        through = self._gated(read)
        error = torch.bmm(through, writes).sub_(Jv)
        if weights.W_skip is not None:
            error.baddbmm_(v, weights.W_skip if pulled else weights.W_skip.mT)
        n_averaged = self._batch * (1 if estimator.fixed_probes else self.program.n_products)
        weight = (coefficients.jacobian * response.scale / n_averaged)[:, None, None]
        losses = {"jacobian_loss": (weight * error.square()).sum((1, 2))} if log else {}
        g_product = error.mul_(2 * weight)
        g_read = torch.bmm(g_product, writes.mT, out=self._g_through)
        if near is not None and kept is not None:
            g_pre = (g_read * kept).view(len(v), -1, *near.shape[1:]).sum(1) * near
            gradients.W_enc.baddbmm_(self._x[:, self._gate_rows].mT, g_pre)
            gradients.b_enc.add_(g_pre.sum(1))
        g_read = self._gated(g_read)
        if gradients.W_skip is not None:
            gradients.W_skip.baddbmm_(*((v.mT, g_product) if pulled else (g_product.mT, v)))
        if pulled:
            gradients.W_enc.baddbmm_(g_product.mT, through)
            gradients.W_dec.baddbmm_(g_read.mT, v)
        else:
            gradients.W_dec.baddbmm_(through.mT, g_product)
            gradients.W_enc.baddbmm_(v.mT, g_read)
        return losses

    def _gated(self, values: Tensor) -> Tensor:
        """Set to 0, in place, where a row's feature is not active, for each probe."""
        acts = self._acts[:, self._gate_rows]
        for each in values.view(len(values), -1, *acts.shape[1:]).unbind(1):
            torch.ops.aten.threshold_backward.grad_input(each, acts, 0, grad_input=each)
        return values

    def _masking(
        self, weights: StackedWeights, coefficients: Coefficients, gradients: StackedWeights, log: bool
    ) -> dict[str, Tensor]:
        """Return the slopes of active features: sum_i share_i ||W_enc^i|| ||W_dec^i||."""
        share = (self._acts[:, self._rows["x"]] > 0).sum(1) * (coefficients.masking[:, None] / self._batch)
        of_enc, of_dec = weights.W_enc.norm(dim=1), weights.W_dec.norm(dim=2)
        for gradient, weight, factor in (
            (gradients.W_enc, weights.W_enc, (share * of_dec / of_enc)[:, None]),
            (gradients.W_dec, weights.W_dec, (share * of_enc / of_dec)[..., None]),
        ):
            gradient.addcmul_(factor.nan_to_num_(0.0, 0.0, 0.0), weight)
        return {"gradient_masking_loss": (share * of_enc * of_dec).sum(1)} if log else {}

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned beside the weights."""
        return {
            "learned": self.gate.learned(),
            "since_fired": None if self._dead is None else self._dead.since_fired,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in self.gate.learned().items():
            value.copy_(state["learned"][name])
        if self._dead is not None:
            self._dead.since_fired.copy_(state["since_fired"])
