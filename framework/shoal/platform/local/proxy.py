"""Passing one request to an instance and its answer back: bytes stream both ways, every buffer has its bound.

Headers that describe a connection stay on it (RFC 9110, 7.6.1); bodies are passed as they are, neither decompressed
nor followed when they redirect. A request is tried again on another instance only while no byte of it can have
reached one, that is when no connection came about.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from shoal.core import limits
from shoal.core.errors import InstanceError, NotRunningError, RequestError
from shoal.platform.local import problems, serving
from shoal.platform.local.routing import Address

TIMEOUT_HEADER: Final = "shoal-timeout-ms"
REQUEST_ID_HEADER: Final = "x-request-id"
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_SET_HERE: Final = frozenset({"host", "expect", "content-length"})
_NO_AUTO_HEADERS: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class RefusedError(Exception):
    """No connection came about; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is sent to an instance: method, raw path, headers, and the body whole, as a stream, or None."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes | BodyStream | None


class BodyStream:
    """A request's body on its way: counted against its limit, and what went wrong with it kept for the answer."""

    def __init__(self, content: aiohttp.StreamReader, bytes_max: int) -> None:
        self._content = content
        self._left = bytes_max
        self._bytes_max = bytes_max
        self.error: RequestError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks as they come; once over the limit or broken, end with an exception."""
        try:
            async for chunk in self._content.iter_any():
                self._left -= len(chunk)
                if self._left < 0:
                    raise serving.too_large(self._bytes_max)
                yield chunk
        except RequestError as error:
            self.error = error
            raise
        except (web.RequestPayloadError, aiohttp.ClientPayloadError) as error:
            self.error = RequestError(f"the request's body is broken: {error}")
            raise self.error from error


async def take_body(request: web.BaseRequest, bytes_max: int, seconds_max: float) -> bytes | BodyStream | None:
    """Read a small body whole, leave a large or unmeasured one a stream; None where there is none.

    Raises BodyTooLargeError, SlowRequestError or RequestError (broken framing).
    """
    if not request.body_exists:
        return None
    length = request.content_length
    if length is not None and length > bytes_max:
        raise serving.too_large(bytes_max)
    if length is not None and length <= limits.GATEWAY_BUFFER_BYTES_MAX:
        return await serving.read_body(request, bytes_max, seconds_max)
    await serving.welcome_body(request)
    return BodyStream(request.content, bytes_max)


def request_headers(
    headers: CIMultiDictProxy[str], where: Address, peer: str, length: int | None
) -> CIMultiDict[str]:
    """Give the headers for the instance: the caller's, less the connection's own, plus where they came from."""
    kept = _end_to_end(headers, _SET_HERE)
    origin = where.host + (f":{where.port}" if where.port else "")
    host = f"{where.label}.localhost" + (f":{where.port}" if where.port else "") if where.prefix else origin
    kept["Host"] = host
    if length is not None:
        kept["Content-Length"] = str(length)
    _append(kept, "X-Forwarded-For", peer)
    kept["X-Forwarded-Host"] = origin
    kept["X-Forwarded-Proto"] = "http"
    if where.prefix:
        kept["X-Forwarded-Prefix"] = where.prefix
    _append(kept, "Forwarded", f'for={_quoted(peer)};host="{origin}";proto=http')
    return kept


def response_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Give an instance's headers for the caller, less the connection's own."""
    kept = _end_to_end(headers, ())
    kept.setdefault(hdrs.SERVER, problems.SERVER_NAME)
    return kept


class Proxy:
    """Sends requests to instances on this machine over kept connections.

    Each request is sent once: ``session`` must not repeat one by itself. A connection the instance has closed is
    not used again, and idle ones end here before the instance ends them, so that none breaks under a request.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, port: int, outgoing: Outgoing) -> aiohttp.ClientResponse:
        """Send and wait for the head of the answer; RefusedError when nothing was sent, else InstanceError."""
        path, _, query = outgoing.path.partition("?")
        url = URL.build(scheme="http", host="127.0.0.1", port=port, path=path, query_string=query, encoded=True)
        try:
            return await self._session.request(
                outgoing.method,
                url,
                headers=outgoing.headers,
                data=outgoing.body,
                allow_redirects=False,
                skip_auto_headers=_NO_AUTO_HEADERS,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise RefusedError(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(outgoing.body, BodyStream) and outgoing.body.error:
                raise outgoing.body.error from error
            raise broke_off(error) from error


def broke_off(error: Exception) -> InstanceError:
    """Say that an instance went away with a request."""
    return InstanceError(
        f"the function's instance broke the connection before it had answered ({type(error).__name__}); "
        "the request may have had its effect and is not repeated"
    )


def no_instance(revision: str, attempts: int) -> NotRunningError:
    """Say that none of the instances tried took a connection."""
    return NotRunningError(f"no instance of {revision} takes connections ({attempts} tried)", retry_after_s=1.0)


async def relay(request: web.BaseRequest, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    """Answer the caller with an instance's response, small ones in one write, others as they come.

    Raises InstanceError while the caller has seen nothing; later the caller's connection is cut instead, since
    a short answer must not look like a whole one.
    """
    headers = response_headers(upstream.headers)
    length = upstream.content_length
    if length is not None and length <= limits.GATEWAY_BUFFER_BYTES_MAX and request.method != hdrs.METH_HEAD:
        return await _whole(upstream, headers)
    response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
    await response.prepare(request)
    try:
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientError, TimeoutError):
        cut(request)
        raise
    await response.write_eof()
    return response


def cut(request: web.BaseRequest) -> None:
    """Reset the caller's connection."""
    if request.transport is not None:
        request.transport.abort()


async def _whole(upstream: aiohttp.ClientResponse, headers: CIMultiDict[str]) -> web.Response:
    try:
        body = await upstream.read()
    except aiohttp.ClientError as error:
        raise broke_off(error) from error
    headers.popall(hdrs.CONTENT_LENGTH, None)
    return web.Response(status=upstream.status, reason=upstream.reason, headers=headers, body=body)


def _end_to_end(headers: CIMultiDictProxy[str], also: Iterable[str]) -> CIMultiDict[str]:
    dropped = _HOP_BY_HOP.union(also)
    if hdrs.CONNECTION in headers:
        named = ",".join(headers.getall(hdrs.CONNECTION)).lower().split(",")
        dropped = dropped.union(token.strip() for token in named)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _append(headers: CIMultiDict[str], name: str, value: str) -> None:
    before = headers.getall(name, [])
    headers[name] = ", ".join([*before, value])


def _quoted(peer: str) -> str:
    return f'"[{peer}]"' if ":" in peer else peer
