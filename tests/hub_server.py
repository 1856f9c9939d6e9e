"""A model hub on this machine: folders served over HTTP in the way huggingface_hub, datasets and transformers ask.

    with Hub(tmp_path / "hub") as hub:      # hub/models/owner/name/…, hub/datasets/owner/name/…
        done = hub.python("…", home=tmp_path / "home")

The libraries read HF_ENDPOINT and HF_HOME when they are imported, so what talks to the hub runs in a process of its
own. Every request is kept in `hub.requests`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|preupload|commit)/([^/]+)(?:/(.+))?)?"
)
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Request:
    """One request: method, path, the token it carried ("" for none), its status and the bytes sent for it."""

    method: str
    path: str
    token: str
    status: int = 0
    sent: int = 0


@dataclass
class Hub:
    """The server; `private` and `gated` map a repository's name to the token that may read it, `writer` is the one
    token that may make repositories and write to them."""

    folder: Path
    private: dict[str, str] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    writer: str | None = None
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Hub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def environment(self, home: Path, token: str = "") -> dict[str, str]:
        """This process's environment with the hub in the place of the real one and an empty cache in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
        added = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "PYTHONPATH": path, "COLUMNS": "250"}
        added["HF_HUB_DISABLE_XET"] = "1"  # the hub's other way to store files, on servers of its own
        # Whatever stands between this machine and the network has no business between two of its processes.
        return {
            **kept,
            **added,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **({"HF_TOKEN": token} if token else {}),
        }

    def python(self, *words: str, home: Path, token: str = "") -> subprocess.CompletedProcess:
        """Run Python with these words (`-c`, code, …) against the hub."""
        environment = self.environment(home, token)
        return subprocess.run(
            [sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
        )

    def downloads(self, pattern: str) -> list[Request]:
        """The requests for contents of files whose path matches `pattern`."""
        return [r for r in self.requests if r.method == "GET" and r.status in (200, 206) and re.search(pattern, r.path)]


class _Handler(BaseHTTPRequestHandler):
    """Answers for the hub that a class made of this one names."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.request_record = Request(self.command, path, token)
        self.hub.requests.append(self.request_record)
        match = _API.fullmatch(path)
        if path in ("/api/repos/create", "/api/validate-yaml") or (match and match[3] in ("preupload", "commit")):
            if token == self.hub.writer:
                self._write(path, match, token, body)
            else:
                self._refuse(401, "", "Invalid username or password.")
        elif match:
            kind, name, what, _, inside = match.groups()
            if folder := self._repository(kind, name, token):
                self._api(folder, name, what, inside or "", body)
        elif match := _RESOLVE.fullmatch(path):
            kind, name, _, file = match.groups()
            if folder := self._repository("datasets" if kind else "models", name, token):
                self._file(folder, file)
        else:
            self._refuse(404, "", "no such page")

    def _repository(self, kind: str, name: str, token: str) -> Path | None:
        """Its folder, or None after the refusal that the real hub gives."""
        folder = self.hub.folder / kind / name
        if not folder.is_dir() or self.hub.private.get(name, token) != token:
            # The hub does not tell whether a repository is private or absent.
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif self.hub.gated.get(name, token) != token:
            self._refuse(403 if token else 401, "GatedRepo", f"Access to {name} is restricted")
        else:
            return folder
        return None

    def _write(self, path: str, match: re.Match | None, token: str, body: bytes) -> None:
        """Make a repository, or add files to one: all of them within the commit, however large."""
        if match is None:
            asked = json.loads(body)
            if path == "/api/validate-yaml":
                self._send(200, json.dumps({"errors": [], "warnings": []}).encode())
                return
            name, kind = f"{asked['organization']}/{asked['name']}", f"{asked.get('type', 'model')}s"
            told = {"url": f"{self.hub.url}/{'' if kind == 'models' else f'{kind}/'}{name}"}
            if (self.hub.folder / kind / name).is_dir():
                self._send(409, json.dumps(told | {"error": "You already created this repository"}).encode())
                return
            (self.hub.folder / kind / name).mkdir(parents=True)
            if asked.get("visibility") == "private":
                self.hub.private[name] = token
            self._send(200, json.dumps(told).encode())
        elif match[3] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in files]
            self._send(200, json.dumps({"files": modes}).encode())
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = self.hub.folder / match[1] / match[2] / line["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            done = {"success": True, "commitUrl": f"{self.hub.url}/{match[2]}/commit/{COMMIT}", "commitOid": COMMIT}
            self._send(200, json.dumps(done | {"hookOutput": ""}).encode())

    def _api(self, folder: Path, name: str, what: str | None, inside: str, body: bytes) -> None:
        if what in (None, "revision"):
            files = [{"rfilename": entry["path"]} for entry in _entries(folder, "", True) if entry["type"] == "file"]
            facts = {"id": name, "_id": "1", "sha": COMMIT, "private": name in self.hub.private, "siblings": files}
            self._send(200, json.dumps(facts | {"tags": [], "downloads": 0, "likes": 0}).encode())
        elif what == "tree":
            if inside and not (folder / inside).is_dir():
                self._refuse(404, "EntryNotFound", f"{inside} does not exist")
            else:
                recursive = "recursive=true" in self.path.lower()
                self._send(200, json.dumps(_entries(folder, inside, recursive)).encode())
        else:
            asked = json.loads(body)["paths"]
            found = [_entry(folder, folder / path) for path in asked if (folder / path).exists()]
            self._send(200, json.dumps(found).encode())

    def _file(self, folder: Path, file: str) -> None:
        path = folder / file
        if not path.is_file():
            self._refuse(404, "EntryNotFound", f"{file} does not exist")
            return
        content = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(206, content[first : last + 1], headers, "application/octet-stream")
        else:
            self._send(200, content, headers, "application/octet-stream")

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.request_record.status = status
        if self.command != "HEAD":
            self.request_record.sent = len(body)
            self.wfile.write(body)


def _entries(folder: Path, inside: str, recursive: bool) -> list[dict]:
    found = (folder / inside).rglob("*") if recursive else (folder / inside).iterdir()
    return [_entry(folder, path) for path in sorted(found)]


def _entry(folder: Path, path: Path) -> dict:
    """A file or folder as the hub lists it; every object has the hash of its path for an id."""
    name = str(path.relative_to(folder))
    entry = {"path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "type": "directory"}
    return {**entry, "type": "file", "size": path.stat().st_size} if path.is_file() else entry
