"""The page itself: its files, and the login form where a token is asked for."""

import html
import importlib.resources
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge_agent.local.access import COOKIE, COOKIE_SECONDS, Access, read_body
from edge_agent.local.problem import Problem, answer_of

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PROBLEM_MARK = "<!-- problem -->"
_LOGOUT_MARK = b"<!-- logout -->"
_LOGOUT = b'<form method="post" action="/logout"><button class="text" type="submit">Log out</button></form>'


class Page:
    """The files of the page, read once."""

    def __init__(self, access: Access) -> None:
        self._access = access
        folder = importlib.resources.files("edge_agent.local") / "page"
        self._files = {
            file.name: file.read_bytes()
            for file in folder.iterdir()
            if file.name.rpartition(".")[2] in _MEDIA_TYPES
        }
        if access.token is not None:
            self._files["index.html"] = self._files["index.html"].replace(_LOGOUT_MARK, _LOGOUT)

    async def show(self, _request: Request) -> Response:
        """The page."""
        return self._file("index.html")

    async def file(self, request: Request) -> Response:
        """A file of the page; only what was found at the start is ever served."""
        name = request.path_params["name"]
        if name not in self._files or name.endswith(".html"):
            return answer_of(Problem(404, "not_found", "there is nothing under this address"))
        return self._file(name)

    async def login_form(self, _request: Request) -> Response:
        """The form that asks for the token; where none is needed, the page."""
        if self._access.token is None:
            return RedirectResponse("/", 303)
        return self._file("login.html")

    async def login(self, request: Request) -> Response:
        """Compare the token of the form; set the cookie if it is right."""
        try:
            fields = parse_qs((await read_body(request)).decode("utf-8", "replace"), max_num_fields=8)
        except Problem as problem:
            return answer_of(problem)
        except ValueError:
            fields = {}
        if not self._access.is_token(fields.get("token", [""])[0].strip()):
            return self._refused("That is not the token of this device.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE, self._access.session(), COOKIE_SECONDS, path="/", httponly=True, samesite="strict"
        )
        return answer

    async def logout(self, _request: Request) -> Response:
        """Forget the login in this browser."""
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    def _refused(self, words: str) -> Response:
        page = self._files["login.html"].decode()
        shown = page.replace(_PROBLEM_MARK, f'<p class="problem" role="alert">{html.escape(words)}</p>')
        return Response(shown, 401, media_type=_MEDIA_TYPES["html"])

    def _file(self, name: str) -> Response:
        kind = _MEDIA_TYPES[name.rpartition(".")[2]]
        # Named in the headers whole: starlette would add a charset to what has one.
        return Response(self._files[name], headers={"Content-Type": kind, "Cache-Control": "no-cache"})
