"""The BatchTopK transcoder: the k n largest features of a batch of n rows, however they fall on its rows."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from sae_lens.saes.batchtopk_sae import BatchTopK
from sae_lens.saes.sae import SAEConfig
from torch import Tensor
from typing_extensions import override

from faithfulness_plugin.jacobian.active import ActiveFeatures
from faithfulness_plugin.jacobian.estimators.secant import RowFunction, row_function
from faithfulness_plugin.jacobian.linear_region import LinearRegion
from faithfulness_plugin.layers.row_differences import MovedRows
from faithfulness_plugin.transcoders.topk import TopKTrainingTranscoder, TopKTrainingTranscoderConfig

SAMPLE = 64  # one in this many scores is looked at to guess the threshold


@dataclass(kw_only=True)
class BatchTopKTrainingTranscoderConfig(TopKTrainingTranscoderConfig):
    """Config of `BatchTopKTrainingTranscoder`."""

    whole_k: ClassVar[bool] = False

    k: float = 32  # pyright: ignore[reportIncompatibleVariableOverride]
    """Features active per row, on average over a batch; need not be whole."""
    topk_threshold_lr: float = 0.01
    """Rate of the moving average that the threshold for single rows is."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_batch_topk_transcoder"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.topk_threshold_lr <= 1:
            raise ValueError(f"topk_threshold_lr={self.topk_threshold_lr}: choose a rate above 0, and at most 1")

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return self.jumprelu_config_class()


