"""The connection layer: one exclusive listening socket, bounded strangers, no dialling but ours."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog
import trio
from libp2p.abc import IListener, IMuxedConn, INetConn, INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.utils.multiaddr_utils import extract_ip_from_multiaddr, multiaddr_from_socket
from multiaddr import Multiaddr

from shared.adapters.gossip_common import Count, Counters
from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.budgets import HandshakeQuota

log = structlog.get_logger(__name__)
INBOUND = Multiaddr("/ip4/0.0.0.0/tcp/0")  # libp2p wants an address for its log lines
Handler = Callable[[ReadWriteCloser], Awaitable[None]]


class NoAutoConnector(AutoConnector):
    async def maybe_connect(self) -> None:
        # D21: stock dials addresses that peers claimed for themselves; only the keeper dials, what the registry says.
        return


class ExclusiveListener(IListener):
    """D22: stock listens with SO_REUSEPORT, so a second process on the port starts and takes half the connections."""

    def __init__(self, handler: Handler, nursery: trio.Nursery) -> None:
        self._handler, self._nursery = handler, nursery
        self._listeners: list[trio.SocketListener] = []
        self._scope = trio.CancelScope()

    async def listen(self, maddr: Multiaddr) -> None:
        """Raises `OSError` when the port is taken."""
        host, port = extract_ip_from_multiaddr(maddr), int(maddr.value_for_protocol("tcp") or 0)
        self._listeners = list(await trio.open_tcp_listeners(port, host=host))
        self._nursery.start_soon(self._serve)

    async def _serve(self) -> None:
        with self._scope:
            await trio.serve_listeners(self._accept, self._listeners, handler_nursery=self._nursery)

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            await self._handler(TrioTCPStream(stream))
        except Exception as error:  # noqa: BLE001  whatever a stranger's connection ends in must end there
            log.debug("an incoming connection failed", error=repr(error))

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(multiaddr_from_socket(listener.socket) for listener in self._listeners)

    async def close(self) -> None:
        self._scope.cancel()
        for listener in self._listeners:
            await listener.aclose()


class MemberSwarm(Swarm):
    """Connections among members."""

    counters: Counters
    quota: HandshakeQuota

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        self.auto_connector = NoAutoConnector(self)

    async def listen(self, *multiaddrs: Multiaddr) -> bool:
        """Raises `OSError`; stock returns False, and nobody asks."""
        await self.event_background_nursery_created.wait()
        assert self.background_nursery is not None  # noqa: S101  that is what the event says
        for maddr in multiaddrs:
            listener = ExclusiveListener(self._on_incoming, self.background_nursery)
            await listener.listen(maddr)
            self.listeners[str(maddr)] = listener
        return True

    def _trim_connections(self, peer_id: ID) -> None:
        # D38: stock lets a peer have any number of connections for twenty seconds, then closes the least used. The
        # newest ones are the likeliest to live.
        connections = self.connections[peer_id]
        keep = limits.MAX_CONNECTIONS_PER_PEER
        for connection in connections[:-keep]:
            self.manager.run_task(self.hang_up, connection)
        self.connections[peer_id] = connections[-keep:]

    def living(self) -> set[ID]:
        """Peers with an open connection. D39: stock keeps some closed ones on its list for ever, and counts them."""
        for connection in self.get_connections():
            if connection.muxed_conn.is_closed:
                self.remove_conn(cast(SwarmConn, connection))
        return set(self.get_connections_map())

    async def hang_up(self, connection: INetConn) -> None:
        """The socket first: whatever libp2p still wants to say on the way could block on a peer that does not read."""
        await connection.muxed_conn.secured_conn.close()  # type: ignore[attr-defined]
        await connection.close()

    async def _on_incoming(self, stream: ReadWriteCloser) -> None:
        """Returns when the connection is over: the listener then closes the socket."""
        muxed = await self._secure(stream)
        if muxed is not None:
            # D23: stock keeps the slot of an incoming connection until the node stops: after 250 it takes no more.
            await muxed.event_closed.wait()

    async def _secure(self, stream: ReadWriteCloser) -> Any:
        """A member's connection, or None."""
        remote = stream.get_remote_address()
        host = remote[0] if remote else ""
        if not self.quota.enter(host, time.monotonic()):
            self.counters.add(Count.HANDSHAKES_REFUSED)
            return None
        try:
            return await self.upgrade_inbound_raw_conn(RawConnection(stream, False), INBOUND)
        except Exception as error:  # noqa: BLE001  strangers fail handshakes in every possible way
            self.counters.add(Count.HANDSHAKES_FAILED)
            log.debug("an incoming handshake failed", host=host, error=repr(error))
            return None
        finally:
            self.quota.leave(host)


class MemberHost(BasicHost):
    """A host whose stream handlers cannot end it."""

    def __init__(self, network: Swarm, counters: Counters) -> None:
        super().__init__(network=network, disable_identify_address_discovery=True)
        self.counters = counters
        self.remove_stream_handler(ID_PUSH)  # nobody updates what we know of members but the registry
        self._open_streams: dict[IMuxedConn, int] = {}

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        # D21: stock asks each peer for its addresses and protocols and believes the answer.
        return

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        connection = net_stream.muxed_conn
        count = self._open_streams.get(connection, 0)
        if count >= limits.MAX_STREAMS_PER_CONNECTION:
            self.counters.add(Count.STREAMS_REFUSED)
            await net_stream.reset()
            return
        self._open_streams[connection] = count + 1
        try:
            await self._handle(net_stream)
        finally:
            self._open_streams[connection] -= 1
            if not self._open_streams[connection]:
                del self._open_streams[connection]

    async def _handle(self, net_stream: INetStream) -> None:
        # D11: an exception that leaves any stream handler, or the negotiation before it, ends the whole host.
        try:
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:  # noqa: BLE001  a peer's stream must not end the node
            self.counters.add(Count.STREAMS_FAILED)
            log.debug("a stream handler failed", error=repr(error))
            await net_stream.reset()
