"""A stand-in of the Hugging Face hub's interface on this machine, for its own client."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import huggingface_hub

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories of models in memory: made, committed to, listed and read as on the hub."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        """Of the commits."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Nothing is printed."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self.answer({"files": modes})
        else:
            self.commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)

    def create(self, request) -> None:
        name = request["name"] if "/" in request["name"] else f"me/{request['name']}"
        if request.get("organization"):
            name = f"{request['organization']}/{request['name']}"
        exists = name in self.server.repositories
        self.server.repositories.setdefault(name, {})
        self.answer({"url": f"{self.server.url}/{name}"}, 409 if exists else 200)

    def commit(self, name, body) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            else:
                assert value["encoding"] == "base64"
                content = base64.b64decode(value["content"])
                self.server.repositories[name][value["path"]] = content
        self.answer({"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path == "api/whoami-v2":
            self.answer({"name": "me", "type": "user", "orgs": []})
            return
        if path.startswith("api/models/"):
            name = "/".join(path.split("/")[2:4])
            if name not in self.server.repositories:
                self.answer({}, 404, "RepoNotFound")
                return
            files = self.server.repositories[name]
            if "/tree/" in path:
                entries = [(file, len(content)) for file, content in files.items()]
                self.answer(
                    [{"type": "file", "path": p, "size": s, "oid": COMMIT} for p, s in entries]
                )
                return
            listed = [{"rfilename": file} for file in files]
            self.answer({"id": name, "sha": COMMIT, "siblings": listed, "tags": []})
            return
        repository, _, file = path.partition("/resolve/")
        file = file.partition("/")[2]
        files = self.server.repositories.get(repository, {})
        if file not in files:
            self.answer({}, 404, "EntryNotFound" if files else "RepoNotFound")
            return
        self.answer(files[file])

    do_HEAD = do_GET

    def answer(self, content, status=200, error=None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def local_hub() -> Iterator[Hub]:
    """The stand-in, which the hub's client talks to as long as this lasts."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    try:
        with (
            mock.patch.object(constants, "ENDPOINT", hub.url),
            mock.patch.object(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template),
            mock.patch.object(huggingface_hub.hf_api.api, "endpoint", hub.url),
        ):
            yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
