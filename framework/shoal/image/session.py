"""Requests to one registry: signing in, redirects, attempts, and what a refusal means in one sentence."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

from shoal.core import limits
from shoal.core.errors import RegistryError
from shoal.image.credentials import Credentials, find
from shoal.image.transport import Answer, Body, Sink, origin, resolve, send

_PARAMETER: Final = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
_REASON_CHARS: Final = 200  # of a registry's own words
T = TypeVar("T")


class _AgainError(RegistryError):
    """The registry failed in a way that may pass."""


class Session:
    """Speaks to one registry and remembers its tokens; not for several threads."""

    def __init__(
        self, host: str, *, plain_http: bool, credentials: Callable[[str], Credentials | None] = find,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.host = host
        self.root = f"{'http' if plain_http else 'https'}://{host}/v2"
        self._credentials = credentials
        self._sleep = sleep
        self._authorization: dict[str, str] = {}  # scope -> header

    def call(
        self, method: str, url: str, scope: str, *, what: str, body: Body = b"",
        headers: Mapping[str, str] | None = None, also: frozenset[int] = frozenset(), sink: Sink | None = None,
    ) -> Answer:  # fmt: skip
        """Make one attempt: sign in when asked to, follow redirects; statuses in ``also`` are as good as 2xx.

        Raises RegistryError, saying ``what`` failed and why.
        """
        answer = self._signed(method, url, scope, body, headers or {}, sink)
        if answer.status // 100 == 2 or answer.status in also:
            return answer
        raise self._refusal(answer, what)

    def persist(self, attempt: Callable[[], T]) -> T:
        """Try again, a bounded number of times and ever later, while the registry is away or fails."""
        pause = limits.REGISTRY_BACKOFF_SECONDS_MIN
        for _ in range(limits.REGISTRY_ATTEMPTS_MAX - 1):
            try:
                return attempt()
            except RegistryError as error:
                if not _may_pass(error):
                    raise
            self._sleep(pause)
            pause *= 2
        return attempt()

    def check_origin(self, url: str) -> None:
        """Refuse to go from TLS to plain HTTP, wherever a registry sends us."""
        if self.root.startswith("https:") and urlsplit(url).scheme != "https":
            raise RegistryError(f"registry {self.host} sends us on to a place without TLS; refused")

    def _signed(
        self, method: str, url: str, scope: str, body: Body, headers: Mapping[str, str], sink: Sink | None
    ) -> Answer:
        answer = self._followed(method, url, scope, body, headers, sink)
        if answer.status == HTTPStatus.UNAUTHORIZED and self._sign_in(answer, scope):
            answer = self._followed(method, url, scope, body, headers, sink)
        return answer

    def _followed(
        self, method: str, url: str, scope: str, body: Body, headers: Mapping[str, str], sink: Sink | None
    ) -> Answer:
        for _ in range(limits.REGISTRY_REDIRECTS_MAX + 1):
            authorization = self._authorization.get(scope)
            ours = authorization is not None and origin(url) == origin(self.root)
            signed = {**headers, "authorization": authorization or ""} if ours else headers
            answer = send(method, url, signed, body, sink=sink)
            if answer.status not in _REDIRECTS or not (place := answer.headers.get("location")):
                return answer
            url = resolve(url, place)
            self.check_origin(url)
        raise RegistryError(f"registry {self.host}: more than {limits.REGISTRY_REDIRECTS_MAX} redirects")

    def _sign_in(self, answer: Answer, scope: str) -> bool:
        """Get what the challenge asks for; False when there is nothing to try."""
        kind, _, rest = answer.headers.get("www-authenticate", "").partition(" ")
        had = self._authorization.pop(scope, None)
        found = self._credentials(self.host)
        if kind.lower() == "basic" and found is not None and found.user:
            self._authorization[scope] = found.basic
            return had != found.basic
        if kind.lower() == "bearer":
            self._authorization[scope] = f"Bearer {self._token(dict(_PARAMETER.findall(rest)), scope, found)}"
            return True
        return False

    def _token(self, challenge: Mapping[str, str], scope: str, found: Credentials | None) -> str:
        realm = challenge.get("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise RegistryError(f"registry {self.host} asks for a token and does not say where")
        if urlsplit(realm).scheme == "http" and self.root.startswith("https:"):
            raise RegistryError(f"registry {self.host} wants to be signed in to without TLS; refused")
        asked = {"service": challenge.get("service", ""), "scope": scope}
        answer = self._ask_for_token(realm, {name: text for name, text in asked.items() if text}, found)
        if answer.status != HTTPStatus.OK:
            raise self._refusal(answer, "signing in")
        token = _document(answer.body)
        text = token.get("token") or token.get("access_token")
        if not isinstance(text, str) or not text.isprintable():
            raise RegistryError(f"registry {self.host}, signing in: the answer has no token")
        return text

    def _ask_for_token(self, realm: str, asked: Mapping[str, str], found: Credentials | None) -> Answer:
        if found is not None and found.identity_token:
            form = {**asked, "grant_type": "refresh_token", "client_id": "shoal"}
            body = urlencode({**form, "refresh_token": found.identity_token}).encode()
            return send("POST", realm, {"content-type": "application/x-www-form-urlencoded"}, body)
        headers = {"authorization": found.basic} if found is not None and found.user else {}
        return send("GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}", headers)

    def _refusal(self, answer: Answer, what: str) -> RegistryError:
        """Put a refusal into one sentence, with the registry's own word for it."""
        errors = _document(answer.body).get("errors")
        first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
        code, own = str(first.get("code", "")), _printable(str(first.get("message", "")))
        words = f"{code}: {own}" if code and own else code or own or _phrase(answer.status)
        message, hint = f"registry {self.host}, {what}: {answer.status} {words}", ""
        if answer.status == HTTPStatus.UNAUTHORIZED:
            hint = f"docker login {self.host}"
        elif answer.status == HTTPStatus.FORBIDDEN:
            hint = "ask for the right to push or pull there, or sign in as someone who has it"
        kind = _AgainError if answer.status in _AGAIN else RegistryError
        return kind(message, hint=hint)


def _may_pass(error: RegistryError) -> bool:
    cause = error.__cause__
    # A wrong certificate or host name is as wrong the next time; a connection that broke may not be.
    lasting = type(cause).__name__ in ("SSLCertVerificationError", "gaierror", "SSLError", "InvalidURL")
    return isinstance(error, _AgainError) or (cause is not None and not lasting)


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:_REASON_CHARS]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"
