"""Choose the language model that finished transcoders are measured on: the one that their metadata name."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from faithfulness_plugin.adapters import smollm2
from faithfulness_plugin.language_model.config import OFFLINE_MODEL, TrainConfigError

ANYWAY = "pass --model-anyway to use it all the same"


class ChosenModel(NamedTuple):
    """The model to load, and what has to be said about the choice."""

    name: str
    """A name on the hub, a folder, or the offline model."""
    named: str | None = None
    """The model that the transcoders name, where another one is used on purpose."""
    note: str | None = None
    """One line for the user, where the names leave a doubt."""


PROCESSING = ("center_writing_weights", "fold_ln")
"""How SAELens may have had TransformerLens change a model's weights, and with them the tensors of a block."""


def choose_model(transcoders: Mapping[str, Any], given: str | None, *, anyway: bool = False) -> ChosenModel:
    """Choose the model for transcoders that were loaded from files.

    Names are compared without their owner, and TransformerLens's short names count as what they stand for
    ("gpt2-small" is "openai-community/gpt2"). A folder is known by its own name, by the hub
    cache's folder above it, and by `_name_or_path` in its config.json. Where a transcoder was trained on a model with
    processed weights, the note says so: what is loaded is the model as it is.

    Args:
        transcoders: by the name that messages call them.
        given: the user's choice (--model); None takes the model that the metadata name.
        anyway: the user confirmed a model that contradicts the metadata.

    Raises:
        TrainConfigError: nobody names a model, the transcoders name several, or `given` is another one than theirs.
    """
    chosen = _chosen(transcoders, given, anyway=anyway)
    notes = [note for note in (chosen.note, *map(_processed, transcoders, transcoders.values())) if note is not None]
    return chosen._replace(note="; ".join(notes) or None)


def _processed(name: str, transcoder: Any) -> str | None:
    """Return a line for a transcoder of a model whose tensors TransformerLens has changed."""
    loaded = getattr(getattr(transcoder.cfg, "metadata", None), "model_from_pretrained_kwargs", None)
    done = [p for p in PROCESSING if loaded.get(p) is True] if isinstance(loaded, Mapping) else []
    if not done:
        return None
    return (
        f"note: {name} was trained on the model with processed weights ({', '.join(done)}), and is used on the model "
        "as it is, whose tensors may differ"
    )


def _chosen(transcoders: Mapping[str, Any], given: str | None, *, anyway: bool) -> ChosenModel:
    """Return the model alone, with what is to be said of its name. Raises TrainConfigError as `choose_model` does."""
    said = {name: str(named) for name, t in transcoders.items() if (named := _named_by(t)) is not None}
    if given is None:
        return ChosenModel(_loadable(_the_one(said, transcoders)))
    other = {name: named for name, named in said.items() if not _same(named, given)}
    if not other:
        return ChosenModel(given)
    if anyway:
        return ChosenModel(given, named=" and ".join(dict.fromkeys(other.values())))
    silent = Path(given).is_dir() and _stated(Path(given)) is None
    for name, named in other.items():
        if not silent or _can_be_told(named):
            raise TrainConfigError(
                f"{name} is a transcoder of the model {named}, and --model is {given}: leave it out, or {ANYWAY}"
            )
    (name, named), *rest = other.items()
    for another, model in rest:
        if not _same(model, named):
            raise TrainConfigError(
                f"{name} is of the model {named} and {another} of {model}: pass transcoders of one model together, or "
                f"{ANYWAY}"
            )
    note = f"note: {name} names the model {named}, and {given} does not say which model it is: taken as that one"
    return ChosenModel(given, note=note)


def _named_by(transcoder: Any) -> str | None:
    metadata = getattr(transcoder.cfg, "metadata", None)
    return getattr(metadata, "model_name", None) or getattr(metadata, "lm_name", None)


def _the_one(said: Mapping[str, str], transcoders: Mapping[str, Any]) -> str:
    """Return the model that all transcoders name. Raises TrainConfigError where there is no such one."""
    if silent := [name for name in transcoders if name not in said]:
        raise TrainConfigError(
            f"{silent[0]} does not name the model that it is of: pass --model, a name on the hub, a folder, or "
            f"{OFFLINE_MODEL}"
        )
    first, *rest = said.items()
    for name, named in rest:
        if not _same(named, first[1]):
            raise TrainConfigError(
                f"{first[0]} is of the model {first[1]} and {name} of {named}: pass transcoders of one model together"
            )
    return first[1]


def _loadable(named: str) -> str:
    """Return the name under which a model that metadata name can be loaded."""
    if named == smollm2.NAME:
        return OFFLINE_MODEL
    return named if "/" in named or Path(named).is_dir() else _official(named)


def _same(named: str, given: str) -> bool:
    if Path(given).is_dir():
        folder = Path(given).resolve()
        if Path(named).is_dir():
            return Path(named).resolve() == folder
        names = {folder.name, *(part.split("--")[-1] for part in folder.parts if part.startswith("models--"))}
        names |= {stated} if (stated := _stated(folder)) is not None else set()
        return _key(named) in {_key(name) for name in names}
    return _key(named) == _key(given)


def _key(name: str) -> str:
    """Return what two names of one model have in common."""
    if name in (smollm2.NAME, OFFLINE_MODEL):
        return smollm2.NAME
    return _official(name.rstrip("/")).rsplit("/", 1)[-1].lower()


def _stated(folder: Path) -> str | None:
    """Return the hub's name of the model in a folder, where its config.json has kept it."""
    try:
        stated = json.loads((folder / "config.json").read_text()).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return stated if isinstance(stated, str) and stated and not stated.startswith((".", "/", "~")) else None


def _can_be_told(named: str) -> bool:
    """Whether a name in metadata is that of one model: a folder that exists, one on the hub, the offline one."""
    known = named == smollm2.NAME or named.lower() in _aliases()
    return known or named.count("/") == 1 or Path(named).is_dir()


def _official(name: str) -> str:
    """Return what a short name of TransformerLens stands for; other names stay as they are."""
    return _aliases().get(name.lower(), name)


@cache
def _aliases() -> Mapping[str, str]:
    from transformer_lens.loading_from_pretrained import make_model_alias_map

    return make_model_alias_map()
