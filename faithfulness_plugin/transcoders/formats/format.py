"""A format of transcoder files: how it is recognised, and the function that its tensors stand for."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

import torch
from sae_lens.saes.transcoder import Transcoder
from torch import Tensor

from faithfulness_plugin.display import line
from faithfulness_plugin.transcoders.formats.errors import Where
from faithfulness_plugin.transcoders.formats.files import peek_names, peek_settings, settings_in, tensors_in
from faithfulness_plugin.transcoders.formats.parts import centred, transcoder_of
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.formats.schema import Settings, Tensors, require_finite, require_keys

Weights = Mapping[str, Tensor]


class Likeness(IntEnum):
    """The degree to which a folder or file resembles a format; the format with the highest value reads it."""

    NONE = 0
    SETTINGS = 1
    """Its settings stand there, and no weights."""
    WEIGHTS = 2
    """Weights stand there under the name that it gives them, which other formats may share."""
    CERTAIN = 3
    """Settings, or the names of tensors, are those of this format alone."""


@dataclass(frozen=True)
class Files:
    """The files of one transcoder, whether or not they exist."""

    folder: Path
    config: Path | None
    """None for a format without a file of settings."""
    weights: Path
    layer: int | None = None
    """The layer of a set that they are of."""


@dataclass(frozen=True)
class Function:
    """The function that the tensors of a file stand for: W_dec a(W_enc^T x + b_enc) + b_dec (+ W_skip x), where a is
    ReLU, JumpReLU with thresholds, or TopK with a k."""

    tensors: Tensors
    title: str | None = None
    """Its name in messages, where that is not the format's title."""
    centre: str | None = None
    """The tensor that the encoder subtracts from its input first."""
    rectified: bool = False
    """A ReLU stands beside the thresholds, so that one below 0 is one of 0."""
    fold: Callable[[Weights, dict[str, Tensor]], Mapping[str, Any]] | None = None
    """(the tensors of the file, the parts found among them) -> the parts, k and post_enc that are other ones."""
    in_float64: bool = False
    """Whether `fold` computes in float64."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `transcoder_of`: k, rank_by_norm, keep_negative."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Values of SAELens's metadata: hook_name, model_name, ..."""
    autoencoder: str | None = None
    """The tensor that an autoencoder reads and writes; None for a transcoder."""
    transcoder: str | None = None
    """The setting that says that this is a transcoder, where there is one."""


