"""Read from its metadata which tensors a transcoder reads and writes."""

import re
from typing import Any, NamedTuple

import torch

from faithfulness_plugin.layers.hooked_layer import Hooks

NUMBERED = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
HOOKPOINT = re.compile(r"(?:[\w.]+\.)?(?:layers|h|blocks|block)\.\d+(?:\.[\w.]+)?")
"""sparsify's name of a module. A folder that is called otherwise names none."""


class Declared(NamedTuple):
    """What the metadata of a transcoder say."""

    hook_in: str | None = None
    hook_out: str | None = None
    layer: int | None = None
    autoencoder: bool = False

    @property
    def block(self) -> int | None:
        """The block that its hooks, or it itself, name."""
        return next((b for hook in (self.hook_in, self.hook_out) if (b := block_of(hook)) is not None), self.layer)


def declared_hooks(transcoder: Any) -> Declared:
    """What a transcoder's metadata say of the tensors that it reads and writes.

    Hugging Face's names (`hf_hook_name`, `hf_hook_name_out`) go before TransformerLens's (`hook_name`,
    `hook_name_out`), which SAELens gets wrong for Gemma Scope 2; then sparsify's `hookpoint`, a module that is read at
    its input and written at its output; then `layer`, a block's number.
    """
    metadata = transcoder.cfg.metadata

    def say(name: str) -> Any:
        return getattr(metadata, name, None)

    hook_in, hook_out = say("hf_hook_name") or say("hook_name"), say("hf_hook_name_out") or say("hook_name_out")
    autoencoder, module = bool(say("autoencoder")), say("hookpoint")
    if hook_in is None and hook_out is None and module and HOOKPOINT.fullmatch(module):
        hook_in, hook_out = f"{module}.{'output' if autoencoder else 'input'}", f"{module}.output"
    if autoencoder:
        hook_out = hook_in
    layer = say("layer")
    return Declared(hook_in, hook_out, layer if isinstance(layer, int) else None, autoencoder)


def block_of(hook: str | None) -> int | None:
    """The number of the block in a hook's name, if there is one."""
    match = None if hook is None else NUMBERED.search(hook)
    return None if match is None else int(match[1])


@torch.no_grad()
def same_tensor(hooks: Hooks, one: str, other: str) -> bool:
    """Whether two names stand for one tensor: by the model's own name for both, or because a run of the model on
    random tokens carries the same at both. Raises ValueError for a name that there is not."""
    names = {hooks.own_name(hooks.require(name)) for name in (one, other)}
    if len(names) == 1:
        return True
    seen: dict[str, torch.Tensor] = {}
    hooks.run(hooks.random_tokens(), {name: lambda a, name=name: seen.update({name: a.clone()}) for name in names})
    values = list(seen.values())
    return len(values) == 2 and values[0].shape == values[1].shape and torch.equal(*values)
