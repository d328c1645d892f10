"""A folder behind http, with byte ranges, slow or broken on request; it counts what is asked."""

import contextlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class HttpFolder:
    """What is served: `gets` lists the names of whole files, `ranges` those of parts."""

    folder: Path
    url: str = ""
    chunk_seconds: float = 0.0
    status: int = 200
    gets: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        place, name = self.server.place, self.path.lstrip("/")
        path, asked = place.folder / name, self.headers.get("Range")
        if not path.is_file() or place.status != 200:
            self.send_response(404 if place.status == 200 else place.status)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = whole = path.read_bytes()
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            body = whole[int(first) : int(last) + 1]
        if with_body:
            (place.ranges if asked else place.gets).append(name)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.end_headers()
        if with_body:
            self._send(body, place.chunk_seconds)
        return None

    def _send(self, body, seconds):
        with contextlib.suppress(ConnectionError):  # the other side may have been killed
            for start in range(0, len(body), 256):
                self.wfile.write(body[start : start + 256])
                if seconds:
                    self.wfile.flush()
                    time.sleep(seconds)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder):
    """The folder as an HttpFolder, for as long as the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.place = HttpFolder(folder, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.place
        finally:
            server.shutdown()
            thread.join()
