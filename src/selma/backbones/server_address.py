"""A server's address, and what of it is private."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from selma.config.places import bare_address

_SHORTEST_SECRET = 3  # characters; shorter ones stand in every sentence


@dataclass(frozen=True)
class Address:
    """A server's address in its parts."""

    bare: str | None
    """Without what may be private; None is the library's own."""
    login: str = ""
    """user:password"""
    query: str = ""
    fragment: str = ""
    """Never sent, but perhaps a key that slipped into the address."""

    @classmethod
    def of(cls, url: str | None) -> Address:
        """Raises ValueError if it is no address."""
        if url is None:
            return cls(None)
        parts = urlsplit(url)
        _ = parts.port  # raises, as urlsplit itself for other faults
        if parts.scheme not in ("http", "https"):
            raise ValueError("a server is asked by http or https, which its address begins with")
        if not parts.hostname or any(mark.isspace() for mark in parts.netloc):
            raise ValueError("a server's address names its host after http:// or https://")
        login, _, _ = parts.netloc.rpartition("@")
        return cls(bare_address(url), unquote(login), parts.query, parts.fragment)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may say, the longest first."""
        _, _, password = self.login.partition(":")
        pairs = parse_qsl(self.query, keep_blank_values=True)
        values = [value or name for name, value in pairs]
        every = {self.login, self.fragment, password, self._basic, *values}
        return tuple(sorted((s for s in every if len(s) >= _SHORTEST_SECRET), key=len)[::-1])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Basic {self._basic}"} if self.login else {}

    @property
    def _basic(self) -> str:
        return base64.b64encode(self.login.encode()).decode()
