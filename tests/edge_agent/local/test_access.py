import socket
from pathlib import Path

import httpx
import pytest

from edge_agent.local.access import COOKIE
from tests.conftest import wait_until
from tests.edge_agent.agents import NOWHERE, Process, collafuse, edge_json
from tests.edge_agent.local.agents import Serve, Served

TOKEN = "correct-horse-battery-staple"


def ask(page: Served, method: str, path: str, **headers: str) -> httpx.Response:
    return httpx.request(
        method, f"{page.url}{path}", json={"count": 1} if method == "POST" else None, headers=headers
    )


def agent_on(folder: Path, *flags: object) -> Process:
    """An agent without a broker, whose page is not waited for."""
    where = ("--state", folder / "st", "--broker-url", NOWHERE)
    return Process(folder / "agent.log", "edge", "run", *where, *flags)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Host": "localhost:1234"}, 202),
        ({"Host": "[::1]:1234"}, 202),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "localhost.evil.example:8480"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
    ],
)
def test_on_the_loopback_only_this_machine_and_its_own_page_may_ask(
    offline_page: Served, headers: dict[str, str], status: int
) -> None:
    assert ask(offline_page, "POST", "/v1/images", **headers).status_code == status


def test_the_pages_own_origin_may_ask_and_another_port_may_not(offline_page: Served) -> None:
    assert ask(offline_page, "POST", "/v1/images", Origin=offline_page.url).status_code == 202
    assert ask(offline_page, "POST", "/v1/images", Origin="http://127.0.0.1:1").status_code == 403


def test_foreign_pages_may_link_here_but_not_read(offline_page: Served) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert ask(offline_page, "GET", "/", **foreign, **{"Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert ask(offline_page, "GET", "/v1/jobs", **foreign, **{"Sec-Fetch-Mode": "no-cors"}).status_code == 403


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/v1/status", "/nowhere", "/v1/jobs?limit=0"])
def test_every_answer_has_the_security_headers(offline_page: Served, path: str) -> None:
    headers = offline_page.http.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_with_a_token_nothing_is_told_without_it(serve: Serve) -> None:
    page = serve(NOWHERE, token=TOKEN)
    for path in ("/v1/status", "/v1/jobs", "/openapi.json", "/metrics", "/page/page.js", "/nowhere"):
        assert ask(page, "GET", path).status_code == 401
        assert ask(page, "GET", path, Authorization=f"Bearer {TOKEN}x").status_code == 401
    assert ask(page, "POST", "/v1/images").headers["www-authenticate"] == "Bearer"
    assert ask(page, "GET", "/").headers["location"] == "/login"
    assert page.http.get("/v1/status").status_code == 200
    assert ask(page, "GET", "/healthz").json() == {"status": "ok"}
    assert ask(page, "GET", "/v1/status", Host="device.example", Authorization=f"Bearer {TOKEN}").is_success
    assert TOKEN not in page.process.log.read_text()


def test_a_browser_logs_in_with_the_token_and_out_again(serve: Serve) -> None:
    page = serve(NOWHERE, token=TOKEN)
    with httpx.Client(base_url=page.url) as browser:
        refused = browser.post("/login", data={"token": "wrong"})
        assert (refused.status_code, "not the token" in refused.text) == (401, True)
        assert COOKIE not in browser.cookies
        foreign = browser.post("/login", data={"token": TOKEN}, headers={"Origin": "http://evil.example"})
        assert foreign.status_code == 403

        welcome = browser.post("/login", data={"token": TOKEN}, headers={"Origin": page.url})
        cookie = welcome.headers["set-cookie"].lower()
        assert (welcome.status_code, welcome.headers["location"]) == (303, "/")
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert "Log out" in browser.get("/").text
        assert browser.post("/v1/images", json={"count": 1}).status_code == 202

        assert browser.post("/logout").headers["location"] == "/login"
        assert browser.get("/v1/status").status_code == 401


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--api-address", "0.0.0.0"), "opens the local page to the network"),
        (("--api-address", "device.example"), "opens the local page to the network"),
        (("--api-token", "short"), "no good token"),
    ],
)
def test_a_page_open_to_the_network_without_a_token_is_refused_at_the_start(
    tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    done = collafuse("edge", "run", "--state", tmp_path, "--broker-url", NOWHERE, *flags)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_reported_and_tried_again_while_the_agent_works(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        late = agent_on(tmp_path, "--api-port", port)
        wait_until(lambda: bool(late.events("page_not_served")), "the taken port is reported")
        wait_until(lambda: bool(late.events("agent_started")), "the agent works without its page")
        assert f":{port}" in late.events("page_not_served")[0]["error"]
    try:
        wait_until(lambda: bool(late.events("page_listening")), "the page is served when the port is free")
        assert len(late.events("page_not_served")) == 1, "said once, not at every try"
        shown = httpx.get(f"http://127.0.0.1:{port}/v1/status").json()
        assert (shown["agent"]["api_port"], shown["agent"]["api_error"]) == (port, None)
    finally:
        assert late.stop() == 0


def test_without_a_page_no_port_is_opened(tmp_path: Path) -> None:
    agent = agent_on(tmp_path, "--no-api")
    try:
        wait_until(lambda: bool(agent.events("agent_started")), "the agent starts")
        wait_until(
            lambda: edge_json("status", "--state", tmp_path / "st")["agent"]["running"], "it says how it is"
        )
        assert edge_json("status", "--state", tmp_path / "st")["agent"]["api_port"] is None
        assert not agent.events("page_listening")
    finally:
        assert agent.stop() == 0
