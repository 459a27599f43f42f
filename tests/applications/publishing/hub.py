"""A small Hub on this machine, with the real one's interface for repositories and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """The requests that it received."""

    address: str = ""
    token: str = "hf_right"
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """owner/name → path → bytes."""
    private: dict[str, bool] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """sha256 → large files, uploaded before a commit names them."""
    commits: list[str] = field(default_factory=list)
    validated: list[str] = field(default_factory=list)
    asked: int = 0
    """Requests of any kind."""


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _mode(path: str) -> str:
    """The upload mode that a new repository's .gitattributes sets."""
    return "lfs" if path.endswith((".safetensors", ".png")) else "regular"


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hub.asked += 1
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._say(401, {"error": "Invalid credentials in Authorization header"})
            path = self.path.partition("?")[0].split("/")
            if self.path == "/api/repos/create":
                return self._create(json.loads(body))
            if self.path == "/api/validate-yaml":
                hub.validated.append(json.loads(body)["content"])
                return self._say(200, {"errors": [], "warnings": []})
            if self.path.endswith(".git/info/lfs/objects/batch"):
                return self._where_blobs_go(json.loads(body))
            repository = "/".join(path[3:5])
            if repository not in hub.repositories:
                return self._say(404, {"error": "Repository not found"})
            if path[5] == "preupload":
                files = json.loads(body)["files"]
                modes = [
                    {"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False}
                    for f in files
                ]
                return self._say(200, {"files": modes})
            return self._commit(repository, [json.loads(line) for line in body.splitlines()])

        def _create(self, request: dict[str, Any]) -> None:
            name = f"{request['organization']}/{request['name']}"
            if name in hub.repositories:
                return self._say(409, {"error": "exists", "url": f"{hub.address}/{name}"})
            hub.repositories[name] = {}
            hub.private[name] = request.get("visibility") == "private"
            return self._say(200, {"url": f"{hub.address}/{name}"})

        def _where_blobs_go(self, request: dict[str, Any]) -> None:
            objects = []
            for blob in request["objects"]:
                upload = {"upload": {"href": f"{hub.address}/blobs/{blob['oid']}"}}
                actions = {} if blob["oid"] in hub.blobs else {"actions": upload}
                objects.append({**blob, **actions})
            self._say(200, {"transfer": "basic", "objects": objects})

        def do_PUT(self) -> None:
            hub.asked += 1
            data = self.rfile.read(int(self.headers["Content-Length"]))
            oid = self.path.rpartition("/")[2]
            if hashlib.sha256(data).hexdigest() != oid:
                return self._say(422, {"error": "sha256 differs"})
            hub.blobs[oid] = data
            return self._say(200, {})

        def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
            for line in lines:
                if line["key"] == "header":
                    hub.commits.append(line["value"]["summary"])
                    continue
                large = line["key"] == "lfsFile"
                value = line["value"]
                if large != (_mode(value["path"]) == "lfs") or (
                    large and value["oid"] not in hub.blobs
                ):
                    return self._say(400, {"error": f"no content for {value['path']}"})
                data = hub.blobs[value["oid"]] if large else base64.b64decode(value["content"])
                hub.repositories[repository][value["path"]] = data
            oid = "c" * 40
            url = f"{hub.address}/{repository}/commit/{oid}"
            return self._say(
                200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}
            )

        def do_GET(self) -> None:
            hub.asked += 1
            self._say(404, {"error": "not here"})

        do_HEAD = do_GET

        def _say(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
