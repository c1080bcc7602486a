"""HTTP as registries need it: bodies from files, answers into files, one attempt at a time, bounded in all.

From the standard library: a handful of requests per push, and no package to keep.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

from shoal.core import limits
from shoal.core.errors import RegistryError

_BLOCK_BYTES: Final = 1 << 20
_USER_AGENT: Final = "shoal"

Sink = Callable[[bytes], object]
Body = bytes | Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names are lower-case, ``body`` is empty when it went into a sink."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    url: str = ""


def send(
    method: str, url: str, headers: Mapping[str, str], body: Body = b"", *, sink: Sink | None = None
) -> Answer:
    """Send one request; a 200's body goes to ``sink`` if there is one.

    Raises RegistryError (with its cause, an OSError when trying again may help) when no answer comes.
    """
    parts = urlsplit(url)
    connection = _connect(parts.scheme, parts.netloc)
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    try:
        return _exchange(connection, method, target, {**headers, "user-agent": _USER_AGENT}, body, sink, url)
    except RegistryError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RegistryError(
            f"registry {parts.netloc}: {_reason(error)}", hint=_hint(error, parts.netloc)
        ) from error
    finally:
        connection.close()


def _connect(scheme: str, host: str) -> http.client.HTTPConnection:
    seconds = limits.REGISTRY_SILENCE_SECONDS_MAX
    if scheme == "http":
        return http.client.HTTPConnection(host, timeout=seconds, blocksize=_BLOCK_BYTES)
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(host, timeout=seconds, blocksize=_BLOCK_BYTES, context=context)


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Body,
    sink: Sink | None,
    url: str,
) -> Answer:
    if isinstance(body, Path):
        sized = {**headers, "content-length": str(body.stat().st_size)}
        with body.open("rb") as file:
            connection.request(method, target, body=file, headers=sized)
    else:
        sized = dict(headers) if method in ("GET", "HEAD") else {**headers, "content-length": str(len(body))}
        connection.request(method, target, body=body or None, headers=sized)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    if sink is not None and response.status == http.client.OK:
        while data := response.read(_BLOCK_BYTES):
            sink(data)
        return Answer(response.status, found, url=url)
    return Answer(response.status, found, _bounded(response, url), url)


def _bounded(response: http.client.HTTPResponse, url: str) -> bytes:
    data = response.read(limits.REGISTRY_ANSWER_BYTES_MAX + 1)
    if len(data) > limits.REGISTRY_ANSWER_BYTES_MAX:
        host = urlsplit(url).netloc
        raise RegistryError(f"registry {host}: an answer of more than {limits.REGISTRY_ANSWER_BYTES_MAX} bytes")
    return data


def resolve(url: str, location: str) -> str:
    """Give the address a Location header means, relative to where it came from."""
    return urljoin(url, location)


def origin(url: str) -> tuple[str, str]:
    """Give scheme and host of an address: credentials for one are for no other."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS" if "WRONG_VERSION" in str(error) else f"TLS failed ({error.reason})"
    if isinstance(error, TimeoutError):
        return f"no answer within {limits.REGISTRY_SILENCE_SECONDS_MAX:g} s"
    if isinstance(error, http.client.HTTPException):
        return f"the answer is not HTTP, or broke off ({type(error).__name__})"
    return str(getattr(error, "strerror", None) or error)[:200]


def _hint(error: Exception, host: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name the authority's certificate: SSL_CERT_FILE=ca.pem"
    if isinstance(error, ssl.SSLError):
        return f"if it is a plain HTTP registry, say so: --plain-http {host}"
    return ""
