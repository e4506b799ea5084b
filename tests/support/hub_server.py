"""A stand-in for the Hugging Face Hub on this machine: the few answers that pushing a dataset takes, over real HTTP."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_standin"


@dataclass
class Hub:
    """What the server holds."""

    url: str = ""
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of each dataset."""
    private: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)
    """Titles."""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON; None where there is nothing of the kind."""
        if (method, path) == ("POST", "/api/repos/create"):
            return self._create(json.loads(body))
        if (method, path) == ("POST", "/api/validate-yaml"):
            return 200, {"errors": [], "warnings": []}
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(\w+)/main.*)?", path)
        if found is None or found[1] not in self.datasets:
            return 404, None
        files = self.datasets[found[1]]
        match method, found[2]:
            case "GET", "tree":
                return 200, [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in files.items()
                ]
            case "GET", _:
                return 200, {"id": found[1], "sha": "0" * 40, "siblings": [{"rfilename": name} for name in files]}
            case "POST", "preupload":
                named = json.loads(body)["files"]
                return 200, {"files": [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in named]}
            case "POST", "commit":
                return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        return 404, None

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
        assert asked["type"] == "dataset"
        if name in self.datasets:
            return 409, {"url": f"{self.url}/datasets/{name}"}
        self.datasets[name] = {".gitattributes": b""}
        if asked.get("private") or asked.get("visibility") == "private":
            self.private.add(name)
        return 200, {"url": f"{self.url}/datasets/{name}"}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        files = self.datasets[name]
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.commits.append(value["summary"])
                case "file":
                    assert value["encoding"] == "base64"
                    files[value["path"]] = base64.b64decode(value["content"])
                case "deletedFile":
                    del files[value["path"]]
        commit = f"{self.url}/datasets/{name}/commit/{'0' * 40}"
        return 200, {"success": True, "commitUrl": commit, "commitOid": "0" * 40}


@contextmanager
def served() -> Iterator[Hub]:
    """A server on a free port, which knows `TOKEN` alone."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, found = 401, {"error": "Invalid credentials in Authorization header"}
            else:
                status, found = hub.answer(self.command, urlsplit(self.path).path, body)
            content = json.dumps({"error": "Repository not found"} if status == 404 else found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _respond  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()