class BatchTopKTrainingTranscoder(TopKTrainingTranscoder):
    """t(x) = W_dec BatchTopK(W_enc x + b_enc) + b_dec (+ W_skip x): a batch of n rows keeps its k n largest features.

    In training mode rows compete within the batch, and a threshold is learned, the moving average of the least score
    that stays. In `eval` mode each row stands alone, under that threshold: this is the function that
    `save_inference_model` exports, as SAELens's stock "jumprelu_transcoder" or "jumprelu_skip_transcoder", and the one
    to measure. A Jacobian in training mode is that of the whole batch with its gates held fixed: differentiating row
    by row (`vmap(jacrev)`) would let each row keep its own k instead.

    Source: B. Bussmann et al., "BatchTopK Sparse Autoencoders", 2024.
    """

    cfg: BatchTopKTrainingTranscoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    topk_threshold: Tensor

    def __init__(self, cfg: BatchTopKTrainingTranscoderConfig) -> None:
        super().__init__(cfg)
        # in double precision, as in SAELens: small steps of the average would be rounded away
        self.register_buffer("topk_threshold", torch.zeros((), dtype=torch.float64, device=self.W_dec.device))

    @override
    def _apply(self, *args: Any, **kwargs: Any) -> "BatchTopKTrainingTranscoder":
        before = self.topk_threshold
        super()._apply(*args, **kwargs)
        # `.to(dtype)` casts buffers as well; what was made on the meta device has no value yet
        source = self.topk_threshold if before.is_meta else before
        self.topk_threshold = source.to(self.topk_threshold.device, torch.float64)
        return self

    @override
    def get_activation_fn(self) -> Any:
        return self._keep

    def _keep(self, score: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        if self.training:
            return BatchTopK(self.cfg.k)(score)
        return score * (score > self.topk_threshold)

    @override
    def select(self, hidden_pre: Float[Tensor, "rows d_sae"] | MovedRows) -> ActiveFeatures:
        if not self.training:
            return self.above(hidden_pre, self.topk_threshold)
        assert isinstance(hidden_pre, Tensor)  # rows that moved do not compete: see `_row_function_of_batch`
        score = self.score(hidden_pre)
        positions = largest(score.flatten(), int(self.cfg.k * len(score))).sort().values  # k n of [n d_sae]
        return ActiveFeatures.of_flat(positions, *score.shape)

    def above(
        self, hidden_pre: Float[Tensor, "rows d_sae"] | MovedRows, threshold: Float[Tensor, ""]
    ) -> ActiveFeatures:
        """Select the features whose scores are above a threshold.

        Args:
            hidden_pre: the pre-activations.
            threshold: in units of the score.

        Returns:
            The features.
        """
        found, n_rows = [threshold.new_empty(0, dtype=torch.long)], 0
        for score in self.scores(hidden_pre):
            found.append((score.flatten() > threshold).nonzero().squeeze(-1) + n_rows * self.cfg.d_sae)
            n_rows += len(score)
        return ActiveFeatures.of_flat(torch.cat(found), n_rows, self.cfg.d_sae)

    @override
    def gate_threshold(self, score: Float[Tensor, "rows d_sae"]) -> Float[Tensor, ""]:
        """Compute one threshold for the batch: half-way between the last feature that stays and the first that does
        not, at least 0."""
        if not self.training:
            return self.topk_threshold.to(score.dtype)
        flat, count = score.flatten(), int(self.cfg.k * len(score))
        if not 0 < count < len(flat):
            return flat.new_tensor(0.0 if count else torch.inf)
        # the last that stays and the first that does not are the least two of the count + 1 largest
        return flat[largest(flat, count + 1)].topk(2, largest=False).values.mean().clamp_min(0)

    @override
    def finish_step(self, feature_acts: Tensor) -> dict[str, Any]:
        if self.training:
            self._learn_threshold(feature_acts)
        return {"topk_threshold": self.topk_threshold}

    @torch.no_grad()
    def _learn_threshold(self, feature_acts: Tensor) -> None:
        if feature_acts.is_sparse:
            acts = feature_acts.coalesce()  # values [entries], indices [row, feature]
            scores = acts.values() * self.score(torch.ones_like(self.b_enc))[acts.indices()[-1]]
        else:
            scores = self.score(feature_acts)
        scores = scores[scores > 0]
        if len(scores):
            rate = self.cfg.topk_threshold_lr
            self.topk_threshold = (1 - rate) * self.topk_threshold + rate * scores.min().double()

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        threshold = state_dict.pop("topk_threshold").to(self.dtype)
        state_dict["threshold"] = threshold / self.score(torch.ones_like(self.b_enc))  # [d_sae], in units of z


@row_function.register
def _row_function_of_batch(transcoder: BatchTopKTrainingTranscoder, x: Tensor, region: LinearRegion) -> RowFunction:
    if not transcoder.training:
        return row_function.dispatch(object)(transcoder, x, region)
    with torch.no_grad():
        hidden_pre = getattr(region, "hidden_pre", None)
        if hidden_pre is None:
            hidden_pre = transcoder.process_sae_in(x) @ transcoder.W_enc + transcoder.b_enc
        threshold = transcoder.gate_threshold(transcoder.score(hidden_pre).reshape(-1, transcoder.cfg.d_sae))
        kept = region.active()
        rounding = 16 * torch.finfo(threshold.dtype).eps * threshold.abs()

    def stay(hidden_pre: Tensor | MovedRows) -> ActiveFeatures:
        above = transcoder.above(hidden_pre, threshold + rounding)
        # where others tied with the last that stayed (up to rounding: this is another product), those that did stay do
        score = (
            hidden_pre[kept.rows, kept.features] * transcoder.score(torch.ones_like(transcoder.b_enc))[kept.features]
        )
        tied = kept.positions[(score - threshold).abs() <= rounding]
        positions = torch.cat([above.positions, tied]).sort().values
        return ActiveFeatures.of_flat(positions, kept.n_rows, kept.d_sae)

    return lambda moved, hidden_pre: transcoder.selected_region(moved, stay, hidden_pre, region).output()


def largest(values: Float[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Find the positions of the largest values, in no order.

    `topk` over a large batch is slow on a CPU: it runs over the values above a bound guessed from a sample, and over
    all of them where the guess was too high.

    Args:
        values: the values.
        count: how many are found.

    Returns:
        Their positions.
    """
    sample = values[:: SAMPLE + 1]  # not in step with d_sae
    rank = int(1.3 * count * len(sample) / max(1, len(values))) + 16
    if rank < len(sample):
        candidates = (values >= sample.topk(rank, sorted=False).values.min()).nonzero().squeeze(-1)
        if len(candidates) >= count:
            return candidates[values[candidates].topk(count, sorted=False).indices]
    return values.topk(count, sorted=False).indices
