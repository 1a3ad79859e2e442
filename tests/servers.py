"""A local HTTP server whose answers are scripted: honest ones, broken ones, lies, errors; and small archives."""

import contextlib
import io
import re
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


FILES = {f"val2017/{i:012d}.jpg": noise(3000, i) for i in range(20)}
BODY = zipped(FILES)


class Handler(BaseHTTPRequestHandler):
    """Answers with the next behaviour of the server's script; honestly once that is empty."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        behaviour = self.server.script.pop(0) if self.server.script else honest
        # A client that has heard enough hangs up.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            behaviour(self, self.server.content.get(self.path, BODY), start)

    def begin(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


Behaviour = Callable[[Handler, bytes, int], None]


def honest(handler: Handler, body: bytes, start: int, upto: int | None = None) -> None:
    """The rest that was asked for; the connection ends at byte `upto` of the file."""
    if start >= len(body):
        handler.begin(416, Content_Range=f"bytes */{len(body)}")
    elif start:
        range_ = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.begin(206, Content_Range=range_, Content_Length=len(body) - start)
    else:
        handler.begin(200, Content_Length=len(body))
    if start < len(body):
        handler.wfile.write(body[start:upto])


def breaks_at(upto: int) -> Behaviour:
    return partial(honest, upto=upto)


def whole(
    handler: Handler, body: bytes, start: int, length: int | None = None, upto: int | None = None
) -> None:
    """No ranges; any Content-Length."""
    handler.begin(200, Content_Length=len(body) if length is None else length)
    handler.wfile.write(body[:upto])


def unannounced(handler: Handler, body: bytes, start: int) -> None:
    handler.begin(200)
    handler.wfile.write(body)


def other_part(handler: Handler, body: bytes, start: int, announced: str | None = None) -> None:
    """Bytes from 7 on, whatever was asked for."""
    if not start:
        return honest(handler, body, start, upto=1000)
    handler.begin(206, Content_Range=announced or f"bytes 7-{len(body) - 1}/{len(body)}")
    handler.wfile.write(body[7:])


def error(status: int, **headers: object) -> Behaviour:
    def answer(handler: Handler, body: bytes, start: int) -> None:
        handler.begin(status, **headers)
        handler.wfile.write(b"<html>sorry</html>")

    return answer


def page(handler: Handler, body: bytes, start: int) -> None:
    handler.begin(200, Content_Type="text/html")
    handler.wfile.write(b"<html>Please log in to this network</html>")


def silent(handler: Handler, body: bytes, start: int) -> None:
    handler.server.ended.wait(20)


def stalls_at(upto: int) -> Behaviour:
    def answer(handler: Handler, body: bytes, start: int) -> None:
        honest(handler, body, start, upto)
        handler.server.ended.wait(20)

    return answer


def hangs_up(handler: Handler, body: bytes, start: int) -> None:
    pass


@contextlib.contextmanager
def serving() -> Iterator[ThreadingHTTPServer]:
    """A server with `url`; `script`, `asked` (the Range of each request) and `content` (by path) are the test's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.script, server.asked, server.content = [], [], {}
    server.ended = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port of this machine at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]
