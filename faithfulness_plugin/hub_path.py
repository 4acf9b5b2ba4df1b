"""Addresses on the Hugging Face hub, hf://owner/repo/path: text, which nothing is loaded for."""

import re
from dataclasses import dataclass
from pathlib import Path

from faithfulness_plugin.errors import FormatError


@dataclass(frozen=True)
class HubPath:
    """A repository on the hub, or a folder or file in one."""

    repo: str
    path: str = ""
    """Within the repository; empty for all of it."""
    revision: str | None = None
    """A branch, tag or commit; None for the main branch."""

    @classmethod
    def of(cls, address: str | Path) -> "HubPath":
        """Parse hf://owner/repo, hf://owner/repo/path or hf://owner/repo@revision/path.

        Args:
            address: the text.

        Returns:
            Its parts.

        Raises:
            FormatError: other text.
        """
        text = re.sub("^hf:/+", "", str(address)).strip("/")
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(refs/\w+/[^/]+|[^/]+))?(?:/(.+))?", text)
        if match is None:
            raise FormatError(f"{address} is no address: write hf://owner/repo/path, or hf://owner/repo@revision/path")
        return cls(match[1], match[3] or "", match[2])

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}" + f"/{self.path}" * bool(self.path)


def is_hub_path(source: str | Path) -> bool:
    """Tell whether this is an address that begins with hf://.

    Args:
        source: what `load_transcoder` was given.

    Returns:
        Whether it is.
    """
    return str(source).startswith("hf:/")
