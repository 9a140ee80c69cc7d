"""Command-line options made from a settings model, so that flags, variables and keys in a file cannot drift apart."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Command = Callable[..., None]


def options_of(settings: type[BaseModel], *, with_seconds: bool = False) -> Callable[[Command], Command]:
    """Give a command one option per field of `settings`; the command receives them as keyword arguments, None if not given.

    with_seconds: a field `step_seconds` becomes `--step-seconds`, which else would be `--step`.
    """

    def decorate(command: Command) -> Command:
        given = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        made = [_parameter(name, field, with_seconds) for name, field in settings.model_fields.items()]
        parameters = [*given, *made]
        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _parameter(name: str, field: FieldInfo, with_seconds: bool) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-').removesuffix('' if with_seconds else '-seconds')}"
    kind = _option_type(field.annotation)
    names = [f"{flag}/--no-{flag[2:]}" if kind is bool else flag]
    if _is_list(field.annotation) and flag.endswith("s"):
        names.append(flag[:-1])  # of a list with one member one speaks in the singular
    text = f"{field.description or name}{_shown_default(field)}"
    option = typer.Option(*names, help=text, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _option_type(annotation: Any) -> Any:
    """What typer makes of a field's type; anything it has no word for is text, which the settings then parse."""
    if get_origin(annotation) is Literal:
        return annotation
    members = [member for member in get_args(annotation) if member is not type(None)] or [annotation]
    return members[0] if members[0] in (bool, int, float, str, Path) and len(members) == 1 else str


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def _shown_default(field: FieldInfo) -> str:
    if field.default in (None, ()) or field.is_required():
        return ""
    value = field.default
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f" (default {shown})"
