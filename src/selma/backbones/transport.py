"""The way to a server and back, below all that writes of it.

What is private in its address is put on here alone, so that no error and no log of a library has
it. A reply is read up to a limit, compressed or not, and no redirect leads to another server.
"""

from __future__ import annotations

import zlib
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from selma.backbones.server_address import Address
from selma.config.places import bare_address
from selma.errors import BackendError
from selma.texts import legible

MOST_BYTES = 8 << 20
"""Of a reply, as it comes and unpacked, unless it is told otherwise; a list of captions has some
thousand."""

_GZIP_OR_ZLIB, _RAW = 47, -15  # zlib's words for what servers call gzip and deflate
_CHANGES_METHOD = (301, 302, 303)
_certificates = cache(httpx2.create_ssl_context)
"""Those that this machine trusts: 20 ms to read, which each batch of requests would take again."""


class Unreadable(Exception):
    """A reply that cannot be read; another one may be."""


class Transport(httpx2.AsyncBaseTransport):
    """One server's requests and whole replies. `where` names it in messages, `setting` is where the
    config has its address.

    Raises BackendError where it redirects to another server, Unreadable where a reply is too large
    or packed as nobody asked for.
    """

    def __init__(
        self, address: Address, *, where: str, setting: str, most_bytes: int | None = None
    ) -> None:
        self._address, self._where, self._setting = address, where, setting
        self._most = MOST_BYTES if most_bytes is None else most_bytes
        self._inner = httpx2.AsyncHTTPTransport(verify=_certificates(), proxy=_proxy(address.bare))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(self._private(request))
        try:
            self._require_here(request.url, response)
            body = await _whole(response, self._most)
        finally:
            await response.aclose()
        packed = response.headers.get("content-encoding", "")
        own = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.raw if _name(name) not in own]
        return httpx2.Response(
            response.status_code, headers=headers, content=_unpacked(body, packed, self._most)
        )

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _private(self, request: httpx2.Request) -> httpx2.Request:
        """The request as it is sent: a copy, since the library goes on to write of its own."""
        url = request.url
        if self._address.query:
            url = url.copy_with(query=self._address.query.encode())
        headers = request.headers.copy()
        headers.update({"Accept-Encoding": "identity", **self._address.headers})
        return httpx2.Request(
            request.method, url, headers=headers, stream=request.stream,
            extensions=request.extensions,
        )  # fmt: skip

    def _require_here(self, url: httpx2.URL, response: httpx2.Response) -> None:
        if not response.has_redirect_location:
            return
        try:
            target = url.join(response.headers["location"])
        except httpx2.InvalidURL as error:
            raise Unreadable(f"it redirects to no address: {error}") from error
        if _origin(target) != _origin(url) or response.status_code in _CHANGES_METHOD:
            to = legible(bare_address(str(target)))[:200]
            raise BackendError(
                f"{self._where} redirects to {to}, which would be sent the prompts and is not "
                f"asked. If it is the server that is meant, name it in {self._setting}.base_url."
            )


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _name(header: bytes) -> str:
    return header.decode("latin-1").lower()


async def _whole(response: httpx2.Response, most: int) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        _require_size(len(body), most)
    return bytes(body)


def _require_size(count: int, most: int) -> None:
    if count > most:
        raise Unreadable(f"the reply has more than {most >> 20} MiB")


def _unpacked(body: bytes, packed: str, most: int) -> bytes:
    kind = packed.strip().lower()
    if kind in ("", "identity"):
        return body
    if kind not in ("gzip", "x-gzip", "deflate"):
        raise Unreadable(f"the reply is packed as {legible(packed)[:40]}, which was not asked for")
    try:
        return _inflated(body, _GZIP_OR_ZLIB, most)
    except zlib.error:
        pass
    try:
        return _inflated(body, _RAW, most)
    except zlib.error as error:
        raise Unreadable(f"the reply cannot be unpacked: {error}") from None


def _inflated(body: bytes, window: int, most: int) -> bytes:
    inflating = zlib.decompressobj(window)
    whole = inflating.decompress(body, most + 1)
    _require_size(len(whole), most)
    return whole


def _proxy(url: str | None) -> str | None:
    """The proxy that the environment names for this address."""
    parts = urlsplit(url or "https://api.openai.com")
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
