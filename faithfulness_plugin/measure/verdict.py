"""A measured transcoder in a sentence."""

from faithfulness_plugin.measure.relative_errors import RelativeError, fvu, jacobian_error, jacobian_floor
from faithfulness_plugin.measure.schema import ArtifactNumbers, ArtifactResult, LayerRecord


def verdict(result: ArtifactResult, name: str) -> str:
    """Say how faithful a transcoder is: outputs, Jacobian against what its features allow, and its cost in the model.

    Args:
        result: the measurements.
        name: the transcoder's, which is measured.

    Returns:
        One sentence.
    """
    of, layer = result.of(name), result.layer
    assert of is not None
    assert layer is not None
    said = [f"{name} has {_fvu(of, layer)}L0 {of.l0:.1f}"]
    error = _ratio(jacobian_error("difference"), of, layer)
    floor = _ratio(jacobian_floor("difference"), of, layer)
    if error is not None and floor is not None:
        keeps = f"{1 - error:.0%}" if error < 1 else f"nothing (error {error:.2f})"
        said.append(
            f"along differences of data it keeps {keeps} of the layer's Jacobian (at most {1 - floor:.0%} at this L0)"
        )
    zero = layer.ce_zero - layer.ce_clean
    said.append(f"in the layer's place it costs {of.ce - layer.ce_clean:.3f} nats a token (zeros cost {zero:.3f})")
    return "; ".join(said)


def _fvu(of: ArtifactNumbers, layer: LayerRecord) -> str:
    value = _ratio(fvu, of, layer)
    return "" if value is None else f"FVU {value:.3f}, "


def _ratio(score: RelativeError, of: ArtifactNumbers, layer: LayerRecord) -> float | None:
    """Return a ratio of sums over all prompts; None where the denominator is 0."""
    part, whole = (sum(sums) for sums in score(of, layer, ()))
    return part / whole if whole else None
