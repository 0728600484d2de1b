"""A hub on this machine, for what the real client libraries ask of one: repository facts, file trees, files."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "c0ffee" + "0" * 34


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve folder/datasets/OWNER/NAME and folder/models/OWNER/NAME; yields the endpoint's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    folder: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        asked = self.rfile.read(length)
        self.answer(body=True, asked=asked)

    def answer(self, *, body: bool, asked: bytes = b"") -> None:
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if parts[0] == "api":
            repository = self.folder.joinpath(*parts[1:4])
            if not repository.is_dir():
                self.send(404, b'{"error": "Repository not found"}', body, {"X-Error-Code": "RepoNotFound"})
            elif parts[4:5] == ["tree"]:
                below = "/".join(parts[6:])
                self.send(200, json.dumps([e for e in entries(repository) if e["path"].startswith(below)]).encode(), body)
            elif parts[4:5] == ["paths-info"]:
                wanted = json.loads(asked)["paths"] if asked[:1] == b"{" else []
                self.send(200, json.dumps([e for e in entries(repository) if e["path"] in wanted]).encode(), body)
            else:
                facts = {"id": "/".join(parts[2:4]), "sha": COMMIT, "private": False, "gated": False, "disabled": False, "tags": []}
                facts["siblings"] = [{"rfilename": e["path"]} for e in entries(repository)]
                self.send(200, json.dumps(facts).encode(), body)
        elif "resolve" in parts:
            at = parts.index("resolve")
            kind = "datasets" if parts[0] == "datasets" else "models"
            file = self.folder.joinpath(kind, *parts[at - 2 : at], *parts[at + 2 :])
            if file.is_file():
                data = file.read_bytes()
                self.send(200, data, body, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
            else:
                self.send(404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.send(404, b"{}", body)

    def send(self, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def entries(repository: Path) -> list[dict]:
    """The file tree as the hub lists it."""
    files = [file for file in sorted(repository.rglob("*")) if file.is_file()]
    return [
        {
            "type": "file",
            "path": file.relative_to(repository).as_posix(),
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }
        for file in files
    ]
