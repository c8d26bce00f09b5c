"""What all sections of the settings share. Part of ``densedpo.config``."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Item = TypeVar("Item")
Share = Annotated[float, Field(gt=0, le=1)]
MAX_SEED = 2**63 - 1


def _split(value: Any) -> Any:
    """Read ``a,b`` as a list, so that a flag and YAML may say the same."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Listed = Annotated[tuple[Item, ...], BeforeValidator(_split)]


def is_address(text: str) -> bool:
    """Return whether a text is an http(s) address that a client can take: a host, a port from 1 to 65535, no blanks."""
    try:
        parts = urlsplit(text)
        port = parts.port  # reading it raises where it is none
    except ValueError:
        return False
    clean = text.isprintable() and " " not in text
    return clean and port != 0 and parts.scheme in ("http", "https") and bool(parts.hostname)


class Section(BaseModel):
    """A section of the settings: an unknown key fails, nothing changes after reading, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Hosted(Section):
    """Where a page listens, and how long people keep what they were given."""

    host: str = Field("127.0.0.1", description="address to listen on; beyond this machine only with invited people")
    port: int = Field(8753, ge=0, le=65535, description="port to listen on; 0 takes any free one")
    public_url: str | None = Field(
        None,
        description="address that people open, if a proxy stands in between (by invitation only then); by default none",
    )
    lease_s: float = Field(600.0, ge=10, description="time after which a pair that was not worked on goes to others")
