"""The batch side of an OpenAI-compatible service on this machine: files, batches, and single questions as well.

Replies come from a ``FakeEndpoint`` that is never started. ``script`` says what becomes of each batch in turn, and
``trouble`` what becomes of requests by method and path, once each.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fake_endpoint import FakeEndpoint, Mind, honest


class FakeBatches:
    """A service; ``rows_of_files`` and the counters say what it was sent."""

    def __init__(self, mind: Mind = honest, *, polls: int = 2, new_limit_name: bool = False) -> None:
        self.endpoint = FakeEndpoint(mind)
        self.endpoint._loop.close()  # it is never started
        self.polls = polls
        self.new_limit_name = new_limit_name
        self.script: list[str] = []
        self.trouble: dict[str, list[str]] = {}
        self.calls: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.rows_of_files: list[list[dict[str, Any]]] = []
        self.sizes: list[int] = []
        self.asked_alone = 0
        self.url = ""
        self._looks: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def asked_in_batches(self) -> int:
        return sum(len(rows) for rows in self.rows_of_files)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        with self._lock:
            self.calls[f"{method} {path.split('/')[1]}"] += 1
            planned = self.trouble.get(f"{method} {path.split('/')[1]}", [])
            trouble = planned.pop(0) if planned else ""
            if trouble == "500":
                return 500, b'{"error": {"message": "down"}}'
            if trouble == "404":
                return 404, b'{"error": {"message": "no such thing"}}'
            status, value = self._routed(method, path, body)
            if trouble == "lost":  # done, but nobody hears of it
                return 500, b"{}"
            return status, value if isinstance(value, bytes) else json.dumps(value).encode()

    def _routed(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if path == "/chat/completions":
            return self._completion(json.loads(body), alone=True)
        if method == "POST" and path == "/files":
            return 200, {"id": self._upload(body), "object": "file", "bytes": 1, "created_at": 0, "filename": "x.jsonl",
                         "purpose": "batch", "status": "processed"}  # fmt: skip
        if method == "DELETE" and parts[0] == "files":
            return 200, {"id": parts[1], "object": "file", "deleted": self.files.pop(parts[1], None) is not None}
        if parts[0] == "files" and parts[-1] == "content":
            return 200, self.files[parts[1]]
        if method == "POST" and path == "/batches":
            return 200, self._create(json.loads(body))
        if path.startswith("/batches?") or path == "/batches":
            return 200, {"object": "list", "data": [*self.batches.values()][::-1], "has_more": False}
        if parts[0] == "batches":
            return 200, self._look(parts[1])
        return 404, {"error": {"message": f"no such path {path}"}}

    def _upload(self, body: bytes) -> str:
        content = next(part for part in body.split(b"\r\n--") if b"filename=" in part).split(b"\r\n\r\n", 1)[1]
        rows = [json.loads(line) for line in content.decode().splitlines() if line]
        assert len({row["custom_id"] for row in rows}) == len(rows)
        self.rows_of_files.append(rows)
        self.sizes.append(len(content.rstrip(b"\r\n")) + 1)
        name = f"file-{len(self.rows_of_files)}"
        self.files[name] = content
        return name

    def _create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        assert wanted["endpoint"] == "/v1/chat/completions" and wanted["completion_window"] == "24h"
        name = f"batch-{len(self.batches) + 1}"
        self.batches[name] = {
            "id": name, "object": "batch", "created_at": 0, "status": "validating", "metadata": wanted["metadata"],
            "endpoint": wanted["endpoint"], "completion_window": "24h", "input_file_id": wanted["input_file_id"],
            "end": self.script.pop(0) if self.script else "completed",
        }  # fmt: skip
        return self.batches[name]

    def _look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        self._looks[name] += 1
        if self._looks[name] < self.polls:
            batch["status"] = "in_progress"
        elif "output_file_id" not in batch and batch["status"] != "failed":
            self._end(batch)
        return batch

    def _end(self, batch: dict[str, Any]) -> None:
        """Finish: "completed", "failed", "expired" (half is answered) or "holes" (every third row is an error)."""
        end = batch["end"]
        batch["status"] = "completed" if end == "holes" else end
        if end == "failed":
            errors = [{"code": "token_limit_exceeded", "message": "too much at once", "line": None, "param": None}]
            batch["errors"] = {"object": "list", "data": errors}
            return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].decode().splitlines() if line]
        right: list[dict[str, Any]] = []
        wrong: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            status, body = self._completion(row["body"], alone=False)
            if (end == "holes" and number % 3 == 0) or (end == "expired" and number >= len(rows) // 2):
                status, body = 500, {"error": {"message": "expired", "code": "batch_expired"}}
            reply = {"status_code": status, "request_id": "r", "body": body}
            (right if status == 200 else wrong).append({"id": "x", "custom_id": row["custom_id"], "response": reply})
        noise = ["not json", json.dumps({"custom_id": "stranger", "response": None}), json.dumps(["list"]), ""]
        for kind, listed in (("output", right), ("error", wrong)):
            name = f"{batch['id']}-{kind}"
            self.files[name] = "\n".join([*noise, *map(json.dumps, listed[::-1])]).encode()
            batch[f"{kind}_file_id"] = name

    def _completion(self, request: dict[str, Any], *, alone: bool) -> tuple[int, Any]:
        if self.new_limit_name and "max_tokens" in request:
            return 400, {"error": {"message": "use max_completion_tokens instead", "code": "unsupported_parameter"}}
        self.asked_alone += alone
        return 200, self.endpoint._completion(request, "ok")


@contextmanager
def serving(service: FakeBatches) -> Iterator[FakeBatches]:
    """Serve on a port of this machine; ``service.url`` says where."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, found = service.answer(self.command, self.path.removeprefix("/v1"), body)
            with suppress(ConnectionError):  # whoever asked may be gone
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

        do_GET = do_POST = do_DELETE = _handle  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
