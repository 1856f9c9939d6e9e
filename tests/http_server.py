"""A small HTTP server on this machine whose replies a test writes: what stands for vLLM's server, a judge, a service.

The fixture `serve` (conftest.py) starts one with an answer function and stops it at the end of the test.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A server whose `answer(body, number)` gives a reply, (status, headers, text), or None to hang up."""

    def __init__(self, answer):
        self.answer, self.seen, self.lock = answer, [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    number = len(outer.seen)
                    outer.seen.append((time.monotonic(), dict(self.headers), body))
                answer = outer.answer(body, number)
                if answer is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, headers, text = (200, {}, json.dumps(answer)) if isinstance(answer, dict) else answer
                with contextlib.suppress(OSError):  # a client that no longer waits
                    self.send_response(status)
                    for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    @property
    def bodies(self) -> list[dict]:
        return [body for _, _, body in self.seen]
