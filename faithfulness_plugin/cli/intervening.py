"""The option `--intervene` of `faithfulness inspect`."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from faithfulness_plugin.errors import UsageError

if TYPE_CHECKING:
    from faithfulness_plugin.inspection.inspection import Inspection
    from faithfulness_plugin.inspection.subjects import Subject

TOP = "top"
NUMBERS = re.compile(r"\s*\d+\s*(,\s*\d+\s*)*")


class Asked:
    """The features that are to be removed and doubled.

    Args:
        text: the option's: "top", or numbers; None for no features.
        bare: whether the layer is in no language model.

    Raises:
        UsageError: a text that names no features, or a bare layer.
    """

    def __init__(self, text: str | None, *, bare: bool) -> None:
        self.any = text is not None
        self.features: list[int] | None = None
        """None for those that each table begins with."""
        if text is None:
            return
        if bare:
            raise UsageError(
                "--intervene: features are changed in a language model, and this layer is in none: leave it out"
            )
        if text.strip() != TOP:
            if not NUMBERS.fullmatch(text):
                raise UsageError(f"--intervene {text}: write the numbers of features, as in 14,255, or top")
            self.features = list(dict.fromkeys(int(i) for i in text.split(",")))

    def require(self, transcoders: Mapping[str, Any]) -> None:
        """Refuse features that a transcoder does not have.

        Args:
            transcoders: by name.

        Raises:
            UsageError: one of them is not there.
        """
        from faithfulness_plugin.inspection.feature_interventions import require_features

        for name, transcoder in transcoders.items() if self.features is not None else ():
            require_features(self.features or [], len(transcoder.W_dec), name)

    def require_layer(self, subject: "Subject") -> None:
        """Refuse a layer behind which nothing can be compared, before anything is computed.

        Args:
            subject: the layer.

        Raises:
            UsageError: as `require_changeable`.
        """
        from faithfulness_plugin.inspection.feature_interventions import require_changeable
        from faithfulness_plugin.layers.hooked_layer import HookedLayer

        if self.any and subject.hooks is not None and isinstance(subject.layer, HookedLayer):
            require_changeable(subject.hooks, subject.layer)

    def of(
        self, subject: "Subject", inspected: "Inspection", on_share: Callable[[float], None] = lambda share: None
    ) -> "Inspection":
        """Remove and double the features of an inspected transcoder.

        Args:
            subject: its layer.
            inspected: the transcoder.
            on_share: receives how much of it is done, from 0 to 1.

        Returns:
            The same, with what happened.
        """
        from faithfulness_plugin.inspection.feature_interventions import TOP as N_TOP
        from faithfulness_plugin.inspection.passes import counted

        if not self.any:
            return inspected
        n = min(N_TOP, int((~inspected.records.dead).sum())) if self.features is None else len(self.features)
        advance = counted(on_share, n)
        return subject.change(inspected, self.features, on_feature=lambda: advance(1))
