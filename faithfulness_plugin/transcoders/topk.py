"""The TopK transcoder: the k largest features of each row, trained without products over the others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from sae_lens.saes.sae import SAEConfig, TrainStepInput
from sae_lens.saes.topk_sae import TopK
from torch import Tensor, nn
from typing_extensions import override

from faithfulness_plugin.jacobian.active import ActiveFeatures, SharedMatrix, dot_active, sum_active
from faithfulness_plugin.jacobian.dense_region import DenseRegion
from faithfulness_plugin.jacobian.estimators.secant import PreActivations
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights
from faithfulness_plugin.jacobian.sparse_region import SharedWeights, SparseRegion
from faithfulness_plugin.layers.row_differences import MovedRows
from faithfulness_plugin.require import number
from faithfulness_plugin.transcoders.base import TrainingTranscoder, TranscoderStepInput
from faithfulness_plugin.transcoders.config import TrainingTranscoderConfig, require_non_negative
from faithfulness_plugin.transcoders.gates import straight_through
from faithfulness_plugin.transcoders.topk_inference import (
    TopKTranscoderConfig,
    ranking_norms,
    ranking_score,
    require_ranking_by_norm,
)

# from how many features on, and how many to each active one, leaving the others out pays
SPARSE_FROM, SPARSE_RATIO = 512, 32
PART = 2**21  # numbers that are scored at a time: fresh memory for the scores of a large batch costs as much as topk
REQUIRES = "faithfulness-plugin: install it, and import faithfulness_plugin before SAE.load_from_disk"


@dataclass(kw_only=True)
class TopKTrainingTranscoderConfig(TrainingTranscoderConfig):
    """Config of `TopKTrainingTranscoder`."""

    whole_k: ClassVar[bool] = True
    keep_negative: ClassVar[bool] = False
    shift: ClassVar[bool] = False
    """Negative features and shifts occur in other libraries' files only, so that no export has them."""

    k: int = 32
    """Features active on each row, at most (a feature is active only where it is positive)."""
    aux_loss_coefficient: float = 1.0
    """Weight of the dead-feature loss; 0 turns it off."""
    use_sparse_activations: bool | None = None
    """Multiply active features only in training; None: where that is faster, from 32 k and from 512 features
    on. The values are the same."""
    rescale_acts_by_decoder_norm: bool = True
    """Rank features by a_i ||W_dec^i|| rather than by a_i: by what they write. Activations themselves stay as they
    are, which computes what SAELens's option of this name computes."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_topk_transcoder"

    @override
    def __post_init__(self) -> None:
        if self.whole_k and number("k", self.k) % 1:
            raise ValueError(f"k={self.k}: TopK keeps a whole number of features in each row")
        super().__post_init__()
        if not 0 < self.k <= self.d_sae:
            raise ValueError(f"k={self.k}: choose more than 0 active features and at most d_sae={self.d_sae}")
        require_non_negative(self, "aux_loss_coefficient")

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return TopKTranscoderConfig

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        """Return SAELens's, with what to install: without this package SAELens's loader raises a bare KeyError."""
        exported = super().get_inference_sae_cfg_dict()
        return {**exported, "metadata": {**exported["metadata"], "requires": REQUIRES}}


class TopKTrainingTranscoder(TrainingTranscoder[TopKTrainingTranscoderConfig]):
    """t(x) = W_dec TopK(W_enc x + b_enc) + b_dec (+ W_skip x), TopK keeping the k largest of each row where positive.

    With many more features than k (`use_sparse_activations`) the training step multiplies active features only, forward
    and backward, beyond the one encoder product. Its activations are then in torch's sparse layout, as with SAELens's
    option of that name, and its pre-activations carry no graph. With hooks on `hook_sae_acts_pre` or
    `hook_sae_acts_post`, which may edit what they see, or with straight-through gates, it takes the dense path instead:
    the same values (of features that tie for the last place another may stay), at the cost of a dense transcoder.
    `encode` and `decode` are always dense.

    Dead features (SAELens's `dead_feature_window`) are asked to explain what the others leave: the d_out / 2 of them
    that are largest on each row, or all there are, regress on y - t(x). Source: L. Gao et al., "Scaling and evaluating
    sparse autoencoders", 2024, A.2.

    Exported (`save_inference_model`) as "faithful_topk_transcoder", which importing this package registers with
    SAELens; `topk_to_jumprelu` makes a stock transcoder of it.
    """

    cfg: TopKTrainingTranscoderConfig

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.W_enc = nn.Parameter(_feature_by_feature(self.W_enc.data))

    @override
    def get_activation_fn(self) -> Any:
        return TopK(self.cfg.k)

    @property
    def sparse(self) -> bool:
        """Whether the training step multiplies active features only."""
        wanted = self.cfg.use_sparse_activations
        pays = self.cfg.d_sae >= max(SPARSE_FROM, SPARSE_RATIO * self.cfg.k)
        return pays if wanted is None else wanted

    def score(self, hidden_pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Compute what features are ranked by.

        Args:
            hidden_pre: the pre-activations z.

        Returns:
            z_i ||W_dec^i||, or z_i without `rescale_acts_by_decoder_norm`.
        """
        return ranking_score(hidden_pre, self)

    def scores(self, hidden_pre: Float[Tensor, "rows d_sae"] | MovedRows) -> Iterator[Float[Tensor, "some_rows d_sae"]]:
        """Compute what features are ranked by, some rows at a time.

        Args:
            hidden_pre: the pre-activations.

        Yields:
            The scores, row after row.
        """
        norms = ranking_norms(self)
        for part in hidden_pre.split(max(1, PART // self.cfg.d_sae)):
            yield part if norms is None else part * norms

    def select(self, hidden_pre: Float[Tensor, "rows d_sae"] | MovedRows) -> ActiveFeatures:
        """Select the features that stay, by their scores.

        Args:
            hidden_pre: the pre-activations.

        Returns:
            The k largest of each row, positive or not.
        """
        scores = self.scores(hidden_pre)  # [some rows, d_sae] each
        chosen = [score.topk(self.cfg.k, sorted=False).indices for score in scores]
        return ActiveFeatures.same_count(torch.cat(chosen), self.cfg.d_sae)

    @override
    def activate(self, hidden_pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return hidden_pre.relu() * (self.activation_fn(self.score(hidden_pre)) > 0)

    @override
    def encode_to_region(
        self,
        x: Float[Tensor, "*batch d_in"],
        gate_bandwidth: float | None = None,
        linear: Float[Tensor, "*batch d_sae"] | MovedRows | None = None,
        start: LinearRegion | None = None,
    ) -> DenseRegion | SparseRegion:
        if not self._multiplies_active_only() or gate_bandwidth is not None:
            return super().encode_to_region(x, gate_bandwidth, linear)
        return self._sparse_region(x, self.select, linear, start)

    def selected_region(
        self,
        x: Float[Tensor, "*batch d_in"],
        select: Callable[[Tensor | MovedRows], ActiveFeatures],
        linear: Float[Tensor, "*batch d_sae"] | MovedRows | None = None,
        start: LinearRegion | None = None,
    ) -> DenseRegion | SparseRegion:
        """Build the region of the features that `select` picks, sparse or dense.

        Args:
            x: the rows.
            select: picks features by their pre-activations [rows, d_sae].
            linear: W_enc x + b_enc, where it is known.
            start: the region of this step from which x moved, whose products share their gradients with these.

        Returns:
            The region, with a graph.
        """
        if self._multiplies_active_only():
            return self._sparse_region(x, select, linear, start)

        def activate(hidden_pre: Tensor) -> Tensor:
            entries = select(hidden_pre.detach().reshape(-1, self.cfg.d_sae))
            return hidden_pre.relu() * entries.dense(hidden_pre.new_ones(len(entries.features))).view_as(hidden_pre)

        linear = self._whole(x, linear)
        return self._dense_region(x, linear, *self._activate(linear, activate))

    def _multiplies_active_only(self) -> bool:
        """Decide whether a step multiplies active features only: hooks on the activations may edit all of them."""
        return self.sparse and not (_hooked(self.hook_sae_acts_pre) or _hooked(self.hook_sae_acts_post))

    def _sparse_region(
        self,
        x: Tensor,
        select: Callable[[Tensor | MovedRows], ActiveFeatures],
        linear: PreActivations = None,
        start: LinearRegion | None = None,
    ) -> SparseRegion:
        sae_in, weights = self.process_sae_in(x), Weights.of(self)
        rows = sae_in.reshape(-1, sae_in.shape[-1])  # [rows, d_in]
        with torch.no_grad():
            if linear is None:
                linear = (rows @ self.W_enc).add_(self.b_enc)  # [rows, d_sae], the one dense product
            hidden_pre = linear.flatten(0, -2) if isinstance(linear, Tensor) else linear
            entries = select(hidden_pre)
        # rows that moved share the gradients' pass with those that they moved from
        shared = start.shared if isinstance(start, SparseRegion) else None
        shared = shared or SharedWeights.of(weights)
        values = self._pre_activations(rows, entries, hidden_pre, shared.reads).relu()  # [rows * k]
        all_pre = hidden_pre.view(*x.shape[:-1], self.cfg.d_sae) if isinstance(hidden_pre, Tensor) else None
        return SparseRegion(x, weights, values, entries, all_pre, shared)

    def _pre_activations(
        self, rows: Float[Tensor, "rows d_in"], entries: ActiveFeatures, hidden_pre: Tensor | MovedRows, W: SharedMatrix
    ) -> Float[Tensor, " entries"]:
        """Compute W_enc x + b_enc of some features only: taken from `hidden_pre`, and given its gradient."""
        bias = self.b_enc.index_select(0, entries.features)
        with torch.no_grad():
            known = hidden_pre[entries.rows, entries.features] - bias  # [entries], of [rows, d_sae], without the bias
        return dot_active(rows, entries, W, known) + bias

    @override
    def straight_through_gate(self, feature_acts: Tensor, hidden_pre: Tensor, bandwidth: float) -> Tensor:
        score = self.score(hidden_pre).reshape(-1, self.cfg.d_sae)
        threshold = self.gate_threshold(score.detach())  # [rows, 1], or one for a batch
        gate = straight_through(feature_acts.reshape(score.shape), score, threshold, bandwidth)
        return gate.view_as(hidden_pre)

    def gate_threshold(self, score: Float[Tensor, "rows d_sae"]) -> Tensor:
        """Compute thresholds: half-way between the last feature that stays and the first that does not, at least 0.

        Args:
            score: what features are ranked by.

        Returns:
            One threshold per row [rows, 1], in units of the score.
        """
        if self.cfg.k == self.cfg.d_sae:
            return score.new_zeros(len(score), 1)
        ranked = score.topk(self.cfg.k + 1, sorted=True).values  # [rows, k + 1], descending
        return ranked[:, self.cfg.k - 1 :].mean(-1, keepdim=True).clamp_min(0)

    @override
    def calculate_aux_loss(
        self, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor, sae_out: Tensor
    ) -> dict[str, Tensor]:
        dead = step_input.dead_neuron_mask
        if dead is None or self.cfg.aux_loss_coefficient == 0 or (n_dead := int(dead.sum())) == 0:
            return {"auxiliary_reconstruction_loss": sae_out.new_zeros(())}
        d_out, d_sae = self.cfg.d_out, self.cfg.d_sae
        wanted = max(1, d_out // 2)
        hidden_pre = hidden_pre.detach().reshape(-1, d_sae)
        dead_features = dead.nonzero().squeeze(-1)
        # [rows, n_dead] to the positions of the largest among the dead, and to their numbers among all
        largest = self.score(hidden_pre)[:, dead_features].topk(min(wanted, n_dead), sorted=False).indices
        entries = ActiveFeatures.same_count(dead_features[largest], d_sae)
        rows = cast(TranscoderStepInput, step_input).x.reshape(-1, self.cfg.d_in).to(self.dtype)
        # [rows, d_out]: what the dead features would write
        reads, writes = SharedWeights.of(Weights.of(self))
        revived = sum_active(self._pre_activations(rows, entries, hidden_pre, reads), entries, writes)
        residual = (step_input.sae_in - sae_out).detach().reshape(-1, d_out)  # [rows, d_out]
        loss = (revived - residual).square().sum() / max(1, len(rows))
        share = min(1.0, n_dead / wanted)  # a few dead features cannot explain much
        return {"auxiliary_reconstruction_loss": self.cfg.aux_loss_coefficient * share * loss}

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        require_ranking_by_norm(self.cfg)
        super().fold_W_dec_norm()

    @override
    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving(state_dict)
        state_dict["W_enc"] = state_dict["W_enc"].contiguous()

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
        state_dict["W_enc"] = _feature_by_feature(state_dict["W_enc"])


def _feature_by_feature(W_enc: Float[Tensor, "d_in d_sae"]) -> Float[Tensor, "d_in d_sae"]:
    """Lay the matrix out with each feature's weights side by side in memory, as `SparseRegion` reads it."""
    return W_enc.T.contiguous().T  # a view [d_in, d_sae] of memory [d_sae, d_in]


def _hooked(point: nn.Module) -> bool:
    return bool(point._forward_hooks or point._backward_hooks)
