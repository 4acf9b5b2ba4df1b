"""Jacobian matching for cross-layer transcoders: own, direct and total derivatives (docs/cross-layer.md)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.display import line
from faithfulness_plugin.jacobian.across_layers import Writes, across_layers
from faithfulness_plugin.jacobian.chain_response import ChainResponse
from faithfulness_plugin.jacobian.closed_form import region_at
from faithfulness_plugin.jacobian.cross_layer_region import CrossLayerRegion
from faithfulness_plugin.jacobian.layer_response import LayerResponse
from faithfulness_plugin.jacobian.linear_region import LinearRegion
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.matching_config import CROSS_LAYER, JacobianMatchingConfig, as_config
from faithfulness_plugin.layers.derivatives import layer_jvp, layer_output
from faithfulness_plugin.layers.layer_chain import LayerChain, Link
from faithfulness_plugin.seeds import derived_seed

ESTIMATORS = ("jvp", "exact")


class CrossLayerMatching:
    """loss = matching(transcoder, chain, x): own * Own + direct * Direct + total * Total, a scalar with a gradient.

    Own     sum over m of c_m E||(P_mm - J_m) v_m||^2: each layer's own derivative, as `JacobianMatching` has it.
    Direct  sum over l < m of c_m E||P_lm v_l||^2: partial derivatives that the chain does not have (less those that it
            has, where a layer reads an earlier one's input).
    Total   sum over m of c'_m E||sum over l < m of (T_lm - T_lm of the chain) v_l||^2: total derivatives across layers.

    P is partial, with all that is read elsewhere held fixed; T is total, through the chain. As probes are independent
    from layer to layer and their mean is 0, the square of the sum over l is on average the sum of squares.

    Args:
        config: a `JacobianMatchingConfig` or its dict; estimator "jvp" or "exact".
        n_layers: how many layers the chain has. The first one draws what `JacobianMatching` of this config draws.

    Raises:
        ValueError: an estimator without partial products; probes whose mean is not 0, with total.
    """

    def __init__(self, config: JacobianMatchingConfig | Mapping[str, Any], n_layers: int) -> None:
        self.config = as_config(config)
        if self.config.estimator not in ESTIMATORS:
            raise ValueError(
                f"estimator={self.config.estimator!r} has no partial products of a cross-layer transcoder: choose one "
                f"of {ESTIMATORS}"
            )
        if self.config.total and self.config.probe == "difference":
            raise ValueError(
                'probe="difference" points to the mean, so that probes of several layers do not average out in total '
                'derivatives: choose probe="pair" or an isotropic one'
            )
        plain = replace(self.config, **CROSS_LAYER)
        seeds = [
            plain.seed if source == 0 else derived_seed(plain.seed, f"layer {source}") for source in range(n_layers)
        ]
        self.each = [JacobianMatching(replace(plain, seed=seed)) for seed in seeds]

    def __repr__(self) -> str:
        return line("CrossLayerMatching", {"n_layers": len(self.each), **self.config.to_dict()})

    def __call__(self, transcoder: nn.Module, chain: LayerChain, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, ""]:
        """Compute the loss at rows x [..., L * d_in]."""
        return self.from_targets(transcoder, self.targets(chain, x))

    @torch.no_grad()
    def targets(
        self, chain: LayerChain, x: Float[Tensor, "*batch d_in"], *, y: Float[Tensor, "*batch d_out"] | None = None
    ) -> ChainResponse:
        """Draw probes for each layer, and ask the chain for its derivatives along them.

        Args:
            chain: the layers.
            x: the rows.
            y: chain(x), where it is known.

        Returns:
            The chain's side, without a graph.

        Raises:
            UsageError: total derivatives of a chain without a link, or of rows that do not obey it.
            ValueError: as `JacobianMatching.targets`.
        """
        if y is None and self.config.jitter > 0:
            y = layer_output(chain, x)
        # [..., d_in] and [..., d_out] of each layer
        rows, n = chain.split(x), len(chain)
        written = [None] * n if y is None else chain.split(y)
        # probes v_m [n_probes, ..., d_in] and J_m v_m [n_probes, ..., d_out] of each
        each = tuple(
            matching.targets(chain.by(m, m, rows), rows[m], y=written[m]) for m, matching in enumerate(self.each)
        )
        at = [response.x for response in each]
        # P_lm v_l [n_probes, ..., d_out] of the chain, which has few of them
        partial = tuple(
            tuple(_through(chain, at, source, m, of.Jv, cast(Tensor, of.v)) for m in range(source, n))
            for source, of in enumerate(each)
        )
        reached: list[Tensor | None] = []  # [n_probes, ..., d_out] each
        if self.config.total:
            chain.require_link(rows, [of.y for of in each] if y is None else cast(Any, written))

            def push(source: int, c: Tensor) -> Writes:
                own = None  # J_l c, by the layer's weights where they are known
                if source not in chain.reads:
                    own = self.each[source].layer_products(chain.layers[source], at[source], c, y=each[source].y)[1]
                return [_through(chain, at, source, m, own, c) for m in range(source, n)]

            reached = self._across(each, partial, push, cast(Link, chain.link))
        # c'_m, numbers
        scales = [
            None if dy is None else matching.scale(of.y, dy)
            for matching, of, dy in zip(self.each, each, reached, strict=False)
        ]
        # [..., L * d_in]
        joined = x if self.config.jitter == 0 else torch.cat(at, dim=-1)
        return ChainResponse(joined, each, partial, tuple(reached), tuple(scales), chain.link)

    def from_targets(
        self,
        transcoder: nn.Module,
        targets: ChainResponse,
        *,
        gate: Float[Tensor, "*batch d_sae"] | LinearRegion | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss against targets made before.

        Args:
            transcoder: a cross-layer transcoder.
            targets: what `targets` returned.
            gate: the region of a forward pass already made at `targets.x`, or its activations.

        Returns:
            The loss, a scalar, with a graph to the transcoder's parameters.

        Raises:
            ValueError: a transcoder that is not cross-layer; one of another number of layers or of another width.
        """
        region = region_at(transcoder, targets.x, gate, self.config.gate_bandwidth)
        if not isinstance(region, CrossLayerRegion):
            raise ValueError(f"{type(transcoder).__name__} is no cross-layer transcoder: use JacobianMatching for it")
        each: list[Any] = [of.trainable() for of in targets.layers]  # with their products
        if len(each) != len(region.parts) or region.d_out != each[0].y.shape[-1]:
            raise ValueError(
                f"the transcoder has {len(region.parts)} layers of d_out={region.d_out}, and the chain {len(each)} of "
                f"{each[0].y.shape[-1]}: give it the chain's"
            )
        # P_lm v_l [n_probes, ..., d_out], one product a pair: all three terms are made of them
        partial = [region.partial_jvp(source, of.v, of.along) for source, of in enumerate(each)]
        terms: list[Tensor] = []
        # the pairs (m, m)
        if self.config.own:
            terms += [
                self.config.own * matching.mean_energy(of_pairs[0] - of.Jv) * of.scale
                for matching, of_pairs, of in zip(self.each, partial, each, strict=True)
            ]
        # the pairs (l, m) with l < m, each by itself: no cross terms
        if self.config.direct:
            terms += [
                self.config.direct
                * self.each[m].mean_energy(_less(Pv, targets.partial[source][m - source]))
                * each[m].scale
                for source, of_pairs in enumerate(partial)
                for m, Pv in enumerate(of_pairs[1:], source + 1)
            ]
        # the same pairs, as sums over l [n, ..., d_out] for each m
        if self.config.total:
            reached = self._across(each, partial, region.partial_jvp, cast(Link, targets.link))
            terms += [
                self.config.total * matching.mean_energy(_less(ours, theirs)) * scale
                for matching, ours, theirs, scale in zip(
                    self.each, reached, targets.reached, targets.scales, strict=True
                )
                if ours is not None and scale is not None
            ]
        return torch.stack(terms).sum() if terms else targets.x.new_zeros(())

    def _across(
        self,
        each: Sequence[LayerResponse],
        partial: Sequence[Writes],
        push: Callable[[int, Tensor], Writes],
        link: Link,
    ) -> list[Tensor | None]:
        """Carry probes across the chain: all layers' at once, or a layer's at a time where they are a fixed set."""
        n, v = len(each), [of.v for of in each]
        if not self.each[0].estimator.fixed_probes:
            return across_layers(v, partial, push, link)
        # from one layer l: [n_probes, ..., d_out] for each m
        alone = [
            across_layers([v_l if k == source else None for k in range(n)], partial, push, link)
            for source, v_l in enumerate(v)
        ]
        # from all l < m, as so many more probes: [m * n_probes, ..., d_out]
        columns = [[of[m] for of in alone[:m] if of[m] is not None] for m in range(n)]
        return [torch.cat(cast(list[Tensor], column)) if column else None for column in columns]

    def relative_error(self, loss: Float[Tensor, ""], targets: ChainResponse) -> Float[Tensor, ""]:
        """Express a loss of `from_targets` as a fraction of what losing all layers' own Jacobians would cost.

        Args:
            loss: what `from_targets` returned.
            targets: the targets that it was computed against.

        Returns:
            The fraction.
        """
        own = [
            cast(Tensor, of.scale) * matching.mean_energy(cast(Tensor, of.Jv))
            for matching, of in zip(self.each, targets.layers, strict=True)
        ]
        return loss / torch.stack(own).sum()

    @property
    def across(self) -> Any:
        """The process group whose batch this is a part of, as in `JacobianMatching`."""
        return self.each[0].across

    @across.setter
    def across(self, group: Any) -> None:
        """Set it for all layers.

        Args:
            group: the process group, or None.
        """
        for matching in self.each:
            matching.across = group

    def state_dict(self) -> dict[str, Any]:
        """Return the random generators' states.

        Returns:
            Those of all layers; empty before the first draw.
        """
        states = [matching.state_dict() for matching in self.each]
        return {"layers": states} if any(states) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the random generators.

        Args:
            state: what `state_dict` returned.
        """
        for matching, of in zip(self.each, state.get("layers", [{}] * len(self.each)), strict=True):
            matching.load_state_dict(of)


def _through(
    chain: LayerChain, at: Sequence[Tensor], source: int, m: int, own: Tensor | None, v: Tensor
) -> Tensor | None:
    """Compute P_lm v of the chain: its own layer's where it is known, and None where layer m does not read x_l."""
    if m == source and own is not None:
        return own
    if m != source and m not in chain.readers(source):
        return None
    # all else that layer m reads is held, [n_probes, ..., d_out]
    return layer_jvp(chain.by(m, source, at), at[source], v)[1]


def _less(one: Tensor, other: Tensor | None) -> Tensor:
    return one if other is None else one - other
