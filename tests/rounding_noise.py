"""A torch dispatch mode under which every matrix product is rounded as another processor might round it.

`pytest --rounding-noise` runs every test under it, in the threads that a test starts too, but for tests that say with
the marker `bitwise` on what their bit-identity relies. It does not reach products of numpy and scipy, those within one
operation (convolutions, decompositions), what `torch.compile` has compiled, and other processes, which tests compare
with this one.
"""

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {
    *("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "addbmm", "addbmm_", "mv", "addmv", "addmv_"),
    *("dot", "vdot", "_sparse_mm", "_sparse_addmm"),
    # in inference mode these arrive whole, and elsewhere as the above
    *("linear", "matmul", "inner", "einsum", "tensordot"),
    # sums of weighted rows, which are products with a sparse matrix
    *("_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_per_sample_weights_backward"),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"),
}
"""Names of torch.ops.aten."""


class RoundingNoise(TorchDispatchMode):
    """Moves every element of a product's result to the float below, to the one above, or not at all, a third of the
    time each, with other numbers at every call.

    Zeros stay zeros, so that what is masked stays masked. The numbers come from a generator of its own: a test draws
    the same numbers as without the noise. The mode works below autograd and below the transforms of torch.func, so
    that backward passes and forward-mode derivatives are rounded, too.

    Args:
        seed: Decides the noise.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            for value in result if isinstance(result, tuple | list) else [result]:
                self._round(value)
        return result

    def _round(self, value: Any) -> None:
        """In place, so that it also serves products that write into a tensor that is given to them."""
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            return  # no tensor, or one without numbers of its own
        if not value.is_floating_point() or value.layout != torch.strided or value.device.type != "cpu":
            return
        towards = torch.randint(-1, 2, value.shape, generator=self._generator)
        moved = torch.nextafter(value, towards.to(value.dtype) * torch.inf)
        value.copy_(torch.where((towards == 0) | (value == 0) | ~value.isfinite(), value, moved))


@contextmanager
def rounding_noise(name: str) -> Iterator[None]:
    """The noise in this thread and in every thread that starts within. `name` decides the noise."""
    seed = zlib.crc32(name.encode())
    run = threading.Thread.run

    def noisy(self: threading.Thread) -> None:
        with RoundingNoise(zlib.crc32(self.name.encode(), seed)):
            run(self)

    threading.Thread.run = noisy  # pyright: ignore[reportAttributeAccessIssue]  its self has another name
    try:
        with RoundingNoise(seed):
            yield
    finally:
        threading.Thread.run = run
