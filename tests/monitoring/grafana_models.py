"""Judges a dashboard by the models that Grafana publishes of its own files (grafana-foundation-sdk, of the Grafana that we run).

They read leniently: an unknown key is passed over, and a value may be of any type. So what they made of a file is held against
the file itself, and every attribute against its annotation.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, get_type_hints

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard, units
from pydantic import ConfigDict, TypeAdapter, ValidationError

UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
"""Every unit that Grafana knows."""


def complaints(document: dict[str, Any]) -> list[str]:
    """What is wrong with a dashboard, by the place in it; nothing when Grafana takes it as it is meant."""
    register_default_plugins()
    model = dashboard.Dashboard.from_json(document)
    for panel in model.panels or []:
        _read_the_rest(panel)
    written = json.loads(json.dumps(model, cls=JSONEncoder))
    return [*_lost(document, written, ""), *_mistyped(model, "")]


def _read_the_rest(panel: dashboard.Panel | dashboard.RowPanel) -> None:
    """The models leave these two of a panel as they stand in the file."""
    if isinstance(panel, dashboard.Panel):
        panel.links = [dashboard.DashboardLink.from_json(each) for each in _raw(panel.links)]
        panel.transformations = [
            dashboard.DataTransformerConfig.from_json(each) for each in _raw(panel.transformations)
        ]


def _raw(value: Any) -> list[dict[str, Any]]:
    return value or []


def _lost(ours: Any, theirs: Any, place: str) -> Iterator[str]:
    """What does not come back as it was; that the models add what was left out is no fault."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from _lost(value, theirs[key], f"{place}.{key}")
            elif value is not None:
                yield f"{place}.{key}: Grafana knows no such key"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _lost(mine, other, f"{place}[{number}]")
    elif ours != theirs:
        yield f"{place}: {ours!r} becomes {theirs!r}"


def _mistyped(model: Any, place: str) -> Iterator[str]:
    """Attributes whose values are not what their annotations say, all the way down."""
    if isinstance(model, list):
        for number, each in enumerate(model):
            yield from _mistyped(each, f"{place}[{number}]")
    elif hasattr(model, "to_json"):
        hints = get_type_hints(type(model))
        for name, value in vars(model).items():
            try:
                _adapter(hints[name]).validate_python(value)
            except ValidationError as error:
                yield f"{place}.{name}: {error.errors()[0]['msg']}"
            yield from _mistyped(value, f"{place}.{name}")


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
