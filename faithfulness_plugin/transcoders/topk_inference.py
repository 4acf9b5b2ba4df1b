"""The TopK transcoder as SAELens loads it: SAELens has none of its own."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.registry import SAE_CLASS_REGISTRY, register_sae_class
from sae_lens.saes.topk_sae import TopK
from sae_lens.saes.transcoder import Transcoder, TranscoderConfig
from torch import Tensor, nn, zeros
from typing_extensions import override

from faithfulness_plugin.transcoders.skip import Attachable


@dataclass
class TopKTranscoderConfig(TranscoderConfig):
    """Config of `TopKTranscoder`."""

    apply_b_dec_to_input: bool = False
    k: int = 32
    rescale_acts_by_decoder_norm: bool = True
    """Rank features by a_i ||W_dec^i||, as in training."""
    keep_negative: bool = False
    """Keep the k largest features also where they are below 0, as circuit-tracer does."""
    shift: bool = False
    """Add `post_enc` [d_sae] to the features that stay, as clt-training does."""
    skip: bool = False

    @override
    @classmethod
    def architecture(cls) -> str:
        return "faithful_topk_transcoder"

    @override
    def to_dict(self) -> dict[str, Any]:
        names = ("k", "rescale_acts_by_decoder_norm", "keep_negative", "shift", "skip")
        return {**super().to_dict(), **{name: getattr(self, name) for name in names}}


class TopKTranscoder(Attachable, Transcoder):
    """t(x) = W_dec TopK(W_enc x + b_enc) + b_dec (+ W_skip x), for inference: what `TopKTrainingTranscoder` exports.

    With `shift`, post_enc is added to the features that stay, after they were chosen.

    Importing faithfulness_plugin registers it with SAELens, whose `SAE.load_from_disk` then returns it.
    """

    cfg: TopKTranscoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        if self.cfg.skip:
            self.W_skip = nn.Parameter(zeros(self.cfg.d_out, self.cfg.d_in, dtype=self.dtype, device=self.device))
        if self.cfg.shift:
            self.post_enc = nn.Parameter(zeros(self.cfg.d_sae, dtype=self.dtype, device=self.device))

    @override
    def get_activation_fn(self) -> Any:
        return TopK(self.cfg.k)

    @override
    def encode(self, x: Tensor) -> Tensor:
        """Compute the activations, [..., d_in] -> [..., d_sae]."""
        hidden_pre = self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)
        gate = self.kept(self.score(hidden_pre))  # 0 or 1, [..., d_sae]
        # [..., d_sae]; post_enc is not ranked, and goes to features that stay
        acts = hidden_pre + self.post_enc if self.cfg.shift else hidden_pre
        return self.remember(self.hook_sae_acts_post(acts * gate), x)

    def kept(self, score: Tensor) -> Tensor:
        """Mark the k features with the largest score; without `keep_negative` only those above 0.

        Args:
            score: what features are ranked by, [..., d_sae].

        Returns:
            True for those features, [..., d_sae].
        """
        if self.cfg.keep_negative:
            # True at k positions of each row, [..., d_sae]
            return torch.zeros_like(score, dtype=torch.bool).scatter(-1, score.topk(self.cfg.k).indices, True)
        return self.activation_fn(score) > 0  # SAELens's TopK: the k largest, at least 0

    def score(self, hidden_pre: Tensor) -> Tensor:
        """Compute what features are ranked by.

        Args:
            hidden_pre: the pre-activations z, [..., d_sae].

        Returns:
            z_i ||W_dec^i||, or z_i without `rescale_acts_by_decoder_norm`, [..., d_sae].
        """
        return ranking_score(hidden_pre, self)

    @override
    def fold_W_dec_norm(self) -> None:
        """Fold decoder norms. Raises NotImplementedError where features are ranked by their activations alone."""
        require_ranking_by_norm(self.cfg)
        norms = self.fold_and_get_W_dec_norm()  # [d_sae]
        if self.cfg.shift:
            self.post_enc.data.mul_(norms)  # an activation: scaled as W_enc is

    @override
    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> "TopKTranscoder":
        return cls(TopKTranscoderConfig.from_dict(config_dict))  # pyright: ignore[reportArgumentType]


def ranking_score(hidden_pre: Tensor, transcoder: Any) -> Tensor:
    """Compute z_i ||W_dec^i|| of pre-activations z, or z itself without `rescale_acts_by_decoder_norm`.

    It is for ranking: no gradient goes to W_dec.

    Args:
        hidden_pre: z, [..., d_sae].
        transcoder: a TopK transcoder, in training or finished.

    Returns:
        The scores, [..., d_sae].
    """
    norms = ranking_norms(transcoder)
    return hidden_pre if norms is None else hidden_pre * norms  # [..., d_sae] * [d_sae]


def ranking_norms(transcoder: Any) -> Float[Tensor, " d_sae"] | None:
    """Compute what pre-activations are multiplied by to rank features.

    Args:
        transcoder: a TopK transcoder, in training or finished.

    Returns:
        ||W_dec^i|| without a graph; None without `rescale_acts_by_decoder_norm`, as some libraries rank by z alone.
    """
    # [d_sae, d_out]: the norm of what each feature writes
    return transcoder.W_dec.detach().norm(dim=-1) if transcoder.cfg.rescale_acts_by_decoder_norm else None


def require_ranking_by_norm(config: Any) -> None:
    """Check that folding decoder norms leaves the same features the largest.

    Args:
        config: the config of a TopK transcoder.

    Raises:
        NotImplementedError: features are ranked by their activations alone.
    """
    if not config.rescale_acts_by_decoder_norm:
        raise NotImplementedError(
            "folding decoder norms changes which features are the largest: "
            "only with rescale_acts_by_decoder_norm=True is it safe"
        )


if TopKTranscoderConfig.architecture() not in SAE_CLASS_REGISTRY:
    register_sae_class(TopKTranscoderConfig.architecture(), TopKTranscoder, TopKTranscoderConfig)
