"""The connection to a service: the ``openai`` client over aiohttp, imported only where one is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from densedpo.config import service_key
from densedpo.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, Omit

    from densedpo.config import JudgeSettings

_CONNECT_S = 10.0


def open_client(settings: JudgeSettings) -> AsyncOpenAI:
    """Return a client of the service that ``settings`` name, as wide as questions are asked at the same time.

    aiohttp carries it, because it takes a fifth less of a core for each request than the client's own transport.

    Raises:
        ConfigError: if the client is not installed, or the key is none that can be sent.
    """
    try:
        import aiohttp  # noqa: F401
        import httpx2
        from openai import AsyncOpenAI, DefaultAioHttpClient
    except ImportError:
        raise ConfigError("judge.base_url: needs the package openai; run `pip install 'densedpo[judges]'`") from None
    longest_s = settings.timeout_s
    wait_s = httpx2.Timeout(longest_s, connect=min(_CONNECT_S, longest_s))
    # images and key go where the user said and nowhere else
    carrier = DefaultAioHttpClient(
        timeout=wait_s, limits=httpx2.Limits(max_connections=settings.parallel), follow_redirects=False
    )
    return AsyncOpenAI(
        base_url=settings.base_url,
        api_key=service_key("judge.key_variable", settings.key_variable),
        timeout=wait_s,
        max_retries=0,
        http_client=carrier,
    )


def headers_for(client: AsyncOpenAI) -> dict[str, str | Omit]:
    """Return the headers of a request of ready bytes, whose answer the client leaves to us to read.

    What the client would tell of itself and of this machine stays here: services do without, and it is a good part of
    the work for a request.
    """
    from openai import omit

    told = (*client.platform_headers(), "X-Stainless-Async", "x-stainless-retry-count", "x-stainless-read-timeout")
    # the first is how the client's own with_streaming_response says it
    return {"X-Stainless-Raw-Response": "stream", "Content-Type": "application/json", **dict.fromkeys(told, omit)}
