"""Stands before a tracking server and treats requests as its mood is."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy:
    """An HTTP server that asks the real one.

    Attributes:
        mood: well: passes everything on; silent: accepts and says nothing; slow: half a second late;
            forgetful: passes requests on and closes before the answer.
        forgets: How often it is forgetful of requests to paths that end so.
        asked: Requests so far.
        answered: Those that were answered.
        uri: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self.mood, self.asked, self.answered = "well", 0, 0
        self.forgets: dict[str, int] = {}
        self._server = QuietServer(("127.0.0.1", 0), _handler(self, port))
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.mood = "well"
        self._server.shutdown()
        self._server.server_close()


class QuietServer(ThreadingHTTPServer):
    """Clients that gave up are no news."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def _handler(proxy: Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    def handle(self: BaseHTTPRequestHandler) -> None:
        proxy.asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        silent = proxy.mood == "silent"
        while proxy.mood == "silent":
            time.sleep(0.05)
        if silent:
            self.close_connection = True
            return
        status, kind, content = _ask(port, self, body)
        if proxy.mood == "forgetful" or _forgotten(proxy, self.path):
            self.close_connection = True
            return
        if proxy.mood == "slow":
            time.sleep(0.5)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        proxy.answered += 1

    verbs = {f"do_{verb}": handle for verb in ("GET", "POST", "PUT", "PATCH")}
    return type("Handler", (BaseHTTPRequestHandler,), verbs | {"log_message": lambda *arguments: None})


def _forgotten(proxy: Proxy, path: str) -> bool:
    for ending, left in proxy.forgets.items():
        if left and path.endswith(ending):
            proxy.forgets[ending] = left - 1
            return True
    return False


def _ask(port: int, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str, bytes]:
    """Status, content type and content of the real server's answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {name: value for name, value in request.headers.items() if name != "Connection"}
    connection.request(request.command, request.path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.getheader("Content-Type", "application/json"), content
