"""The parent's end of the pipe: one child process that scores videos, spoken to by lines of JSON.

videos + prompts -> child (outside/adapter.py, in its own environment) -> named numbers, or why there are none

The child loads a model of strangers, so anything may happen to it: it dies, hangs, prints, answers nonsense. One item
then fails by name and the rest go on; a child that cannot even start stops everything with one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from densedpo.errors import ConfigError, ModelError
from densedpo.outside.wire import BrokenError, Hello, Item, Scored, read_hello, read_message, read_scores, request

LARGEST_LINE = 1 << 20
MOST_DEATHS = 8  # items in a row that killed the child, before the adapter is taken to be broken
COMMAND_FILE = "adapter.json"
_CLOSE_S = 10.0
_LOG_BYTES = 4000


class AdapterError(ModelError):
    """An outside model cannot be started, or breaks down on everything."""


def parse_command(text: str, what: str) -> list[str]:
    """Return the command that starts an adapter: words of a shell without one, or a folder that ``doctor`` made.

    Raises:
        ConfigError: naming ``what`` (a setting or flag), if it is empty, has an open quote, or names no program.
    """
    made = Path(text).expanduser() / COMMAND_FILE if text else Path()
    if text and made.is_file():
        try:
            words = json.loads(made.read_text(encoding="utf-8"))["command"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise ConfigError(f"{made}: holds no command; make the environment again") from None
    else:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ConfigError(f"{what}: {error} in {text!r}") from None
    if not words:
        raise ConfigError(f"{what}: no command; `densedpo doctor --setup NAME` prints one")
    if shutil.which(words[0]) is None:
        raise ConfigError(f"{what}: no program {words[0]!r}; `densedpo doctor --setup NAME` says how to make it")
    return [str(word) for word in words]


class Adapter:
    """A child that scores videos. Starts with the first question; use it as a context manager, or ``close`` it.

    Threads may share it: they wait for each other.
    """

    def __init__(
        self, command: Sequence[str], log: Path, *, start_timeout_s: float = 1800.0, timeout_s: float = 600.0
    ) -> None:
        """Keep the command; ``log`` takes what the child prints.

        ``timeout_s`` is the longest silence while something is asked, for each video of a batch.
        """
        self._command, self._log = list(command), log
        self._start_timeout_s, self._timeout_s = start_timeout_s, timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._hello: Hello | None = None
        self._buffer = b""
        self._deaths = self._count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Adapter:
        """Return the adapter."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the child."""
        self.close()

    @property
    def hello(self) -> Hello:
        """What the child says of itself; starts it.

        Raises:
            AdapterError: if it cannot be started.
        """
        with self._lock:
            return self._start()

    @property
    def child_pid(self) -> int | None:
        """Process id of the running child, None where none runs."""
        return self._child.pid if self._child is not None else None

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, Scored]]:
        """Yield (place in ``items``, what was said), each exactly once, in the order of the answers.

        Where the child breaks down, what it had been asked is asked again, one by one, of a new child; what breaks that
        one too is set aside with its reason.

        Raises:
            AdapterError: if the child cannot be started, or breaks down on item after item.
        """
        flying: dict[int, int] = {}  # id on the wire -> place
        with self._lock:
            try:
                yield from self._score(items, flying)
            finally:
                if flying:  # nobody waits for these answers any more
                    self._stop()

    def _score(self, items: Sequence[Item], flying: dict[int, int]) -> Iterator[tuple[int, Scored]]:
        fresh, again = deque(range(len(items))), deque[int]()
        while fresh or again or flying:
            # what broke a child goes alone, so that it drags nothing along
            alone = bool(again)
            source = again if alone else fresh
            batch = min(self._start().batch, 1 if alone else len(items))
            try:
                while source and len(flying) < batch:
                    self._count += 1
                    flying[self._count] = source.popleft()
                    self._send(request(self._count, items[flying[self._count]]))
                while flying:
                    number, said = self._answer(flying, self._timeout_s * len(flying))
                    self._deaths = 0
                    yield flying.pop(number), said
            except BrokenError as broken:
                self._stop()
                places = list(flying.values())
                flying.clear()
                if not alone:
                    again.extend(places)
                    continue
                self._deaths += 1
                why = f"{broken}{self._last_words()}"
                if self._deaths >= MOST_DEATHS:
                    raise AdapterError(f"the adapter broke down on {self._deaths} videos in a row: {why}") from None
                for place in places:
                    yield place, Scored({}, why)

    def close(self) -> None:
        """End the child: close its input, then ask, then kill."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        try:
            child.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_CLOSE_S)
        _kill(child)

    def _start(self) -> Hello:
        if self._child is not None and self._hello is not None:
            return self._hello
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            log.write(f"--- {shlex.join(self._command)}\n".encode())
            log.flush()
            try:
                self._child = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise AdapterError(f"{self._command[0]}: cannot be started ({error.strerror})") from None
        self._buffer = b""
        try:
            hello = read_hello(self._message(time.monotonic() + self._start_timeout_s, self._start_timeout_s))
            if self._hello not in {None, hello}:
                raise BrokenError("says other things of itself than before")
        except BrokenError as broken:
            self._stop()
            raise AdapterError(
                f"adapter {shlex.join(self._command)!r} did not start: {broken}{self._last_words()}; "
                "`densedpo doctor --setup NAME` says how its environment is made"
            ) from None
        self._hello = hello
        return hello

    def _send(self, line: bytes) -> None:
        assert self._child is not None and self._child.stdin is not None
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _answer(self, flying: dict[int, int], timeout_s: float) -> tuple[int, Scored]:
        message = self._message(time.monotonic() + timeout_s, timeout_s)
        number = message.get("id")
        if not isinstance(number, int) or number not in flying:
            raise BrokenError(f"answered a question that was not asked (id {str(number)[:40]!r})")
        assert self._hello is not None
        return number, read_scores(message, self._hello.scores)

    def _message(self, deadline: float, timeout_s: float) -> dict[str, Any]:
        """Return the next message before ``deadline``; other lines go to the log."""
        while True:
            line = self._line(deadline, timeout_s).strip()
            message = read_message(line)
            if message is not None:
                return message
            with self._log.open("ab") as log:
                log.write(line + b"\n")

    def _line(self, deadline: float, timeout_s: float) -> bytes:
        assert self._child is not None and self._child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if len(self._buffer) > LARGEST_LINE:
                    raise BrokenError(f"sent a line above {LARGEST_LINE} bytes")
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise BrokenError(f"said nothing for {timeout_s:g} s")
                piece = os.read(self._child.stdout.fileno(), 1 << 16)
                if not piece:
                    raise self._died()
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> BrokenError:
        assert self._child is not None
        try:
            code = self._child.wait(1)
        except subprocess.TimeoutExpired:
            return BrokenError("closed its output")
        return BrokenError(f"died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            _kill(child)

    def _last_words(self) -> str:
        """Return the last line of the log and where it lies."""
        try:
            lines = self._log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").splitlines()
        except OSError:
            return ""
        said = [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("--- ")]
        return f"; last words: {said[-1][:300]!r} ({self._log})" if said else f" ({self._log})"


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    """Signal the child and what it started itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _kill(child: subprocess.Popen[bytes]) -> None:
    _signal(child, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
