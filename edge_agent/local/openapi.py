"""The OpenAPI 3.1 document of the local API, made from the operations and the models."""

import importlib.metadata
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from edge_agent.local.operation import Operation, Parameter, Reply
from edge_agent.local.problem import MEDIA_TYPE
from edge_agent.local.schema import ProblemDocument

ALWAYS_PROBLEMS = (403, 413, 421, 422, 500, 503)
"""Problems that any operation can answer with; 401 joins them where a token is asked for."""

_TEMPLATE = "#/components/schemas/{model}"


def document(operations: tuple[Operation, ...], *, with_token: bool) -> dict[str, Any]:
    """The whole document, ready to be written as JSON."""
    references, schemas = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, references, with_token=with_token
        )
    components: dict[str, Any] = {"schemas": schemas}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "CollaFuse Edge, local API",
            "version": importlib.metadata.version("collafuse-edge"),
            "description": "Images made by this device together with its server. Errors are problem documents (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }
    if with_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _schemas(
    operations: tuple[Operation, ...],
) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    """A reference for each model, and the schemas that they refer to."""
    bodies = {operation.body for operation in operations if operation.body}
    replies = {reply.model for operation in operations for reply in operation.replies if reply.model}
    wanted: list[tuple[type[BaseModel], Any]] = [
        *((model, "validation") for model in bodies),
        *((model, "serialization") for model in replies | {ProblemDocument}),
    ]
    wanted.sort(key=lambda pair: pair[0].__name__)
    references, top = models_json_schema(wanted, ref_template=_TEMPLATE)
    by_model = {
        model: reference for (model, _), reference in references.items() if issubclass(model, BaseModel)
    }
    return by_model, top["$defs"]


def _operation(
    operation: Operation, references: dict[type[BaseModel], dict[str, Any]], *, with_token: bool
) -> dict[str, Any]:
    problems = {*operation.problems, *ALWAYS_PROBLEMS, *((401,) if with_token else ())}
    if operation.path == "/healthz":
        problems.discard(401)
    answers = {str(reply.status): _reply(reply, references) for reply in operation.replies}
    for status in sorted(problems):
        answers[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": references[ProblemDocument]}},
        }
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": answers,
    }
    if operation.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": references[operation.body]}},
        }
    if operation.path == "/healthz":
        described["security"] = []
    return described


def _reply(reply: Reply, references: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    if reply.media_type is None:
        return {"description": reply.description}
    schema = references[reply.model] if reply.model else {}
    return {"description": reply.description, "content": {reply.media_type: {"schema": schema}}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema(),
    }
