"""Hooks for a transcoder that has none: a class of one's own, whose linear region is registered."""

from typing import Any

from jaxtyping import Float
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from faithfulness_plugin.display import line
from faithfulness_plugin.jacobian.linear_region import LinearRegion, add_skip, known_region, linear_region
from faithfulness_plugin.layers.spliced import ACTS_POST


class HookedTranscoder(HookedRootModule):
    """A module whose linear region is known, with the weights and the hook point of a SAELens transcoder.

    Args:
        module: an instance of a class that joined by `linear_region.register`.
        x: any row that it takes; its linear region there tells the weights.

    Raises:
        ValueError: a class whose linear region is not known.
    """

    cfg: Any
    """The module's own, where it has metadata; else an empty one."""

    def __init__(self, module: nn.Module, x: Float[Tensor, "rows d_in"]) -> None:
        super().__init__()
        self.module, self.weights = module, known_region(module, x).weights
        own = getattr(module, "cfg", None)
        self.cfg = own if hasattr(own, "metadata") else _EmptyConfig(type(module).__name__)
        self.hook_sae_acts_post = HookPoint()
        self.setup()

    def __repr__(self) -> str:
        return line("HookedTranscoder", {"module": self.module, **self.weights._asdict()})

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """What features read."""
        return self.weights.W_enc

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:
        """What features write."""
        return self.weights.W_dec

    @property
    def W_skip(self) -> Float[Tensor, "d_out d_in"] | None:
        """The skip connection, if there is one."""
        return self.weights.W_skip

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Compute the activations, which pass the hook point.

        Args:
            x: rows.

        Returns:
            The activations, dense.
        """
        acts = known_region(self.module, x).feature_acts
        return self.hook_sae_acts_post(acts.to_dense().view(*x.shape[:-1], -1) if acts.is_sparse else acts)

    def decode(self, feature_acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Compute W_dec a + b_dec.

        Args:
            feature_acts: activations a.

        Returns:
            The output without the skip connection.
        """
        return feature_acts @ self.weights.W_dec + self.weights.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Compute t(x) from what the hook point carries.

        Args:
            x: rows.

        Returns:
            The output.
        """
        return add_skip(self.decode(self.encode(x)), x, self.weights.W_skip)


class _EmptyConfig:
    def __init__(self, name: str) -> None:
        self.name, self.metadata = name, SAEMetadata()

    def architecture(self) -> str:
        return self.name


def has_hooks(transcoder: nn.Module) -> bool:
    """Tell whether a transcoder's activations pass SAELens's hook point.

    Args:
        transcoder: any module.

    Returns:
        True for SAELens's classes and those that inherit from them.
    """
    return hasattr(transcoder, ACTS_POST)


def hooked(transcoder: nn.Module, x: Float[Tensor, "rows d_in"]) -> Any:
    """Return a transcoder whose activations pass a hook point.

    Args:
        transcoder: a SAELens transcoder, or a module whose linear region is registered.
        x: any row that it takes.

    Returns:
        The transcoder itself where it has SAELens's hooks, else a `HookedTranscoder` of it.

    Raises:
        ValueError: it has no hooks, and its linear region is not known.
    """
    return transcoder if has_hooks(transcoder) else HookedTranscoder(transcoder, x)


@linear_region.register
def _hooked_region(
    transcoder: HookedTranscoder, x: Tensor, *, gate: Any = None, gate_bandwidth: float | None = None
) -> LinearRegion | None:
    return linear_region(transcoder.module, x, gate=gate, gate_bandwidth=gate_bandwidth)
