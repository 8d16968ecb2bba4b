"""The package ipfshttpclient (0.7.0) as a `KuboApi`, for who has it already.

Its authors tested it up to go-ipfs 0.8, and its `connect()` refuses every later one; the calls used here are the same
in all versions since, so `Client` is used, which does not look. Two things it cannot do that `KuboRpc` can: bound an
answer before it is held, and end a call that is under way. The node is the operator's own, so the first is borne with;
for the second each call has a thread, which the package's own timeout sets free later.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import math
import threading
from collections.abc import AsyncIterable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from shared.adapters.content.kubo import answers
from shared.adapters.content.kubo.api import LOCAL_SECONDS, KuboNode
from shared.adapters.content.kubo.block_put import BlockPut
from shared.adapters.content.kubo.rpc import IMPORT_OPTIONS
from shared.constants import MAX_BLOCK_BYTES
from shared.content.cid import Block, verify_block
from shared.errors import CodecError, ConfigError, SourceFailed
from shared.interfaces import Meter
from shared.reasons import SourceFault
from shared.types import Cid

THREADS = 8
_GRACE_SECONDS = 1.0  # for a thread to report its own timeout before its caller gives up
_CHUNK_BYTES = 256 * 1024  # of what is sent; the package's own 4 KiB make a model slow

T = TypeVar("T")


class IpfsHttpClient:
    """`url` and `authorization` as of `KuboRpc`. Raises `ConfigError` when the package is not there. Open it with
    `async with`."""

    def __init__(self, url: str, *, authorization: str | None = None) -> None:
        try:
            import ipfshttpclient
        except ImportError:
            raise ConfigError(
                'content.store is "ipfshttpclient", and that package is not here; '
                'run: pip install ipfshttpclient==0.7.0, or take "kubo", which needs nothing'
            ) from None
        self._package = ipfshttpclient
        self._address, self._base = _multiaddr(url)
        self._shown, self._headers = url, {} if authorization is None else {"Authorization": authorization}
        self._clients: list[Any] = []
        self._of_thread = threading.local()
        self._block_put = BlockPut()

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ipfshttpclient", initializer=self._begin)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for calls under way: their timeouts end them."""
        await asyncio.to_thread(self._threads.shutdown)
        for client in self._clients:
            client.close()

    def _begin(self) -> None:
        """A client for each thread: the sessions below are not made for several."""
        client = self._package.Client(
            self._address, self._base, chunk_size=_CHUNK_BYTES, headers=self._headers, session=True
        )
        session = client._client._session  # 0.7.0 has no setting for either of these
        session.trust_env = False  # no proxy and no password from the environment
        session.max_redirects = 0  # the API has none, and the header must go nowhere else
        self._of_thread.client = client
        self._clients.append(client)

    # --- the node --------------------------------------------------------------------------------
    async def node(self) -> KuboNode:
        identity = await self._ask("id", answers.Identity, lambda client, options: client.id(**options))
        version = await self._ask("version", answers.Version, lambda client, options: client.version(**options))
        return KuboNode(identity.id, version.version)

    async def connect(self, multiaddr: str, *, seconds: float) -> None:
        await self._call("swarm/connect", lambda client, options: client.swarm.connect(multiaddr, **options), seconds)

    # --- blocks ----------------------------------------------------------------------------------
    async def get_block(self, cid: Cid, *, seconds: float, is_offline: bool, meter: Meter | None = None) -> Block:
        data: bytes = await self._call(
            "block/get", lambda client, options: client.block.get(cid, offline=is_offline, **options), seconds
        )
        if meter is not None:
            meter.received_bytes = len(data)
        if len(data) > MAX_BLOCK_BYTES:
            raise SourceFailed(f"block/get: over {MAX_BLOCK_BYTES} bytes", SourceFault.TOO_LARGE)
        try:
            return verify_block(cid, data)
        except CodecError as error:
            raise SourceFailed(f"block/get: wrong bytes: {error}", SourceFault.WRONG_BYTES) from error

    async def block_size(self, cid: Cid) -> int:
        stat = await self._ask(
            "block/stat",
            answers.BlockStat,
            lambda client, options: client.block.stat(cid, offline=True, **options),
        )
        return stat.size

    async def put_block(self, block: Block) -> None:
        def call(client: Any, options: dict[str, Any]) -> Any:
            return client.block.put(io.BytesIO(block.data), **options)

        await self._block_put.put(block, lambda options: self._ask("block/put", answers.BlockStat, call, opts=options))

    # --- files and pins --------------------------------------------------------------------------
    async def import_archive(self, root: Cid, archive: AsyncIterable[bytes], *, seconds: float) -> None:
        stream = _Pulled(archive)
        try:
            imported = await self._ask(
                "dag/import",
                answers.Imported,
                lambda client, options: client.dag.imprt(stream, **options),
                seconds,
                opts=IMPORT_OPTIONS,
            )
        except SourceFailed:
            if stream.failure is not None:
                raise stream.failure from None
            raise
        finally:
            stream.close()
        answers.check_imported([imported], root)

    async def pin(self, root: Cid, *, seconds: float) -> None:
        pinned = await self._ask(
            "pin/add",
            answers.Pinned,
            lambda client, options: client.pin.add(root, **options),
            seconds,
            opts={"progress": "false", "cid-base": "base32"},
        )
        answers.check_pinned([pinned], root)

    async def unpin(self, root: Cid) -> None:
        try:
            await self._call("pin/rm", lambda client, options: client.pin.rm(root, **options))
        except SourceFailed as failed:
            if failed.fault is not SourceFault.NOT_FOUND:
                raise

    async def is_pinned(self, root: Cid) -> bool:
        try:
            listed = await self._ask(
                "pin/ls",
                answers.PinList,
                lambda client, options: client.pin.ls(root, type="recursive", **options),
                opts={"cid-base": "base32"},
            )
        except SourceFailed as failed:
            if failed.fault is SourceFault.NOT_FOUND:
                return False
            raise
        return answers.has_pin([listed], root)

    # --- calls -----------------------------------------------------------------------------------
    async def _ask(
        self,
        command: str,
        kind: type[T],
        call: Callable[..., Any],
        seconds: float = LOCAL_SECONDS,
        *,
        opts: Mapping[str, str] | None = None,
    ) -> T:
        return answers.converted(await self._call(command, call, seconds, opts=opts), kind, command)

    async def _call(
        self,
        command: str,
        call: Callable[..., Any],
        seconds: float = LOCAL_SECONDS,
        *,
        opts: Mapping[str, str] | None = None,
    ) -> Any:
        """`call(client, options)` in a thread: its JSON as plain objects, or its bytes."""
        options = {"timeout": seconds, "opts": {**(opts or {}), "timeout": f"{math.ceil(seconds)}s"}}

        def work() -> Any:
            answer = call(self._of_thread.client, options)
            return answer.as_json() if hasattr(answer, "as_json") else answer

        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise SourceFailed(f"{command}: no whole answer within {seconds:g} s", SourceFault.SLOW) from None
        except Exception as error:  # noqa: BLE001 - the package lets those of four others through, and its own asserts
            # Cut off: the errors of requests carry the request's headers.
            raise self._failure(error, command, seconds) from None

    def _failure(self, error: Exception, command: str, seconds: float) -> SourceFailed:
        known, said = self._package.exceptions, f"{type(error).__name__}: {error}"[: answers.MAX_SHOWN]
        if isinstance(error, known.ErrorResponse):
            return answers.failure(str(error.args[0]), command)
        if isinstance(error, known.StatusError):
            return answers.refusal(error.original.response.status_code, b"", command)
        if isinstance(error, known.TimeoutError):
            return SourceFailed(f"{command}: no whole answer within {seconds:g} s", SourceFault.SLOW)
        if isinstance(error, known.CommunicationError):
            return answers.unreachable(self._shown, command, said)
        return SourceFailed(f"{command}: not what Kubo answers: {said}", SourceFault.BAD_ANSWER)


class _Pulled:
    """An asynchronous stream of bytes as a file for another thread to read."""

    def __init__(self, data: AsyncIterable[bytes]) -> None:
        self._pieces, self._loop = aiter(data), asyncio.get_running_loop()
        self._rest, self._is_closed = b"", False
        self.failure: Exception | None = None

    def read(self, size: int) -> bytes:
        """At least one byte until the end. Raises what the stream raises."""
        while not self._rest:
            if self._is_closed:
                raise OSError("nobody waits for it any more")
            try:
                self._rest = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            except Exception as error:
                self.failure = error
                raise
            if not self._rest:
                return b""
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def close(self) -> None:
        """A thread cannot be cancelled; it looks here before every piece."""
        self._is_closed = True

    async def _next(self) -> bytes:
        return await anext(self._pieces, b"")


def _multiaddr(url: str) -> tuple[str, str]:
    """(multiaddr, path of the API), which is how the package wants the URL."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns"
    return f"/{kind}/{host}/tcp/{port}/{parts.scheme}", f"{parts.path.rstrip('/')}/api/v0"
