"""Mechanistic faithfulness for transcoders, on TransformerLens and SAELens.

Names are imported when they are asked for. SAELens knows the training transcoders whichever of the two packages is
imported first.
"""

from types import ModuleType

from faithfulness_plugin.command import Interruption, is_command

if is_command():  # Ctrl-C ends in a line also while the rest is imported
    Interruption.watch()

import lazy_loader
import wrapt

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


@wrapt.when_imported("sae_lens")
def _register(_: ModuleType) -> None:
    from faithfulness_plugin.transcoders import architectures, stock  # noqa: F401  they register by being imported
