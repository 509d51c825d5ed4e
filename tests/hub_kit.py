"""A Hugging Face Hub on this machine: the few routes that a push takes, and what was pushed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Repo:
    kind: str
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """Repositories by name; `fail` is the route (`create`, `commit`) that answers 403; `tokens` are those given."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    fail: str = ""
    tokens: set[str] = field(default_factory=set)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A server on a free port of the loopback, until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

        def answer(self, code: int, body: Any, **headers: str) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:  # the server's name for it
            _, _, kind, org, name, *_ = self.path.partition("?")[0].split("/")
            repo = hub.repos.get(f"{org}/{name}")
            if repo is None or f"{repo.kind}s" != kind:
                self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                return
            self.answer(200, {"id": f"{org}/{name}", "private": repo.private, "sha": "0" * 40, "siblings": []})

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            if (hub.fail == "create" and path == "/api/repos/create") or (hub.fail == "commit" and "/commit/" in path):
                self.answer(403, {"error": "You may not do that"})
            elif path == "/api/repos/create":
                said = json.loads(data)
                name = f"{said['organization']}/{said['name']}"
                hub.repos[name] = Repo(said.get("type", "model"), said.get("visibility") == "private")
                self.answer(200, {"url": f"{hub.url}/{name}"})
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in path:
                names = [file["path"] for file in json.loads(data)["files"]]
                modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                self.answer(200, {"files": modes})
            elif "/commit/" in path:
                _, _, _, org, name, *_ = path.split("/")
                repo = hub.repos[f"{org}/{name}"]
                for line in map(json.loads, data.splitlines()):
                    if line["key"] == "header":
                        repo.messages.append(line["value"]["summary"])
                    else:
                        repo.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer(200, {"commitUrl": f"{hub.url}/{org}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})
            else:
                self.answer(404, {"error": f"no route {path}"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
