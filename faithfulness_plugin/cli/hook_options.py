"""Options of commands on finished transcoders: their names, the model, the tensors that they read and write, how files
are read."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from faithfulness_plugin.cli.rows import RowOptions, row_settings
from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.hub_path import HubPath, is_hub_path
from faithfulness_plugin.messages import say

if TYPE_CHECKING:  # at run time the commands that need one import it
    from faithfulness_plugin.language_model.loaded import LoadedModel


class TranscoderOptions(RowOptions):
    """A finished transcoder, and what it is looked at on."""

    hook_in: str | None = Field(
        default=None, description="the tensor that the transcoder reads, named as in TransformerLens or Hugging Face"
    )
    hook_out: str | None = Field(default=None, description="the tensor that the transcoder writes")
    autoencoder: bool = Field(
        default=False, description="the file holds an autoencoder: take it as a map of one tensor to itself"
    )
    dtype: Literal["float32", "stored"] = Field(
        default="float32", description="dtype of the transcoder's weights; stored keeps the file's"
    )
    model: str | None = Field(
        default=None,
        description="a name on the hub, a folder, or smollm2, which needs no hub [default: what the file names]",
    )
    model_anyway: bool = Field(default=False, description="use --model, though the file names another model")
    text: list[str] = Field(
        default_factory=list, description="text files to run the model on [default: the examples' text]"
    )
    prompts: int | None = Field(default=None, ge=1, description="how many prompts to look at")
    tokens: int | None = Field(
        default=None, ge=2, description="about how many tokens to look at, in place of --prompts"
    )
    context_size: int = Field(default=128, ge=2, description="tokens a prompt")
    device: str = Field(default="cpu", description="where models run: cpu or cuda")

    @model_validator(mode="after")
    def _one_amount(self) -> "TranscoderOptions":
        if self.prompts is not None and self.tokens is not None:
            raise ValueError(f"--prompts {self.prompts} and --tokens {self.tokens}: pass one of them")
        return self

    def n_prompts(self, otherwise: int) -> int:
        """Count the prompts that were asked for.

        Args:
            otherwise: how many, where nothing was asked for.

        Returns:
            Prompts.
        """
        if self.tokens is not None:
            return -(-self.tokens // self.context_size)
        return otherwise if self.prompts is None else self.prompts

    def reading(self, layer: int | None) -> dict[str, Any]:
        """Collect the arguments of `load_each` that these options say.

        Args:
            layer: of a set; None where the file names its tensors.

        Returns:
            Arguments by name.
        """
        return {"layer": layer, "device": self.device, "dtype": self.dtype, "autoencoder": self.autoencoder}


class SeededOptions(TranscoderOptions):
    """Options of commands that may contradict the file's tensors, and that draw something at random."""

    hooks_anyway: bool = Field(
        default=False, description="use --hook-in and --hook-out, though the file says other tensors"
    )
    seed: int = Field(default=0, ge=0, lt=2**61, description="seed of the order of prompts, and of all that is drawn")


def model_on_text(
    options: TranscoderOptions, transcoders: Mapping[str, Any], note: Callable[[str], None], seed: int = 0
) -> "tuple[LoadedModel, str | None]":
    """Load the model that transcoders name, or that was asked for, with the text that they are looked at on.

    Args:
        options: the model, the text and its rows.
        transcoders: by the name that messages call them.
        note: receives a line about what is being done.
        seed: decides the order of the prompts.

    Returns:
        The model; and the one that the transcoders name, where another one was asked for on purpose.

    Raises:
        UsageError: as `choose_model` and `LoadedModel`.
    """
    from faithfulness_plugin.language_model.config import ModelOnText, ModelSource, TextSource
    from faithfulness_plugin.language_model.loaded import LoadedModel
    from faithfulness_plugin.language_model.named_model import choose_model
    from faithfulness_plugin.language_model.rows import RowSettings

    chosen = choose_model(transcoders, options.model, anyway=options.model_anyway)
    if chosen.note is not None:
        say(chosen.note)
    wanted = ModelOnText(
        model=ModelSource(name=chosen.name),
        text=TextSource(files=options.text),
        rows=RowSettings(**row_settings(options.model_dump())),
        context_size=options.context_size,
        seed=seed,
        device=options.device,
    )
    return LoadedModel(wanted, note, plain=True), chosen.named


def by_name(given: Sequence[str]) -> dict[str, str]:
    """Name transcoders: as NAME=SOURCE says, or by the last part of the source, without the name of a file that all
    transcoders of a format have.

    A source may have "=" in it: what exists, begins with hf://, or has a "/" before its "=" is no NAME=SOURCE.

    Args:
        given: the command's arguments.

    Returns:
        Sources by name.

    Raises:
        UsageError: two of one name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, source = text.partition("=")
        if is_hub_path(text):
            of = HubPath.of(text)
            path, source = PurePosixPath(of.repo, of.path), text
            name = path.parent.name if path.stem == "params" else path.name
        elif not equals or Path(text).exists() or "/" in name:
            name, source = Path(text).resolve().name, text
        if name in found:
            raise UsageError(f"{text}: there is a {name} already; write NAME=FOLDER, with another name")
        found[name] = source
    return found
