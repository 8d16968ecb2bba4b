"""What the publishers have in common: a service's HTTP API under the operator's token, and what its refusals mean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec

from shared.adapters.content.services import Answer, ask
from shared.crypto.keystore import read_password
from shared.errors import ConfigError, ContentError, PublishFailed, SourceFailed

CALL_SECONDS = 30.0
MIN_UPLOAD_BYTES_PER_SECOND = 64 * 1024  # a slow line's pace; 16 MiB get four minutes
MAX_NAME_CHARACTERS = 255  # of what is pinned, as pinning services show it to people
_SHOWN_CHARACTERS = 160  # of what a service says
_LATER = (408, 425, 429)  # and all from 500 on: the same request may be taken another time

T = TypeVar("T")


def read_token(path: Path | None, setting: str) -> str:
    """The token's file holds it alone, readable by its owner only. Raises `ConfigError`."""
    if path is None:
        raise ConfigError(f"{setting} is missing: name the file that holds the access token")
    token = read_password(path)
    if not token.isascii() or not token.isprintable():
        raise ConfigError(f"{setting}: {path} does not hold a token of ASCII characters")
    return token


def name_of(cid: str) -> str:
    """How people find it in the service's list."""
    return f"proof {cid}"[:MAX_NAME_CHARACTERS]


def upload_seconds(size: int) -> float:
    """How long a service outside may take for a file of `size` bytes."""
    return CALL_SECONDS + size / MIN_UPLOAD_BYTES_PER_SECOND


class Upload:
    """The own store's bytes on their way out; aiohttp hides why a body broke off, so it is kept here."""

    def __init__(self, stream: AsyncGenerator[bytes, None], size: int) -> None:
        self._stream, self._size = stream, size
        self.failure: ContentError | None = None

    @property
    def timeout_seconds(self) -> float:
        return upload_seconds(self._size)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._stream):
                async for chunk in self._stream:
                    yield chunk
        except ContentError as error:
            self.failure = error
            raise


class Service:
    """`url` has no trailing slash. The token goes to it and nowhere else, and never into an error."""

    def __init__(self, session: aiohttp.ClientSession, name: str, url: str, token: str) -> None:
        self.name = name
        self._session, self._url, self._token = session, url, token

    async def call(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, object] | None = None,
    ) -> Answer:
        """`path` is quoted already; `form` travels as JSON. Raises `PublishFailed` when no answer came."""
        headers = {} if form is None else {"Content-Type": "application/json"}
        data = None if form is None else msgspec.json.encode(form)
        url = f"{self._url}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            return await ask(
                self._session,
                verb,
                url,
                data=data,
                headers={**headers, "Authorization": f"Bearer {self._token}"},
                timeout_seconds=CALL_SECONDS,
            )
        except SourceFailed as failure:
            raise PublishFailed(f"{self.name}: {failure}") from failure

    async def upload(self, path: str, upload: Upload, data: object) -> Answer:
        """A POST whose body `data` has `upload` in it. Raises `PublishFailed`, and what the own store raised."""
        try:
            return await ask(
                self._session,
                "POST",
                f"{self._url}{path}",
                data=data,
                headers={"Authorization": f"Bearer {self._token}"},
                timeout_seconds=upload.timeout_seconds,
            )
        except SourceFailed as failure:
            if upload.failure is not None:
                raise upload.failure from failure
            raise PublishFailed(f"{self.name}: {failure}") from failure

    def read(self, answer: Answer, kind: type[T], *, expected: int = 200) -> T:
        """The answer's JSON. Raises `PublishFailed` for another status or another form."""
        if answer.status != expected:
            raise self._refused(answer)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Not for good: a page of maintenance comes with 200, too.
            said = self._shown(answer.body)
            raise PublishFailed(f"{self.name} answered {expected} with something else than its API's: {said}") from None

    def _refused(self, answer: Answer) -> PublishFailed:
        status, is_final = answer.status, answer.status not in _LATER and answer.status < 500
        if 300 <= status < 400:
            said = "a redirect, which is not followed, for the token's sake; set the URL that it leads to"
        elif status in (401, 403):
            said = "the token is not taken; look at its file, and at what it may do"
        elif status in (402, 409):  # 409: "insufficient funds" of the Pinning Service API
            said = f"out of funds, or over its limit: {self._shown(answer.body)}"
        else:
            said = self._shown(answer.body)
        return PublishFailed(f"{self.name} answered {status}: {said}", is_final=is_final)

    def _shown(self, body: bytes) -> str:
        """What people may read of an answer; some services repeat what they were sent."""
        text = body[:1024].decode("utf-8", "replace").replace(self._token, "…")
        return repr(text[:_SHOWN_CHARACTERS])
