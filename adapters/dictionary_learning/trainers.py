"""What dictionary_learning's trainers are mixed with, so that they read pairs and match the layer's Jacobian."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.adapters.dictionary_learning.regions import (
    BatchRegion,
    JumpReluRegion,
    encoded_topk,
    jump_relu,
    weights_of,
)
from faithfulness_plugin.adapters.matching import CHECKED_ROWS, agree
from faithfulness_plugin.adapters.needs import needs
from faithfulness_plugin.jacobian.active import ActiveFeatures
from faithfulness_plugin.jacobian.linear_region import DenseRegion, LinearRegion
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.jacobian.sparse_region import SparseRegion
from faithfulness_plugin.layers.derivatives import Layer, layer_output

with needs("dictionary_learning>=0.1,<0.2", install="--no-deps 'dictionary_learning>=0.1,<0.2' nnsight"):
    from dictionary_learning.trainers.jumprelu import StepFunction
    from dictionary_learning.trainers.top_k import geometric_median


class LossLog(NamedTuple):
    """The fields that the library's trainers return for logs."""

    x: Tensor
    x_hat: Tensor
    f: Tensor
    losses: dict[str, float]


class MatchedTrainer:
    """Mixed into a trainer of any kind: it reads pairs instead of rows, and adds the term."""

    _matched: tuple[Layer, float, JacobianMatchingConfig]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if getattr(self, "resample_steps", None) is not None:
            raise ValueError("resample_steps makes encoders of what is reconstructed, not of inputs: leave it out")
        self._matching = JacobianMatching(self._matched[2])
        self._inputs: Tensor | None = None
        self._checked = False

    def update(self, step: int, act: Float[Tensor, "batch 2 d"]) -> Any:
        """Take one step on pairs.

        Args:
            step: the number of steps before it.
            act: inputs and outputs of the layer.

        Returns:
            What the trainer returns.
        """
        self._inputs, y = _pairs(act.to(self.device))
        try:
            if step == 0:
                self._centre(self._inputs, y)
            return super().update(step, y)
        finally:
            self._inputs = None

    def loss(self, act: Tensor, step: Any = None, logging: bool = False, **more: Any) -> Any:
        """Compute the loss of pairs, or within `update` of their second half, with y in the place of the trainer's x.

        Args:
            act: pairs [batch, 2, d]; within `update`, y [batch, d].
            step: as the trainer takes it.
            logging: return a `LossLog` in place of the loss.
            more: further arguments of the trainer's own loss.

        Returns:
            The loss, or the fields to log.

        Raises:
            ValueError: pairs that are none, or not of this layer; a loss that does not encode.
        """
        x, y = _pairs(act) if self._inputs is None else (self._inputs, act)
        with self._reading(x) as encoded:
            found = self.own_loss(x, y, step, logging, **more)
        layer, coefficient, config = self._matched
        if coefficient == 0:
            return found
        if not encoded:
            raise ValueError(f"the loss of {type(self).__name__} does not call ae.encode: there is nothing to match")
        if not self._checked:
            _require_pairs_of(layer, x, y)
            self._checked = True
        targets = self._matching.targets(layer, x, y=y).to(next(self.ae.parameters()).dtype)
        with torch.autocast(x.device.type, enabled=False):
            gate = self._region_of_pass(x, encoded[-1]) if config.jitter == 0 else self._region_at(targets.x)
            loss = self._matching.from_targets(self.ae, targets, gate=gate)
        if not logging:
            return found + coefficient * loss
        relative = self._matching.relative_error(loss, targets).item()
        term = {"loss": found.losses["loss"] + coefficient * loss.item(), "jacobian_relative_error": relative}
        return found._replace(losses={**found.losses, **term})

    def own_loss(self, x: Tensor, y: Tensor, step: Any, logging: bool, **more: Any) -> Any:
        """Compute the trainer's loss of y, while its dictionary encodes x.

        Args:
            x: the layer's inputs.
            y: the layer's outputs.
            step: as the trainer takes it.
            logging: return a `LossLog` in place of the loss.
            more: further arguments of the trainer's own loss.

        Returns:
            What the trainer returns.
        """
        return super().loss(y, step=step, logging=logging, **more)

    def _centre(self, x: Tensor, y: Tensor) -> None:
        """Prepare the encoder on the first batch; by default nothing is done."""

    def _region_of_pass(self, x: Tensor, encoded: Any) -> LinearRegion:
        """Find the region of what the loss has encoded at x, encoded again where autocast has rounded it."""
        dtype = next(self.ae.parameters()).dtype
        acts = encoded[0] if isinstance(encoded, tuple) else encoded
        return self._region(x, encoded) if acts.dtype == dtype else self._region_at(x.to(dtype))

    def _region(self, x: Tensor, encoded: Any) -> LinearRegion:
        """Find the region of what the dictionary has encoded at x."""
        return DenseRegion(x, weights_of(self.ae), encoded[0] if isinstance(encoded, tuple) else encoded)

    def _region_at(self, x: Tensor) -> LinearRegion:
        """Encode x as the loss does, and find the region there."""
        return self._region(x, self.ae.encode(x))

    @contextmanager
    def _reading(self, x: Tensor) -> Iterator[list[Any]]:
        """Make the dictionary encode x, whatever it is given; yield a list that collects what `encode` returns."""
        encode, kept = self.ae.encode, []

        def encode_inputs(_: Tensor, *args: Any, **kwargs: Any) -> Any:
            kept.append(encode(x, *args, **kwargs))
            return kept[-1]

        self.ae.encode = encode_inputs
        try:
            yield kept
        finally:
            del self.ae.encode

    @property
    def config(self) -> dict[str, Any]:
        """The trainer's settings, with what is matched."""
        _, coefficient, config = self._matched
        own = super().config
        return {**own, "jacobian": config.to_dict(), "jacobian_coefficient": coefficient}


