"""Cross-layer transcoders in training: every layer's features write to that layer and to later ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import override

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.jacobian.cross_layer_matching import CrossLayerMatching
from faithfulness_plugin.jacobian.linear_region import LinearRegion
from faithfulness_plugin.layers.derivatives import Layer
from faithfulness_plugin.layers.layer_chain import LayerChain
from faithfulness_plugin.transcoders.base import NonFiniteError, TrainingTranscoder, TranscoderStepInput
from faithfulness_plugin.transcoders.cross_layer_config import CrossLayerTrainingTranscoderConfig
from faithfulness_plugin.transcoders.cross_layer_function import CrossLayerFunction, Rows


class CrossLayerTrainingTranscoder(  # pyright: ignore[reportIncompatibleVariableOverride]
    CrossLayerFunction, TrainingTranscoder[CrossLayerTrainingTranscoderConfig]
):
    """y_m = sum over l <= m of W_dec_lm act(W_enc_l x_l + b_enc_l), + b_dec_m, for the layers of a chain, trained on

    sum_m mean_rows ||y_m - f_m(x_m)||^2 + each layer's own sparsity terms + jacobian_coefficient * the terms of
    `CrossLayerMatching` + gradient_masking_coefficient * the gradient-masking penalty.

    Rows are [..., L * d_in], a stack [..., L, d_in], or a tuple of what each layer reads; a chain with a link also
    takes [..., d_in], what its first layer reads. Each of `parts` is a transcoder of the architecture in `per_layer`,
    with its hooks and its activation, whose output is what it writes to each of its layers: W_dec [d_sae, K * d_out].

    Exported (`save_inference_model`) in circuit-tracer's format; see docs/cross-layer.md.
    """

    parts: Any
    """One transcoder for each layer, in an nn.ModuleList, whose members a type checker takes for bare modules."""
    matching: Any

    @property
    @override
    def n_layers(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.cfg.n_layers

    @property
    @override
    def d_in_each(self) -> int:
        return self.cfg.of_layer.d_in

    @override
    def new_matching(self) -> CrossLayerMatching:
        return CrossLayerMatching(cast(Any, self.cfg.jacobian), self.cfg.n_layers)

    @override
    def initialize_weights(self) -> None:
        """Build one transcoder for each layer, whose decoder is smaller by the root of how many write to a layer."""
        cfg, parts = self.cfg, []
        for layer in range(cfg.n_layers):
            of_part = cfg.part(layer)
            part: Any = get_sae_training_class(of_part.architecture())[0](of_part)
            part.b_dec.requires_grad_(False)  # 0: biases are those of the layers written to, `b_dec` of the whole
            if of_part.decoder_init_norm is None:
                part.W_dec.data *= min(cfg.n_layers, cfg.bandwidth or cfg.n_layers) ** -0.5
            if cfg.tied:
                parametrize.register_parametrization(part, "W_dec", Repeated(cfg.writes_to(layer)))
            parts.append(part)
        self.parts = nn.ModuleList(parts)
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_out, dtype=self.dtype, device=self.device))

    @override
    def set_layer(self, layer: Any) -> "CrossLayerTrainingTranscoder":
        """Set the layers to be replaced.

        Args:
            layer: a list of them, a `LayerChain`, or None to take them away.

        Returns:
            The transcoder itself.

        Raises:
            UsageError: anything else; another number of layers than the transcoder has.
        """
        if isinstance(layer, Sequence):
            layer = LayerChain(tuple(layer))
        if layer is not None and not isinstance(layer, LayerChain):
            raise UsageError(
                f"a cross-layer transcoder replaces several layers, and this is a {type(layer).__name__}: pass a list "
                "of the layers, or a LayerChain"
            )
        if layer is not None and len(layer) != self.n_layers:
            raise UsageError(
                f"{len(layer)} layers for a transcoder of {self.n_layers}: pass as many, or n_layers={len(layer)}"
            )
        super().set_layer(cast(Layer | None, layer))
        return self

    @property
    def chain(self) -> LayerChain:
        """The layers being replaced. Raises ValueError where none are set."""
        return cast(LayerChain, self.given_layer)

    @override
    def flat(self, x: Rows) -> Float[Tensor, "*batch d_in"]:
        layer = vars(self).get("_layer")
        first_alone = isinstance(x, Tensor) and self.n_layers > 1 and x.shape[-1] == self.d_in_each
        if first_alone and not self.is_stack(x) and isinstance(layer, LayerChain) and layer.link and not layer.held:
            return layer.rows(cast(Tensor, x))
        return super().flat(x)

    @override
    def forward(self, x: Rows) -> Tensor:
        """Compute what the layers write.

        Args:
            x: rows, a stack or a tuple.

        Returns:
            [..., L * d_out], or a stack [..., L, d_out].
        """
        return self.shaped(x, self.hook_sae_output(self.decode(self.encode(x))))

    @override
    def encode(self, x: Rows) -> Float[Tensor, "*batch d_sae"]:
        return self.encode_with_hidden_pre(x)[0]

    @override
    def encode_with_hidden_pre(self, x: Rows) -> tuple[Tensor, Tensor]:
        rows = self.process_sae_in(self.flat(x)).chunk(self.n_layers, dim=-1)
        acts, pre = zip(
            *(part.encode_with_hidden_pre(row) for part, row in zip(self._parts, rows, strict=True)), strict=True
        )
        return torch.cat(acts, dim=-1), torch.cat(pre, dim=-1)

    @override
    def decode(self, feature_acts: Tensor) -> Tensor:
        return self.hook_sae_recons(CrossLayerFunction.decode(self, feature_acts))

    @override
    def activate(self, hidden_pre: Tensor) -> Tensor:
        each = hidden_pre.chunk(self.n_layers, dim=-1)
        return torch.cat([part.activate(pre) for part, pre in zip(self._parts, each, strict=True)], dim=-1)

    @override
    def straight_through_gate(self, feature_acts: Tensor, hidden_pre: Tensor, bandwidth: float) -> Tensor:
        each = (feature_acts.chunk(self.n_layers, dim=-1), hidden_pre.chunk(self.n_layers, dim=-1))
        gates = [
            part.straight_through_gate(acts, pre, bandwidth) for part, acts, pre in zip(self._parts, *each, strict=True)
        ]
        return torch.cat(gates, dim=-1)

    @override
    def encode_to_region(
        self, x: Tensor, gate_bandwidth: float | None = None, linear: Any = None, start: Any = None
    ) -> Any:
        del linear, start  # of secants, which the matching refuses
        return self.region(self.process_sae_in(self.flat(x)), gate_bandwidth=gate_bandwidth)

    @override
    def output_at(self, x: Tensor, region: LinearRegion) -> Tensor:
        return self.hook_sae_recons(region.decode())

    @override
    def calculate_aux_loss(
        self, step_input: TrainStepInput, feature_acts: Tensor, hidden_pre: Tensor, sae_out: Tensor
    ) -> dict[str, Tensor]:
        given, losses = cast(TranscoderStepInput, step_input), {}
        n, d_out = self.n_layers, self.d_out_each
        rows, pre, dead = given.x.chunk(n, dim=-1), hidden_pre.chunk(n, dim=-1), given.dead_neuron_mask
        for layer, part in enumerate(self._parts):
            to = slice(layer * d_out, (layer + self.cfg.writes_to(layer)) * d_out)  # what it writes to
            mask = None if dead is None else dead.chunk(n)[layer]
            of_part = TranscoderStepInput(
                **{**vars(given), "sae_in": given.sae_in[..., to], "x": rows[layer], "dead_neuron_mask": mask}
            )
            found = part.calculate_aux_loss(of_part, self._acts_of(feature_acts, layer), pre[layer], sae_out[..., to])
            for name, loss in cast(dict[str, Tensor], found).items():
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    @override
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return {**self._parts[0].get_coefficients(), **super().get_coefficients()}

    @override
    def prepare_step(self) -> None:
        for part in self._parts:
            part.prepare_step()

    @override
    def finish_step(self, feature_acts: Tensor) -> dict[str, Any]:
        found = {}
        for layer, part in enumerate(self._parts):
            logged = part.finish_step(self._acts_of(feature_acts, layer))
            found |= {f"layer_{layer}/{name}": value for name, value in logged.items()}
        return found

    @override
    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        state_dict |= {name: weight.contiguous() for name, weight in state_dict.items()}

    @override
    def to(self, *args: Any, **kwargs: Any) -> Any:
        moved = super().to(*args, **kwargs)
        for part in self._parts:  # which cast their inputs
            part.dtype, part.device = self.dtype, self.device
            part.cfg.dtype, part.cfg.device = self.cfg.dtype, self.cfg.device
        return moved

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        """Write circuit-tracer's files. Raises NonFiniteError, naming the weight, where one holds NaN or Inf;
        UsageError for TopK, of which they know nothing."""
        from faithfulness_plugin.transcoders.formats.cross_layer_files import write_cross_layer

        for name, weight in self.state_dict().items():
            if not torch.isfinite(weight).all():
                raise NonFiniteError(
                    f"NaN or Inf in the weight {name}: nothing was written; train the transcoder again"
                )
        return write_cross_layer(self, Path(path))

    @property
    def _parts(self) -> list[TrainingTranscoder[Any]]:
        return cast(list[TrainingTranscoder[Any]], list(self.parts))

    def _acts_of(self, feature_acts: Tensor, layer: int) -> Tensor:
        n_features = self.cfg.of_layer.d_sae
        narrow = feature_acts.narrow_copy if feature_acts.is_sparse else feature_acts.narrow
        return narrow(feature_acts.ndim - 1, layer * n_features, n_features)

    def _ask(self, batch: Tensor) -> Any:
        return super()._ask(self.flat(batch))

    def _require_width(self, x: Tensor) -> None:
        self.flat(x)


class Repeated(nn.Module):
    """One decoder for each feature, written to K layers: [d_sae, d_out] -> [d_sae, K * d_out]."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, decoder: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "d_sae written"]:
        """Repeat the decoder.

        Args:
            decoder: what a feature writes.

        Returns:
            What it writes to each layer, one after the other.
        """
        return decoder.repeat(1, self.n)

    def right_inverse(self, whole: Float[Tensor, "d_sae written"]) -> Float[Tensor, "d_sae d_out"]:
        """Take the first of the decoders.

        Args:
            whole: what a feature writes to each layer.

        Returns:
            What it writes to its own.
        """
        return whole[:, : whole.shape[1] // self.n].clone()
