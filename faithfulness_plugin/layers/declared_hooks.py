"""Read from its metadata which tensors a transcoder reads and writes."""

import re
from typing import Any, NamedTuple, Protocol, runtime_checkable

NUMBERED = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
HOOKPOINT = re.compile(r"(?:[\w.]+\.)?(?:layers|h|blocks|block)\.\d+(?:\.[\w.]+)?")
"""sparsify's name of a module; a folder with another name names none."""


class Declared(NamedTuple):
    """The hooks and the block that a transcoder's metadata name."""

    hook_in: str | None = None
    hook_out: str | None = None
    layer: int | None = None
    autoencoder: bool = False

    @property
    def block(self) -> int | None:
        """The block in its hooks' names, or else `layer`."""
        return next((b for hook in (self.hook_in, self.hook_out) if (b := block_of(hook)) is not None), self.layer)


@runtime_checkable
class HasMetadata(Protocol):
    """A transcoder of SAELens's kind, whose `cfg.metadata` may name hooks."""

    @property
    def cfg(self) -> Any: ...


def declared_hooks(transcoder: HasMetadata) -> Declared:
    """Read from a transcoder's metadata which tensors it reads and writes.

    Hugging Face's names (`hf_hook_name`, `hf_hook_name_out`) go before TransformerLens's (`hook_name`,
    `hook_name_out`), which SAELens gets wrong for Gemma Scope 2; then sparsify's `hookpoint`, a module that is read at
    its input and written at its output; then `layer`, a block's number.

    Args:
        transcoder: anything with SAELens's `cfg.metadata`.

    Returns:
        The names and the block, None for what the metadata do not say.
    """
    metadata = transcoder.cfg.metadata

    def say(name: str) -> Any:
        return getattr(metadata, name, None)

    hook_in, hook_out = say("hf_hook_name") or say("hook_name"), say("hf_hook_name_out") or say("hook_name_out")
    autoencoder, module, layer = bool(say("autoencoder")), say("hookpoint"), say("layer")
    if hook_in is None and hook_out is None and module and HOOKPOINT.fullmatch(module):
        hook_in, hook_out = f"{module}.{'output' if autoencoder else 'input'}", f"{module}.output"
    if autoencoder:
        hook_out = hook_in
    return Declared(hook_in, hook_out, layer if isinstance(layer, int) else None, autoencoder)


def block_of(hook: str | None) -> int | None:
    """Find the number of the block in a hook's name.

    Args:
        hook: a name in either library's spelling, or None.

    Returns:
        The number; None where the name has none.
    """
    match = None if hook is None else NUMBERED.search(hook)
    return None if match is None else int(match[1])
