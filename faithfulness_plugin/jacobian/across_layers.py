"""Total derivatives through a chain of layers, of a model or of a cross-layer transcoder alike."""

from collections.abc import Callable, Sequence

from torch import Tensor

from faithfulness_plugin.layers.layer_chain import Link, linked

Writes = Sequence[Tensor | None]
"""Directions dy_l, dy_{l+1}, ... of what the layers from l on write; None for 0. It may end early."""


def across_layers(
    starts: Sequence[Tensor | None],
    own: Sequence[Writes],
    push: Callable[[int, Tensor], Writes],
    link: Link,
) -> list[Tensor | None]:
    """Compute sum over l < m of T_lm v_l for every layer m: what reaches it across layers.

    With dx_l = v_l + c_l, c_l being what is carried to layer l, and P_lm the partial derivatives of y_m by x_l,

        dy_m = sum over l <= m of P_lm dx_l,    c_{m+1} = dy_m ("feed") or dx_m + dy_m ("residual"),

    and the result is dy_m - P_mm v_m. One product for each pair (l, m), beside those in `own`.

    Args:
        starts: v_l at every layer [..., d]; None for none.
        own: P_lm v_l for m = l, l + 1, ...; not read where there is no v_l.
        push: (l, c) -> P_lm c for m = l, l + 1, ...
        link: how the next layer's input is made.

    Returns:
        One direction for each layer, of the shape of what it writes; None where nothing reaches it.
    """
    n = len(starts)
    reached: list[Tensor | None] = [None] * n  # [..., d_out] each
    carried: Tensor | None = None  # c_m [..., d]
    for m, v in enumerate(starts):
        written: Writes = () if carried is None else push(m, carried)
        for k, dy in enumerate(written):
            reached[m + k] = _added(reached[m + k], dy)
        # v_m's own way to y_m moves what is next, and is no part of the result
        directly: Writes = () if v is None else own[m]
        dx, dy = _added(v, carried), _added(reached[m], directly[0] if directly else None)
        for k, later in enumerate(directly[1:], 1):
            reached[m + k] = _added(reached[m + k], later)
        carried = dy if dx is None or dy is None else linked(link, dx, dy)
    return reached


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
