"""One operation of the local API: what it takes, what it answers, and who answers; routes and document are made from these."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from edge_agent.local.access import read_body
from edge_agent.local.office import Office
from edge_agent.local.problem import Problem, answer_of
from edge_agent.local.schema import JOB_ID

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Parameter:
    """A value in the path, the query or a header: a whole number within bounds, or a word that fits a pattern."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    pattern: str | None = None
    least: int = 0
    most: int = 0

    def read(self, text: str) -> str | int:
        """The value; raises Problem 404 for a path that leads nowhere, else 422."""
        if self.pattern is not None:
            if re.fullmatch(self.pattern.strip("^$"), text):
                return text
        elif _NUMBER.fullmatch(text) and self.least <= int(text) <= self.most:
            return int(text)
        if self.place == "path":
            raise Problem(404, "not_found", f"there is nothing under this address: {self._wanted()}")
        raise Problem(422, "bad_parameter", self._wanted())

    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        if self.pattern is not None:
            return {"type": "string", "pattern": self.pattern}
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def _wanted(self) -> str:
        if self.pattern is not None:
            return f"{self.name} has to be like {self.pattern}"
        return f"{self.name} has to be a whole number, {self.least} to {self.most}"


@dataclass(frozen=True)
class Reply:
    """One kind of answer: its status, what it means, and its content: a model, or a media type alone, or nothing."""

    status: int
    description: str
    model: type[BaseModel] | None = None
    media_type: str | None = "application/json"


@dataclass(frozen=True, eq=False)
class Call:
    """A request whose parameters and body have been read."""

    office: Office
    request: Request
    values: Mapping[str, Any]
    raw: bytes = b""
    body: Any = None


@dataclass(frozen=True, eq=False)
class Operation:
    """`name` is unique, `problems` are the statuses of the problem documents that it can answer with."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    name: str
    summary: str
    answer: Callable[[Call], Awaitable[Response]]
    replies: tuple[Reply, ...]
    parameters: tuple[Parameter, ...] = ()
    body: type[BaseModel] | None = None
    problems: tuple[int, ...] = ()

    async def respond(self, office: Office, request: Request) -> Response:
        """Read the request, answer it, and turn whatever goes wrong into a problem document."""
        try:
            values = self._read(request)
            raw = await read_body(request) if self.body else b""
            body = _validated(self.body, request, raw) if self.body else None
            return await self.answer(Call(office, request, values, raw, body))
        except Exception as error:  # noqa: BLE001  # one place turns errors into answers, and logs what nobody expected
            return answer_of(error)

    def _read(self, request: Request) -> dict[str, Any]:
        sources: dict[str, Mapping[str, str]] = {
            "path": request.path_params,
            "query": request.query_params,
            "header": request.headers,
        }
        known = {parameter.name for parameter in self.parameters if parameter.place == "query"}
        unknown = sorted(set(request.query_params) - known)
        if unknown or len(request.query_params.multi_items()) != len(request.query_params):
            words = f"there are {', '.join(sorted(known))}" if known else "there are none"
            raise Problem(422, "bad_parameter", f"a query parameter is unknown or given twice: {words}")
        return {
            parameter.name: parameter.read(sources[parameter.place][parameter.name])
            for parameter in self.parameters
            if parameter.name in sources[parameter.place]
        }


JOB = Parameter("job_id", "path", "id of the job", JOB_ID)
IMAGE = Parameter("n", "path", "which image of the job", least=0, most=1023)


def _validated(model: type[BaseModel], request: Request, raw: bytes) -> BaseModel:
    """The body as the model; raises Problem 415 or 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "not_json", "send JSON, with the header `Content-Type: application/json`")
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise Problem(422, "bad_body", f"{where[:64]}: {first['msg'][:200]}") from error
