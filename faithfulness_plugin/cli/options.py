"""Options of a command from the fields of a config, whose descriptions are their help."""

import inspect
import types
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from faithfulness_plugin.errors import UsageError

T_MODEL = TypeVar("T_MODEL", bound=BaseModel)

SCALARS = (bool, int, float, str)


def with_fields(*configs: type[BaseModel]) -> Callable[..., Callable[..., None]]:
    """Decorate a command that takes `given`, a dict of the fields that were passed, with an option for each field.

    Fields that no single option can give (records, dicts) have none: a YAML file gives them. A tuple of seeds is given
    by --seeds, their number, and --seed, the first one.

    Args:
        configs: records; the descriptions of their fields are the options' help.

    Returns:
        The decorator.
    """
    fields = {name: field for config in configs for name, field in config.model_fields.items()}
    seeds = fields.pop("seeds") if "seeds" in fields and _type(fields["seeds"]) == list[int] else None
    parameters = [_parameter(name, field) for name, field in fields.items() if _type(field)]
    if seeds is not None:
        many, first = "How many seeds", "The first seed [default: 0]"
        many += f" [default: {len(seeds.default)}]" if isinstance(seeds.default, tuple) else ""
        parameters += [_option("seeds", int, many), _option("seed", int, first)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def called(**values: Any) -> None:
            given = {p.name: values.pop(p.name) for p in parameters}
            given = {name: value for name, value in given.items() if value not in (None, [])}
            if seeds is not None:
                given |= _seeds(given.pop("seeds", None), given.pop("seed", None), seeds.default)
            command(**values, given=given)

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        called.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
            [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *parameters]
        )
        called.__annotations__ = {p.name: p.annotation for p in (*own, *parameters)}
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        return called

    return decorate


def _seeds(n: int | None, first: int | None, default: Any) -> dict[str, tuple[int, ...]]:
    if n is None and first is None:
        return {}
    if n is not None and n < 1:
        raise UsageError(f"--seeds {n}: at least one seed is needed")
    first = first or 0
    return {"seeds": tuple(range(first, first + (len(default) if n is None else n)))}


def made(config: type[T_MODEL], names: Mapping[str, str] = MappingProxyType({}), **fields: Any) -> T_MODEL:
    """Build a config from what options gave.

    Args:
        config: the record's class.
        names: options whose names differ from those of their fields, by field.
        fields: values by name.

    Returns:
        The config.

    Raises:
        UsageError: what does not fit, under the option's name.
    """
    try:
        return config(**fields)
    except ValidationError as error:
        raise UsageError(bad_option(error, names)) from error


def bad_option(error: ValidationError, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Describe the first thing that is wrong, under the name of its option.

    Args:
        error: from a config.
        names: as in `made`.

    Returns:
        One line.
    """
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    name = names.get(place) or place.partition(".")[0]
    option = f"--{name.replace('_', '-')}: " if name else ""
    return option + first["msg"].removeprefix("Value error, ")


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    text, default = (field.description or "").strip(), field.default
    if default not in (PydanticUndefined, None) and not isinstance(default, (BaseModel, dict)):
        shown = " ".join(str(part) for part in default) if isinstance(default, (list, tuple)) else default
        text += f" [default: {shown}]"
    return _option(name, _type(field), text[:1].upper() + text[1:])


def _option(name: str, kind: Any, text: str) -> inspect.Parameter:
    annotation = Annotated[kind | None, typer.Option(help=text, show_default=False)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _type(field: FieldInfo) -> Any:
    """Return a field's type as an option's: a scalar's, or a list of one; None where there is no such option."""
    return _option_type(field.annotation)


def _option_type(annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        names = (part.json_schema_input_type for part in arguments[1:] if isinstance(part, BeforeValidator))
        return _option_type(next(names, arguments[0]))
    if origin is Literal:
        return str  # the config itself says which there are
    if origin in (Union, types.UnionType):
        inner = [_option_type(part) for part in arguments if part is not type(None)]
        return inner[0] if len(inner) == 1 else None
    if origin in (list, tuple) and arguments:
        inner = _option_type(arguments[0])
        return list[inner] if inner in SCALARS else None
    return annotation if annotation in SCALARS else None