class MatchedTopK(MatchedTrainer):
    """TopK and BatchTopK, which start at the median of y."""

    @override
    @torch.no_grad()
    def _centre(self, x: Tensor, y: Tensor) -> None:
        encoder = self.ae.encoder
        encoder.bias += (geometric_median(y) - geometric_median(x)).to(encoder.bias.dtype) @ encoder.weight.T

    @override
    def _region(self, x: Tensor, encoded: Any) -> LinearRegion:
        _, acts, indices, _ = encoded
        entries = ActiveFeatures.same_count(indices, self.ae.dict_size)
        return SparseRegion(x, weights_of(self.ae), acts.flatten(), entries)

    @override
    def _region_at(self, x: Tensor) -> LinearRegion:
        return encoded_topk(self.ae, x)


class MatchedBatchTopK(MatchedTopK):
    """BatchTopK: rows compete, so that their regions belong to the batch."""

    @override
    def _region(self, x: Tensor, encoded: Any) -> LinearRegion:
        acts = encoded[0].flatten()
        positions = acts.nonzero().squeeze(-1)
        entries = ActiveFeatures.of_flat(positions, len(x), self.ae.dict_size)
        return BatchRegion(x, weights_of(self.ae), acts[positions], entries)

    @override
    def _region_at(self, x: Tensor) -> LinearRegion:
        return self._region(x, self.ae.encode(x, return_active=True, use_threshold=False))


class MatchedJumpRelu(MatchedTrainer):
    """JumpReLU, whose trainer encodes by itself."""

    @override
    @contextmanager
    def _reading(self, x: Tensor) -> Iterator[list[Any]]:
        self._encoded: list[Any] = []
        yield self._encoded

    @override
    def own_loss(self, x: Tensor, y: Tensor, step: Any, logging: bool, **more: Any) -> Any:
        """Compute E||y - t(x)||^2 + lambda (L0 / target - 1)^2, as `JumpReluTrainer.loss` does for y = x."""
        x, y = x.to(self.ae.W_enc.dtype), y.to(self.ae.W_enc.dtype)
        f = jump_relu(self.ae, x, self.bandwidth)
        self._encoded.append(f)
        fired = f.sum(0) > 0
        self.num_tokens_since_fired += len(x)
        self.num_tokens_since_fired[fired] = 0
        self.dead_features = int((self.num_tokens_since_fired > self.dead_feature_threshold).sum())
        recon = self.ae.decode(f)
        l2 = (y - recon).pow(2).sum(dim=-1).mean()
        l0: Any = StepFunction.apply(f, self.ae.threshold, self.bandwidth)
        sparsity = self.sparsity_coefficient * ((l0.sum(dim=-1).mean() / self.target_l0) - 1).pow(2)
        loss = l2 + sparsity * self.sparsity_warmup_fn(step)
        return LossLog(y, recon, f, {"l2_loss": l2.item(), "loss": loss.item()}) if logging else loss

    @override
    def _region(self, x: Tensor, encoded: Any) -> LinearRegion:
        return JumpReluRegion(x, weights_of(self.ae), encoded, bandwidth=self.bandwidth)

    @override
    def _region_at(self, x: Tensor) -> LinearRegion:
        return self._region(x, jump_relu(self.ae, x, self.bandwidth))


def _pairs(act: Tensor) -> tuple[Tensor, Tensor]:
    if act.ndim != 3 or act.shape[1] != 2:
        raise ValueError(
            f"a batch has shape {list(act.shape)}: pass pairs of the layer's input and output, [batch, 2, d], as "
            'NNsightActivationBuffer(io="in_and_out") makes them'
        )
    x, y = act.unbind(1)
    return x, y


def _require_pairs_of(layer: Layer, x: Tensor, y: Tensor) -> None:
    x, y = x[:CHECKED_ROWS], y[:CHECKED_ROWS]
    if not agree(layer_output(layer, x), y):
        raise ValueError(
            "the second half of the pairs is not layer(the first): pass the layer that they were taken from, and leave "
            "normalize_activations of trainSAE off"
        )
