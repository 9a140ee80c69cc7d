"""The web application: the operations of the API, the page, and the guard before both."""

import json
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from edge_agent.local.access import Guard
from edge_agent.local.device_answers import StatusBoard
from edge_agent.local.office import Office
from edge_agent.local.openapi import document
from edge_agent.local.operation import Operation
from edge_agent.local.operations import OPERATIONS
from edge_agent.local.page_answers import Page
from edge_agent.local.problem import Problem, answer_of

Endpoint = Callable[[Request], Awaitable[Response]]


def make_application(office: Office) -> ASGIApp:
    """Everything that is served, ready for an ASGI server."""
    page = Page(office.access)
    described = json.dumps(document(OPERATIONS, with_token=office.access.token is not None)).encode()

    async def openapi(_request: Request) -> Response:
        return Response(described, media_type="application/json")

    routes = [
        *_operation_routes(office),
        Route("/openapi.json", openapi),
        Route("/", page.show),
        Route("/page/{name}", page.file),
        Route(
            "/login",
            _by_method({"GET": page.login_form, "HEAD": page.login_form, "POST": page.login}),
            methods=["GET", "POST"],
        ),
        Route("/logout", page.logout, methods=["POST"]),
    ]
    application = Starlette(routes=routes, exception_handlers={HTTPException: _refused})
    application.router.redirect_slashes = False
    application.state.board = StatusBoard()
    return Guard(application, office.access)


def _operation_routes(office: Office) -> list[Route]:
    """One route per path, so that a method which it lacks is answered with those that it has."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for operation in OPERATIONS:
        endpoint = _endpoint(office, operation)
        methods = by_path.setdefault(operation.path, {})
        methods[operation.method] = endpoint
        if operation.method == "GET":
            methods["HEAD"] = endpoint
    return [Route(path, _by_method(methods), methods=list(methods)) for path, methods in by_path.items()]


def _endpoint(office: Office, operation: Operation) -> Endpoint:
    async def respond(request: Request) -> Response:
        return await operation.respond(office, request)

    return respond


def _by_method(endpoints: dict[str, Endpoint]) -> Endpoint:
    async def respond(request: Request) -> Response:
        return await endpoints[request.method](request)

    return respond


async def _refused(_request: Request, error: Exception) -> Response:
    """What the router refuses: an address that is not there, a method that it does not have."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        words = "this address does not take that method: see the header Allow"
        return answer_of(Problem(405, "method_not_allowed", words, dict(error.headers or {})))
    if error.status_code == 404:
        return answer_of(Problem(404, "not_found", "there is nothing under this address: see /openapi.json"))
    return answer_of(Problem(error.status_code, "refused", str(error.detail)))
