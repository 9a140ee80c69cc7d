"""A management API that answers everything but the list of all queues: what a broker with very many of them is like."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from broker.node.local_node import NodeInfo


@dataclass
class Slow:
    """Where it answers; is_slow: whether it lists; asked: how often it was asked to."""

    url: str
    is_slow: bool = True
    asked: list[str] = field(default_factory=list)


@contextmanager
def slow_listing(node: NodeInfo) -> Iterator[Slow]:
    """Passes requests on to the node's API, and says 503 to those for the list, as a proxy does that waited too long."""
    slow = Slow("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_list = self.path.partition("?")[0] == f"/api/queues/{node.vhost}"
            if is_list:
                slow.asked.append(self.path)
            told = {"Authorization": self.headers["Authorization"], "Accept-Encoding": "identity"}
            answer = httpx.get(f"{node.management_url}{self.path}", headers=told, timeout=30)
            body = b"" if is_list and slow.is_slow else answer.content
            self.send_response(503 if is_list and slow.is_slow else answer.status_code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the standard library's
            """Nothing: the test's output is not for this."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        slow.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield slow
        finally:
            server.shutdown()
            thread.join()
