"""The batch side of an OpenAI-compatible service: files go up, batches run, files come down.

All that labels/judges/batch.py needs of the network, with the client's exceptions turned into ours.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from densedpo.config import service_key
from densedpo.errors import ConfigError
from densedpo.labels.judges.answerer import Reply
from densedpo.labels.judges.base import ServiceError
from densedpo.labels.judges.wire import CONTENT_CODES, one_line, reply_in

if TYPE_CHECKING:
    from openai import OpenAI

    from densedpo.config import JudgeSettings

_RETRIES = 5
_MOST_LINE_BYTES = 2_000_000
_MARK = "densedpo"
ENDED = {"completed", "failed", "expired", "cancelled"}


@dataclass(frozen=True)
class BatchStatus:
    """How far a batch is: the service's word for it, rows done, the files that hold its replies, and errors if any."""

    status: str
    done: int
    files: tuple[str, ...]
    why: str


class BatchService:
    """One service, reached by a client of its own. Failures that pass are tried again by the client."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Prepare to reach the service that ``settings`` name.

        Raises:
            ConfigError: if the client is not installed, or the key is none that can be sent.
        """
        try:
            from openai import OpenAI
        except ImportError:
            raise ConfigError("judge.batch: needs the package openai; run `pip install 'densedpo[judges]'`") from None
        key = service_key("judge.key_variable", settings.key_variable)
        self._url = settings.base_url
        self._client: OpenAI = OpenAI(
            base_url=settings.base_url, api_key=key, timeout=settings.timeout_s, max_retries=_RETRIES
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def upload(self, path: Path) -> str:
        """Return the service's id of the file at ``path``, uploaded.

        Raises:
            ConfigError: if the service knows no such thing, or refuses the key.
            ServiceError: if it fails.
        """
        with self._naming_errors(), path.open("rb") as file:
            return self._client.files.create(file=(path.name, file), purpose="batch").id

    def start(self, file_id: str, mark: str) -> str:
        """Return the id of the batch over an uploaded file, started under a ``mark`` of ours.

        It is never started twice: if the response was lost, the batch is found by its mark.

        Raises:
            ConfigError: if the service refuses it.
            ServiceError: if it fails.
        """
        from densedpo.labels.judges.trouble import TROUBLES, trouble_of

        careful = self._client.with_options(max_retries=0)
        for attempt in range(_RETRIES):
            found = self.find(mark)
            if found is not None:
                return found
            try:
                with self._naming_errors():
                    return careful.batches.create(
                        input_file_id=file_id,
                        endpoint="/v1/chat/completions",
                        completion_window="24h",
                        metadata={_MARK: mark},
                    ).id
            except ServiceError as error:
                cause = error.__cause__
                passing = isinstance(cause, TROUBLES) and trouble_of(cause).kind == "again"
                if not passing or attempt == _RETRIES - 1:
                    raise
            time.sleep(min(0.5 * 2**attempt, 8.0))
        raise AssertionError

    def find(self, mark: str) -> str | None:
        """Return the id of the batch started under ``mark``, if it is among the latest 100.

        Raises:
            ConfigError: if the service knows no batches, or refuses the key.
            ServiceError: if it fails.
        """
        with self._naming_errors():
            listed = self._client.batches.list(limit=100).data
        return next((batch.id for batch in listed if (batch.metadata or {}).get(_MARK) == mark), None)

    def look(self, batch_id: str) -> BatchStatus:
        """Return how far a batch is.

        Raises:
            ConfigError: if the service does not know it.
            ServiceError: if it fails.
        """
        with self._naming_errors():
            batch = self._client.batches.retrieve(batch_id)
        errors = (batch.errors.data or []) if batch.errors else []
        why = "; ".join(f"{error.code}: {error.message}" for error in errors)
        files = tuple(name for name in (batch.output_file_id, batch.error_file_id) if name)
        done = (batch.request_counts.completed + batch.request_counts.failed) if batch.request_counts else 0
        return BatchStatus(batch.status, done, files, one_line(why) if why else "")

    def replies(self, file_id: str) -> Iterator[tuple[str, Reply]]:
        """Yield (custom id, reply) of the rows of an output or error file; rows that hold no reply are passed over.

        Raises:
            ConfigError: if the service does not know the file.
            ServiceError: if it fails.
        """
        with self._naming_errors(), self._client.files.with_streaming_response.content(file_id) as response:
            for line in response.iter_lines():
                found = _row(line) if len(line) <= _MOST_LINE_BYTES else None
                if found is not None:
                    yield found

    def forget(self, file_id: str) -> None:
        """Remove a file from the service; that it is gone or cannot be removed is no error."""
        from openai import APIError

        with contextlib.suppress(APIError):
            self._client.with_options(max_retries=0).files.delete(file_id)

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        import httpx2
        from openai import APIError, AuthenticationError, BadRequestError, NotFoundError, PermissionDeniedError

        from densedpo.labels.judges.trouble import told_by

        try:
            yield
        except (AuthenticationError, PermissionDeniedError, NotFoundError, BadRequestError) as error:
            raise ConfigError(
                f"judge.batch: {self._url} refuses it (status {error.status_code}: {told_by(error)}); check the "
                "key, or leave judge.batch out if the service has no batch files"
            ) from error
        except (APIError, httpx2.HTTPError) as error:
            raise ServiceError(
                f"judge.batch: {self._url} fails ({one_line(str(error) or type(error).__name__)}); what is under way "
                "goes on there, repeat the command to go on"
            ) from error


def _row(line: str) -> tuple[str, Reply] | None:
    try:
        row = json.loads(line)
        name, response = row["custom_id"], row["response"]
        status, body = response["status_code"], response["body"]
        if status == 200 and isinstance(body, dict):
            return str(name), reply_in(body)
        error = body["error"]
        refused = error["code"] in CONTENT_CODES
        return (str(name), Reply("refused", why=one_line(str(error["message"])))) if refused else None
    except (ValueError, RecursionError, LookupError, TypeError):  # UnreadableError is a ValueError
        return None