class Format:
    """One library's way to keep transcoders in files. A subclass says in its attributes which files, settings and
    tensors there are, and in `function` what they stand for."""

    title: ClassVar[str]
    """The format's name in messages, with its article: "a sparsify folder"."""
    source: ClassVar[str]
    """The value of `source` in the metadata of a transcoder."""
    writes: ClassVar[str]
    """The files that its library writes: "cfg.json and sae.safetensors"."""
    configs: ClassVar[tuple[str, ...]] = ()
    """The files of settings; the first that exists is read."""
    weights: ClassVar[tuple[str, ...]] = ()
    """The files of weights; the first that exists is read."""
    folders: ClassVar[tuple[str, ...]] = ()
    """Patterns of files that make their folder one transcoder, or one set, as those of weights do: what can be passed
    instead of a folder that has such folders in it."""
    checkpoints: ClassVar[tuple[str, ...]] = ()
    """Patterns of files each of which is a transcoder of its own: what can be passed instead of their folder."""
    other_names: ClassVar[tuple[str, ...]] = ()
    """Patterns of files that are read where their settings or tensors are those of this format alone."""
    settings: ClassVar[Settings] = Settings()
    own_settings: ClassVar[Set[str]] = frozenset()
    """Settings that are together in no other format."""
    own_tensors: ClassVar[Set[str]] = frozenset()
    """Tensors that are together in no other format."""
    by_name: ClassVar[bool] = True
    """Whether a file of one of these names is read whatever it holds, unless another format knows what it holds."""

    def __repr__(self) -> str:
        return line(type(self).__name__, {"title": self.title, "writes": self.writes})

    def function(self, config: Mapping[str, Any], found: Mapping[str, Any], files: Files) -> Function:
        """Return what the tensors stand for.

        Args:
            config: the settings, checked.
            found: the tensors, not checked yet.
            files: the files that both are from.

        Returns:
            The function.

        Raises:
            FormatError: the settings contradict each other.
        """
        raise NotImplementedError

    def is_own(self, settings: Set[str], tensors: Set[str]) -> bool:
        """Tell whether names are those of this format alone.

        Args:
            settings: the names of settings in a file.
            tensors: the names of tensors.

        Returns:
            Whether the settings or the tensors are.
        """
        return any(own and own <= there for own, there in ((self.own_settings, settings), (self.own_tensors, tensors)))

    def files(self, path: Path, layer: int | None = None) -> Files | None:
        """Find the files of a transcoder, from its folder or one of them.

        Args:
            path: the folder or file.
            layer: which layer of a set.

        Returns:
            The files, whether or not they exist; None for any other file.
        """
        by_itself = not path.is_dir() and path.name not in self.configs
        alone = (*(Path(name).name for name in self.weights), *self.checkpoints, *self.other_names)
        if by_itself and not any(path.match(pattern) for pattern in alone):
            return None
        folder = path if path.is_dir() else path.parent
        if by_itself and folder.name == "checkpoints" and not any((folder / name).exists() for name in self.configs):
            folder = folder.parent
        there = [folder / name for name in self.weights if (folder / name).exists()]
        configs = [folder / name for name in self.configs]
        return Files(
            folder,
            next((config for config in configs if config.exists()), configs[0] if configs else None),
            path if by_itself else (there or [folder / self.weights[0]])[0],
        )

    def likeness(self, path: Path) -> Likeness:
        """Judge how much a folder or file resembles the format, by names alone.

        Args:
            path: the folder or file.

        Returns:
            The likeness: NONE for whatever cannot be opened.
        """
        files = self.files(path)
        if files is None:
            return Likeness.NONE
        own = self.is_own(peek_settings(files.config).keys(), peek_names(files.weights))
        if files.weights.exists():
            named = self.by_name and any(files.weights.match(name) for name in (*self.weights, *self.checkpoints))
            return Likeness.CERTAIN if own else Likeness.WEIGHTS if named else Likeness.NONE
        config = files.config
        # every model on the hub has a config.json
        alone = self.by_name and config is not None and config.exists() and config.name != "config.json"
        return Likeness.SETTINGS if own or alone else Likeness.NONE

    def read(self, path: Path, request: Request) -> Transcoder:
        """Read the folder or file.

        Args:
            path: something that resembles the format.
            request: the options of `load_transcoder`.

        Returns:
            The transcoder.

        Raises:
            FormatError: as `read_files`.
        """
        files = self.files(path, request.layer)
        assert files is not None, "only what resembles the format is read"
        return self.read_files(files, request)

    def read_files(self, files: Files, request: Request) -> Transcoder:
        """Read one transcoder.

        Args:
            files: its files.
            request: the options of `load_transcoder`.

        Returns:
            The transcoder.

        Raises:
            FormatError: its files cannot be read, or say what is not understood.
        """
        config, found = self.opened(files)
        require_keys(self.title, files.weights, found)
        function = self.function(config, found, files)
        return self.build(function, config, found, files.config or files.weights, files.weights, request)

    def build(
        self, function: Function, config: Mapping[str, Any], found: Any, where: Where, file: Where, request: Request
    ) -> Transcoder:
        """Check the tensors of a file, and build the transcoder that they are.

        Args:
            function: what they stand for.
            config: the settings, checked.
            found: the tensors, not checked yet.
            where: what messages call the settings.
            file: what messages call the tensors.
            request: the options of `load_transcoder`.

        Returns:
            The transcoder.

        Raises:
            FormatError: tensors that are missing, unknown or do not fit; an autoencoder that was not asked for.
        """
        if function.autoencoder is not None:
            request.require_autoencoder(where, function.autoencoder)
        elif function.transcoder is not None:
            request.require_transcoder(where, function.transcoder)
        weights = function.tensors.check(
            function.title or self.title,
            file,
            found,
            sizes=self.settings.stated_sizes(config, where),
            device=request.device,
            dtype=torch.float64 if function.in_float64 else request.dtype,
        )
        parts: dict[str, Any] = function.tensors.parts(weights)
        if function.fold is not None:
            parts |= function.fold(weights, parts)
        if function.centre is not None:
            parts["b_enc"] = centred(parts["b_enc"], parts["W_enc"], weights[function.centre])
        if function.rectified:
            parts["threshold"] = parts["threshold"].clamp_min(0).to(parts["b_enc"]).expand(len(parts["b_enc"]))
        if function.in_float64:
            dtype = request.dtype or found[next(iter(function.tensors.needs))].dtype
            parts = {name: part.to(dtype) if isinstance(part, Tensor) else part for name, part in parts.items()}
        for name, part in parts.items():
            if isinstance(part, Tensor):
                require_finite(file, name, part)  # what was folded may have become too large
        metadata = {"source": self.source, **function.metadata}
        if function.autoencoder is not None:
            metadata["autoencoder"] = True
        return transcoder_of(**parts, **function.arguments, metadata=metadata, where=file)

    def opened(self, files: Files) -> tuple[Mapping[str, Any], Any]:
        """Read the files.

        Args:
            files: the files.

        Returns:
            The settings, checked, and what the file of weights holds.

        Raises:
            FormatError: a file is missing or damaged; a setting is missing, unknown, or has another value than is read.
        """
        if files.config is None:
            return {}, tensors_in(files.weights)
        config = self.settings.check(self.title, files.config, settings_in(self.title, files.config))
        return config, tensors_in(files.weights)
