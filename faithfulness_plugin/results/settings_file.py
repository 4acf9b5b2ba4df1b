"""Settings from YAML files and from options, as records; what does not fit is refused by name."""

import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.nearest import nearest

T_CONFIG = TypeVar("T_CONFIG", bound=BaseModel)


class Numbers(yaml.SafeLoader):
    """YAML's safe loader, to which 2e4 and 1e-3 are numbers, as people mean them."""


Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class SettingsError(UsageError):
    """Settings that cannot be used; the message says what to do."""


def read_settings(path: Path) -> dict[str, Any]:
    """Read settings by name from a YAML file.

    Args:
        path: the file.

    Returns:
        Names and values; empty for an empty file.

    Raises:
        SettingsError: the file cannot be read, or holds no settings.
    """
    try:
        settings = yaml.load(path.read_text(), Loader=Numbers)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except (yaml.YAMLError, ValueError) as error:  # also bytes that are not text, and impossible dates
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        raise SettingsError(f"{path} is not valid YAML ({one_line(error)}{place})") from error
    if settings is None:
        settings = {}
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise SettingsError(f"{path} holds no settings by name: write lines such as `tokens: 300000`")
    return settings


def make_config(settings: dict[str, Any], where: str, config: type[T_CONFIG]) -> T_CONFIG:
    """Build a record from settings.

    Args:
        settings: values by name.
        where: what the settings were read from, for messages.
        config: the record's class.

    Returns:
        The record.

    Raises:
        SettingsError: a name that does not exist, or a value that does not fit.
    """
    try:
        return config(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            model: type[BaseModel] = config
            for part in first["loc"][:-1]:
                if isinstance(part, str):
                    model = next(iter(_records(model.model_fields[part].annotation)), model)
            inside = [n for n, keys in getattr(config, "INSIDE", {}).items() if name in keys]
            if inside:
                raise SettingsError(
                    f"{where}: {name} belongs under {inside[0]}:, as {inside[0]}: {{{name}: ...}}"
                ) from error
            raise SettingsError(f"{where}: {unknown_setting(name, list(model.model_fields))}") from error
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{where}: {name + ': ' if name else ''}{message}") from error


def unknown_setting(name: str, known: list[str]) -> str:
    """Explain that a setting does not exist, with the closest match.

    Args:
        name: what was given.
        known: the settings that exist.

    Returns:
        A clause for an error message.
    """
    return f"there is no setting {name}: {nearest(name.rsplit('.', 1)[-1], known)}"


def _records(annotation: Any) -> list[type[BaseModel]]:
    """Find the records in a field's type, such as those of list[Record] or Record | None."""
    inside = [record for part in get_args(annotation) for record in _records(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else inside
