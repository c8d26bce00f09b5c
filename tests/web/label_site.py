"""A small stand-in for the label server: it keeps the contract of the page, in memory, and can be told to misbehave.

The page's own tests run against it, because it can lose its network, forget its replies and answer slowly on demand.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import mimetypes
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

import densedpo
from densedpo.clips.encode import write_video
from densedpo.labels.grid import SegmentGrid

STATIC = Path(densedpo.__file__).parent / "labels" / "people" / "static"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self' blob:; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
Json = dict[str, Any]


def numbered(count: int, size: int, shade: int) -> NDArray[np.uint8]:
    """Return frames [count, size, size, 3] that carry their number as eight black or white fields along the top."""
    frames = np.full((count, size, size, 3), 60 + shade, np.uint8)
    field_px = size // 8
    for index in range(count):
        for bit in range(8):
            frames[index, : size // 4, bit * field_px : (bit + 1) * field_px] = 235 if index >> bit & 1 else 20
        place = int(index / count * (size - field_px))
        frames[index, size // 2 : size // 2 + field_px, place : place + field_px] = (210, 70 + shade, 40)
    return frames


@dataclass
class Site:
    """The state of the stand-in; tests read what is stored and switch faults on."""

    folder: Path
    pairs: int = 4
    fps: float = 8.0
    num_frames: int = 40
    size: int = 64
    caption: str | None = "a red square drifting"
    whole: bool = False
    offers: tuple[int, ...] = ()
    stage: str = "work"
    role: str = "annotator"
    annotator: str = "Ada"
    token: str | None = None
    overview: Json = field(default_factory=dict)
    settings: Json = field(default_factory=dict)
    down: bool = False  # connections are cut before anything is stored
    mute: bool = False  # posts are stored, but the reply is lost
    events: list[Json] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    submitted: list[str] = field(default_factory=list)
    signed_in: bool = True
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def __post_init__(self) -> None:
        for side, shade in (("first", 0), ("second", 40)):
            frames = numbered(self.num_frames, self.size, shade)
            write_video(self.folder / f"{side}.mp4", frames, self.fps, profile="view")

    def start(self) -> http.server.ThreadingHTTPServer:
        site = self

        class Handler(_Handler):
            pass

        Handler.site = site
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        return server

    def current(self, task_id: str) -> dict[int, Json]:
        """Return the answers that count now, by segment: the highest seq wins."""
        best: dict[int, Json] = {}
        for event in sorted(self.events, key=lambda item: item["seq"]):
            if event["task_id"] == task_id:
                best[event["segment"]] = event
        return {segment: event for segment, event in best.items() if event["answer"] is not None}

    def letters(self, task_id: str) -> str:
        """Return the answers of a task as one letter a segment, "." where there is none."""
        letters = {"first": "1", "second": "2", "tie": "=", "both_bad": "x", "cannot_judge": "?"}
        now = self.current(task_id)
        count = SegmentGrid(self.num_frames, self.fps).num_segments
        return "".join(letters[now[index]["answer"]] if index in now else "." for index in range(count))

    def task(self, task_id: str) -> Json:
        grid = SegmentGrid(self.num_frames, self.fps)
        segments = []
        for index in range(grid.num_segments):
            frames, (start, end) = grid.frames_of(index), grid.bounds_s(index)
            segments.append(
                {
                    "index": index,
                    "start_s": start,
                    "end_s": end,
                    "first_frame": frames.start,
                    "num_frames": frames.stop - frames.start,
                    "offered": "tie" if index in self.offers else None,
                }
            )
        fields = ("segment", "answer", "tags", "note", "offered")
        side = max(self.size, 240 // self.size * self.size)
        return {
            "task_id": task_id,
            "lease_s": 600,
            "caption": self.caption,
            "fps": self.fps,
            "num_frames": self.num_frames,
            "width": side,
            "height": side,
            "segments": segments,
            "media": {name: f"/media/{hashlib.sha256(f'{task_id}{name}'.encode()).hexdigest()[:24]}" for name in SIDES},
            "answers": [{name: event[name] for name in fields} for event in self.current(task_id).values()],
            "whole": self.whole,
            "kind": "work",
            "submitted": task_id in self.submitted,
        }

    def me(self) -> Json:
        done = len(self.submitted)
        progress = {"done": done, "total": self.pairs, "seconds_left": 40.0 * (self.pairs - done)}
        progress |= {"team_done": done, "team_total": 2 * self.pairs}
        settings = {"show_caption": self.caption is not None, "segment_s": 1.0, "tie_offer": True, **self.settings}
        return {
            "annotator": self.annotator,
            "role": self.role,
            "settings": settings,
            "progress": progress,
            "stage": self.stage,
        }

    def answer(self, method: str, path: str, body: Json) -> tuple[int, Json | None]:
        """Return status and reply of one call."""
        if path == "/api/session":
            self.signed_in = self.token is None or body.get("token") == self.token
            return (200, {}) if self.signed_in else (403, {"error": "this invite is not valid; ask for a new one"})
        if not self.signed_in:
            return 401, {"error": "sign in first", "needs_token": self.token is not None}
        if method == "GET":
            return self._get(path)
        if path == "/api/answers":
            return self._store(body)
        if path == "/api/submit":
            return self._submit(body["task_id"])
        if path == "/api/stage":
            self.stage = "work"
            return 200, self.me()
        if path == "/api/next":
            left = [name for name in self.names if name not in self.submitted][: body["count"]]
            return 200, {"tasks": [self.task(name) for name in left]}
        if path == "/api/admin/invite":
            return 200, {"link": f"{self.url}/#token={body['name']}-{body['role']}"}
        return (200, {"lease_s": 600}) if path == "/api/heartbeat" else (404, {"error": "no such page"})

    @property
    def names(self) -> list[str]:
        return [f"task{index}" for index in range(self.pairs)]

    def _get(self, path: str) -> tuple[int, Json]:
        if path == "/api/me":
            return 200, self.me()
        if path == "/api/history":
            rows = [self.task(name) for name in self.names if name in self.submitted or self.current(name)]
            found = [
                {
                    "task_id": row["task_id"],
                    "caption": row["caption"],
                    "answered": len(row["answers"]),
                    "total": len(row["segments"]),
                    "submitted": row["submitted"],
                    "at": "2026-11-20T10:00:00Z",
                    "kind": "work",
                }
                for row in rows
            ]
            return 200, {"tasks": found[::-1]}
        if path.startswith("/api/task/") and path.rpartition("/")[2] in self.names:
            return 200, self.task(path.rpartition("/")[2])
        if path == "/api/admin/overview":
            return (200, self.overview) if self.role == "admin" else (403, {"error": "only an admin may see this"})
        return 404, {"error": "no such page"}

    def _store(self, body: Json) -> tuple[int, Json]:
        if body["key"] not in self.keys:
            self.keys.add(body["key"])
            for answer in body["answers"]:
                self.events.append({**answer, "task_id": body["task_id"], "seq": body["seq"], "key": body["key"]})
        return 200, {"stored": len(body["answers"]), "complete": False}

    def _submit(self, task_id: str) -> tuple[int, Json]:
        if task_id not in self.submitted:
            self.submitted.append(task_id)
        if self.stage != "qualification":
            return 200, {"stored": 1, "complete": True}
        if len(self.submitted) == self.pairs:
            self.stage = "done"
        now = self.current(task_id)
        why = "the shape jumps in the second video"
        feedback = [
            {"segment": index, "expected": "first", "correct": now[index]["answer"] == "first", "why": why}
            for index in sorted(now)
            if index >= 0
        ]
        return 200, {"stored": 1, "complete": True, "feedback": feedback}


SIDES = ("first", "second")


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(HTTPStatus(status))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", CSP)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def _file(self, path: str) -> None:
        pages = {"/": "index.html", "/admin": "admin.html"}
        known = {f"/static/{item.relative_to(STATIC)}": item for item in STATIC.rglob("*") if item.is_file()}
        file = STATIC / pages[path] if path in pages else known.get(path)
        if file is None:
            self._send(404, b"{}", "application/json")
            return
        self._send(200, file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream")

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.site.requests.append(path)
        if self.site.down:
            self._cut()
        elif path.startswith("/media/"):
            name = next(
                side for side in SIDES for task in self.site.names if self.site.task(task)["media"][side] == path
            )
            self._send(200, (self.site.folder / f"{name}.mp4").read_bytes(), "video/mp4")
        elif path.startswith("/api/"):
            self._reply("GET", path, {})
        else:
            self._file(path)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        path = urlsplit(self.path).path
        self.site.requests.append(path)
        if self.site.down:
            self._cut()
        else:
            self._reply("POST", path, body)

    def _reply(self, method: str, path: str, body: Json) -> None:
        with self.site.lock:
            status, value = self.site.answer(method, path, body)
        if self.site.mute and method == "POST":
            self._cut()
            return
        self._send(status, json.dumps(value).encode(), "application/json")


def until(condition: Any, seconds: float = 30.0) -> None:
    """Wait until ``condition()`` holds; fail if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def holds(page: Any, expression: str, seconds: float = 30.0) -> None:
    """Wait until a JavaScript expression is true (the page's policy forbids Playwright's own way of waiting)."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(40)
