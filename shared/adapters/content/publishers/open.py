"""The publishers that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp

from shared.adapters.content.eigenda import EigenDaProxy
from shared.adapters.content.kubo import answers
from shared.adapters.content.kubo.publisher import KuboPublisher
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.adapters.content.publishers.eigenda import EigenDaPublisher
from shared.adapters.content.publishers.pinata import PinataPublisher
from shared.adapters.content.publishers.pinning_service import CONNECT_SECONDS, PinningServicePublisher
from shared.adapters.content.publishers.service import Service, read_token, upload_seconds
from shared.adapters.content.session import open_session
from shared.adapters.content.stores import kubo_rpc
from shared.config import Config
from shared.interfaces import LocalContent, Publisher

FILEBASE = answers.Service("filebase", "publish.filebase_url", "publish.filebase_token_file")


@asynccontextmanager
async def open_publishers(config: Config, content: LocalContent) -> AsyncIterator[tuple[Publisher, ...]]:
    """Those of `publish.to`, in its order. Raises `ConfigError` when a token's file cannot be used."""
    async with AsyncExitStack() as stack:
        opening = _Opening(config, content, stack)
        yield tuple([await opening.publisher(name) for name in config.publish.to])


class _Opening:
    """What several publishers share is opened once, by the first that needs it."""

    def __init__(self, config: Config, content: LocalContent, stack: AsyncExitStack) -> None:
        self._config, self._content, self._stack = config, content, stack
        self._opened_session: aiohttp.ClientSession | None = None
        self._opened_kubo: KuboRpc | None = None

    async def publisher(self, name: str) -> Publisher:
        settings = self._config.publish
        match name:
            case "kubo":
                return KuboPublisher(await self._kubo(), self._content)
            case "pinning-service":
                token = read_token(settings.pinning_service_token_file, "publish.pinning_service_token_file")
                return await self._pinning_service(settings.pinning_service_url, token)
            case "pinata":
                token = read_token(settings.pinata_token_file, "publish.pinata_token_file")
                service = Service(await self._session(), "pinata", settings.pinata_url, token)
                return PinataPublisher(service, self._content)
            case "filebase":  # Kubo's API behind a token: a CAR of our blocks has our CID
                token = read_token(settings.filebase_token_file, "publish.filebase_token_file")
                rpc = KuboRpc(settings.filebase_url, authorization=f"Bearer {token}", service=FILEBASE)
                api = await self._stack.enter_async_context(rpc)
                return KuboPublisher(api, self._content, name="filebase", seconds_for=upload_seconds)
            case "eigenda":
                proxy = EigenDaProxy(await self._session(), self._config.content.eigenda_url)
                return EigenDaPublisher(proxy, self._content)
            case _:
                raise ValueError(f"no publisher is called {name!r}; the settings allow none but those above")

    async def _pinning_service(self, url: str, token: str) -> PinningServicePublisher:
        """The service fetches from the own node, so each file goes there first."""
        kubo = await self._kubo()
        return PinningServicePublisher(
            Service(await self._session(), "pinning-service", url, token),
            origins=self._config.content.sources,
            provide=KuboPublisher(kubo, self._content).publish,
            connect=partial(kubo.connect, seconds=CONNECT_SECONDS),
        )

    async def _session(self) -> aiohttp.ClientSession:
        if self._opened_session is None:
            self._opened_session = await self._stack.enter_async_context(open_session(None))
        return self._opened_session

    async def _kubo(self) -> KuboRpc:
        if self._opened_kubo is None:
            self._opened_kubo = await self._stack.enter_async_context(kubo_rpc(self._config.content))
        return self._opened_kubo
