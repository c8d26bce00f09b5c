"""Connections to a service through the ``openai`` client, which is imported only where one is wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from densedpo.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from densedpo.config import JudgeSettings

_CONNECT_S = 10.0


class Clients:
    """Clients of one connection each, one for each request under way: a client with many looks through all of them."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Prepare to connect to the service that ``settings`` name.

        Raises:
            ConfigError: if the client is not installed.
        """
        try:
            import httpx2
            import openai  # noqa: F401
        except ImportError:
            raise ConfigError(
                "judge.base_url: needs the package openai; run `pip install 'densedpo[judges]'`"
            ) from None
        self._settings = settings
        self._verify = httpx2.create_ssl_context()
        self._idle: list[AsyncOpenAI] = []
        self._all: list[AsyncOpenAI] = []

    @contextmanager
    def one(self) -> Iterator[AsyncOpenAI]:
        """Give a client that nobody else uses."""
        client = self._idle.pop() if self._idle else self._made()
        try:
            yield client
        finally:
            self._idle.append(client)

    def _made(self) -> AsyncOpenAI:
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        longest_s = self._settings.timeout_s
        wait_s = httpx2.Timeout(longest_s, connect=min(_CONNECT_S, longest_s))
        # images and key go where the user said and nowhere else
        connection = DefaultAsyncHttpxClient(timeout=wait_s, verify=self._verify, follow_redirects=False)
        made = AsyncOpenAI(
            base_url=self._settings.base_url,
            # services of one's own take any key, but the client insists on one
            api_key=os.environ.get(self._settings.key_variable) or "none",
            timeout=wait_s,
            max_retries=0,
            http_client=connection,
        )
        self._all.append(made)
        return made

    async def close(self) -> None:
        """Close all connections."""
        for client in self._all:
            await client.close()
