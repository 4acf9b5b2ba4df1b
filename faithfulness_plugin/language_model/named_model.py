"""Choose the language model that finished transcoders are measured on: the one that their metadata name."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from faithfulness_plugin.language_model.config import OFFLINE_MODEL, ModelSource, TrainConfigError
from faithfulness_plugin.language_model.model import model_title

if TYPE_CHECKING:  # at run time a type is no reason to load SAELens
    from sae_lens import SAE

ANYWAY = "pass --model-anyway to use it all the same"
PROCESSING = ("center_writing_weights", "fold_ln")
"""How SAELens may have had TransformerLens change a model's weights, and with them the tensors of a block."""


class ChosenModel(NamedTuple):
    """The model to load, and what has to be said about the choice."""

    name: str
    """A name on the hub, a folder, or the offline model."""
    named: str | None = None
    """The model that the transcoders name, where another one is used on purpose."""
    note: str | None = None
    """One line for the user, where the names leave a doubt."""


def choose_model(transcoders: "Mapping[str, SAE[Any]]", given: str | None, *, anyway: bool = False) -> ChosenModel:
    """Choose the model for transcoders that were loaded from files.

    Names are compared without their owner, and TransformerLens's short names count as what they stand for ("gpt2-small"
    is "openai-community/gpt2"). A folder is known by its own name, by the hub cache's folder above it, and by
    `_name_or_path` in its config.json. Where a transcoder was trained on a model with processed weights, the note says
    so: what is loaded is the model as it is.

    Args:
        transcoders: by the name that messages call them.
        given: the user's choice (--model); None takes the model that the metadata name.
        anyway: the user confirmed a model that contradicts the metadata.

    Returns:
        The model's name, and what has to be said about the choice.

    Raises:
        TrainConfigError: nobody names a model, the transcoders name several, or `given` is another one than theirs.
    """
    named = {name: model for name, t in transcoders.items() if (model := _named_by(t)) is not None}
    if given is None:
        if silent := [name for name in transcoders if name not in named]:
            raise TrainConfigError(
                f"{silent[0]} does not name its model: pass --model, a name on the hub, a folder, or {OFFLINE_MODEL}"
            )
        _require_one(named, "pass transcoders of one model together")
        chosen = ChosenModel(_loadable(next(iter(named.values()))))
    else:
        chosen = _given(named, given, anyway)
    notes = [note for note in (chosen.note, *map(_processed, transcoders, transcoders.values())) if note is not None]
    return chosen._replace(note="; ".join(notes) or None)


def _given(named: Mapping[str, str], given: str, anyway: bool) -> ChosenModel:
    """Check the user's choice against what transcoders name."""
    other = {name: model for name, model in named.items() if not _same(model, given)}
    if not other:
        return ChosenModel(given)
    if anyway:
        return ChosenModel(given, named=" and ".join(dict.fromkeys(other.values())))
    anonymous = Path(given).is_dir() and _stated(Path(given)) is None
    for name, model in other.items():
        if not anonymous or _names_one_model(model):
            raise TrainConfigError(
                f"{name} is a transcoder of the model {model}, and --model is {given}: leave it out, or {ANYWAY}"
            )
    _require_one(other, f"pass transcoders of one model together, or {ANYWAY}")
    name, model = next(iter(other.items()))
    note = f"note: {name} names the model {model}, and {given} does not say which model it is: taken as that one"
    return ChosenModel(given, note=note)


def _require_one(named: Mapping[str, str], advice: str) -> None:
    (first, model), *rest = named.items()
    for other, another in rest:
        if not _same(another, model):
            raise TrainConfigError(f"{first} is of the model {model} and {other} of {another}: {advice}")


def _processed(name: str, transcoder: "SAE[Any]") -> str | None:
    """Return a line for a transcoder of a model whose tensors TransformerLens has changed."""
    loaded = getattr(getattr(transcoder.cfg, "metadata", None), "model_from_pretrained_kwargs", None)
    done = [p for p in PROCESSING if loaded.get(p) is True] if isinstance(loaded, Mapping) else []
    if not done:
        return None
    return (
        f"note: {name} was trained on the model with processed weights ({', '.join(done)}), and is used on the model "
        "as it is, whose tensors may differ"
    )


def _named_by(transcoder: "SAE[Any]") -> str | None:
    metadata = getattr(transcoder.cfg, "metadata", None)
    model = getattr(metadata, "model_name", None) or getattr(metadata, "lm_name", None)
    return None if model is None else str(model)


def _offline() -> str:
    return model_title(ModelSource())


def _loadable(named: str) -> str:
    """Return the name under which a model that metadata name can be loaded."""
    if named == _offline():
        return OFFLINE_MODEL
    return named if "/" in named or Path(named).is_dir() else _official(named)


def _same(named: str, given: str) -> bool:
    if not Path(given).is_dir():
        return _key(named) == _key(given)
    folder = Path(given).resolve()
    if Path(named).is_dir():
        return Path(named).resolve() == folder
    cached = [part.split("--")[-1] for part in folder.parts if part.startswith("models--")]
    names = [folder.name, *cached, _stated(folder) or folder.name]
    return _key(named) in map(_key, names)


def _key(name: str) -> str:
    """Return what two names of one model have in common."""
    if name in (_offline(), OFFLINE_MODEL):
        return _offline()
    return _official(name.rstrip("/")).rsplit("/", 1)[-1].lower()


def _stated(folder: Path) -> str | None:
    """Read the hub's name of the model in a folder, where its config.json has kept it."""
    try:
        stated = json.loads((folder / "config.json").read_text()).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return stated if isinstance(stated, str) and stated and not stated.startswith((".", "/", "~")) else None


def _names_one_model(named: str) -> bool:
    """Check that a name in metadata is that of one model: a folder that exists, one on the hub, the offline one."""
    known = named == _offline() or named.lower() in _aliases()
    return known or named.count("/") == 1 or Path(named).is_dir()


def _official(name: str) -> str:
    """Return what a short name of TransformerLens stands for; other names stay as they are."""
    return _aliases().get(name.lower(), name)


@cache
def _aliases() -> Mapping[str, str]:
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    names = ((alias, official) for official, aliases in MODEL_ALIASES.items() for alias in aliases)
    return {name.lower(): official for name, official in [*names, *((name, name) for name in OFFICIAL_MODEL_NAMES)]}
