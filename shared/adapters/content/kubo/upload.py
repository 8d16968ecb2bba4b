"""A file as the one part of a multipart/form-data body, streamed: how Kubo's RPC API takes bytes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable


class Upload:
    """`failure` is what the bytes' own maker raised, which an HTTP client would report as a broken connection."""

    def __init__(self, data: AsyncIterable[bytes] | bytes) -> None:
        self._data = data
        self._boundary = secrets.token_hex(16)  # unknown to who made the bytes, so it cannot occur in them on purpose
        self.failure: Exception | None = None

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    async def body(self) -> AsyncGenerator[bytes, None]:
        yield (
            f"--{self._boundary}\r\n"
            'Content-Disposition: form-data; name="file"; filename="file"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        if isinstance(self._data, bytes):
            yield self._data
        else:
            try:
                async for piece in self._data:
                    yield piece
            except Exception as error:
                self.failure = error
                raise
        yield f"\r\n--{self._boundary}--\r\n".encode()
