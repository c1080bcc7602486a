"""A client of the OCI distribution API: pull a base, push an image, sign in as docker would.

TLS always, but for hosts named as plain HTTP. What is there is not sent again. Only what may go through the second
time is tried again: no answer, 408, 429 and 5xx; an upload starts anew, in a session of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlsplit

from shoal.core import limits
from shoal.core.errors import RegistryError
from shoal.image.blobs import Blob, BlobStore, digest_of
from shoal.image.credentials import Credentials, find
from shoal.image.reference import Reference
from shoal.image.session import Session
from shoal.image.transport import Answer, resolve

PLAIN_HTTP_VARIABLE: Final = "SHOAL_PLAIN_HTTP"  # hosts, separated by commas
_DIGEST_HEADER: Final = "docker-content-digest"


def plain_hosts(env: Mapping[str, str]) -> frozenset[str]:
    """Read SHOAL_PLAIN_HTTP: the registries (``host:port``) that are spoken to without TLS."""
    return frozenset(part.strip() for part in env.get(PLAIN_HTTP_VARIABLE, "").split(",") if part.strip())


class Registry:
    """One registry; its calls raise RegistryError with the registry's own reason. Not for several threads."""

    def __init__(
        self, host: str, *, plain_http: bool = False, credentials: Callable[[str], Credentials | None] = find,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.host = host
        self._session = Session(host, plain_http=plain_http, credentials=credentials, sleep=sleep)

    def has_blob(self, repository: str, blob: Blob) -> bool:
        """Say whether the registry holds a blob in this repository."""
        url = f"{self._session.root}/{repository}/blobs/{blob.digest}"
        # Signed in for pushing at once: a token for pulling would be of no use a moment later.
        answer = self._session.persist(
            lambda: self._session.call(
                "HEAD", url, _push(repository), what=f"pushing to {repository}", also=frozenset({404})
            )
        )
        return answer.status == HTTPStatus.OK

    def upload(self, repository: str, blob: Blob, store: BlobStore) -> bool:
        """Send a blob unless it is there; give whether it was sent."""
        if self.has_blob(repository, blob):
            return False
        self._session.persist(lambda: self._upload(repository, blob, store))
        return True

    def put_manifest(self, reference: Reference, manifest: Blob, store: BlobStore) -> None:
        """Send a manifest, under the reference's tag if it has one."""
        data = store.read(manifest.digest, limits.MANIFEST_BYTES_MAX)
        url = f"{self._session.root}/{reference.repository}/manifests/{reference.tag or manifest.digest}"

        def attempt() -> Answer:
            headers = {"content-type": manifest.media_type}
            return self._session.call(
                "PUT", url, _push(reference.repository), what=f"pushing {reference}", body=data, headers=headers
            )

        got = self._session.persist(attempt).headers.get(_DIGEST_HEADER, manifest.digest)
        if got != manifest.digest:
            raise RegistryError(
                f"registry {self.host} stored {reference} as {got[:80]!r}, not as {manifest.digest}"
            )

    def manifest(self, reference: Reference, accept: frozenset[str]) -> tuple[str, bytes]:
        """Give a manifest's media type and bytes, checked against the digest if the reference has one."""
        url = f"{self._session.root}/{reference.repository}/manifests/{reference.version}"

        def attempt() -> Answer:
            headers = {"accept": ", ".join(sorted(accept))}
            return self._session.call(
                "GET", url, _pull(reference.repository), what=f"pulling {reference}", headers=headers
            )

        answer = self._session.persist(attempt)
        if reference.digest and digest_of(answer.body) != reference.digest:
            raise RegistryError(f"registry {self.host} answered {reference} with bytes of another digest")
        return answer.headers.get("content-type", "").partition(";")[0].strip(), answer.body

    def download(self, repository: str, blob: Blob, store: BlobStore) -> None:
        """Fetch a blob into the store unless it is there; its bytes are checked against its digest."""
        if not store.has(blob):
            self._session.persist(lambda: self._download(repository, blob, store))

    def _upload(self, repository: str, blob: Blob, store: BlobStore) -> None:
        session, what, scope = self._session, f"pushing to {repository}", _push(repository)
        start = session.call("POST", f"{session.root}/{repository}/blobs/uploads/", scope, what=what)
        place = start.headers.get("location")
        if start.status != HTTPStatus.ACCEPTED or not place:
            raise RegistryError(f"registry {self.host}, {what}: it names no place to upload to ({start.status})")
        url = resolve(start.url, place)
        session.check_origin(url)
        url += f"{'&' if urlsplit(url).query else '?'}digest={quote(blob.digest)}"
        headers = {"content-type": "application/octet-stream"}
        session.call("PUT", url, scope, what=what, body=store.path(blob.digest), headers=headers)

    def _download(self, repository: str, blob: Blob, store: BlobStore) -> None:
        url, what = f"{self._session.root}/{repository}/blobs/{blob.digest}", f"pulling from {repository}"
        with store.adding() as file:

            def keep(data: bytes) -> None:
                if file.size + len(data) > blob.size:
                    raise RegistryError(f"registry {self.host}, {what}: more than the {blob.size} bytes announced")
                file.write(data)

            self._session.call("GET", url, _pull(repository), what=what, sink=keep)
            if file.digest != blob.digest:
                message = f"the blob has the digest {file.digest}, not {blob.digest}"
                raise RegistryError(f"registry {self.host}, {what}: {message}")


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"
