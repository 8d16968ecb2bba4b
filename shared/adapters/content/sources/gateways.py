"""The trustless gateways of the operator's own settings: public ones as a rule, which look for what they lack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
from yarl import URL

from shared.adapters.content.session import open_session
from shared.adapters.content.sources import answers
from shared.adapters.content.sources.downloads import Download
from shared.content.cid import Block, Codec, codec_of
from shared.errors import SourceFailed
from shared.interfaces import Meter, Wanted
from shared.reasons import SourceFault
from shared.types import Cid, SourceKind

ARCHIVE_SECONDS = answers.ATTEMPT_SECONDS / 2  # for a block to come in an archive; the rest is for asking it alone
MAX_DOWNLOADS = 4  # files at once from one gateway; each may hold `downloads.MAX_HELD_BYTES`, more go block by block
# After these the gateway may still have the block: it knows no CARs, or makes other ones than were asked for.
_WORTH_ANOTHER_TRY = frozenset({SourceFault.BAD_ANSWER, SourceFault.TOO_LARGE, SourceFault.WRONG_BYTES})


@asynccontextmanager
async def open_gateways(urls: Sequence[str]) -> AsyncIterator[list[ConfiguredGateway]]:
    """In this order. What they are connected at is the operator's own choice, so that no address is refused."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(None))
        gateways = [
            # Not the URL itself: its path may be a key.
            ConfiguredGateway(session, f"gateway {number} ({URL(url).host})", url)
            for number, url in enumerate(urls, 1)
        ]
        for gateway in gateways:
            stack.push_async_callback(gateway.close)
        yield gateways


class ConfiguredGateway:
    """A file of several blocks comes by one request for a CAR, begun with its root; all else block by block."""

    kind = SourceKind.GATEWAY

    def __init__(self, session: aiohttp.ClientSession, name: str, base_url: str) -> None:
        self._session, self._name, self._base_url = session, name, base_url
        self._downloads: dict[Cid, Download] = {}

    @property
    def name(self) -> str:
        return self._name

    async def close(self) -> None:
        await asyncio.gather(*(download.close() for download in list(self._downloads.values())))

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        async with answers.attempt():
            block = await self._from_archive(wanted, meter)
            return block or await answers.raw_block(self._session, self._base_url, wanted.cid, meter)

    async def _from_archive(self, wanted: Wanted, meter: Meter) -> Block | None:
        """None when the block has to be asked for alone."""
        download = self._downloads.get(wanted.root) or self._begun(wanted)
        if download is None:
            return None
        try:
            async with asyncio.timeout(ARCHIVE_SECONDS):
                return await download.block(wanted.cid, meter)
        except TimeoutError:
            return None
        except SourceFailed as failure:
            if failure.fault in _WORTH_ANOTHER_TRY:
                return None
            raise

    def _begun(self, wanted: Wanted) -> Download | None:
        """Not for a file whose root is here already: some of its blocks are, too, and a CAR has them all."""
        if wanted.cid != wanted.root or codec_of(wanted.root) is Codec.RAW or len(self._downloads) == MAX_DOWNLOADS:
            return None
        download = Download(answers.car_pieces(self._session, self._base_url, wanted.root))
        self._downloads[wanted.root] = download
        download.task.add_done_callback(lambda _: self._downloads.pop(wanted.root, None))
        return download
