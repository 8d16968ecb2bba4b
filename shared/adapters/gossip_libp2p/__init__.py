"""Gossip over libp2p 0.8.1: noise, yamux, GossipSub, among registered members only.

Nothing outside this package imports trio or libp2p.

py-libp2p is a young library: a stock node dies of one message of fifty bytes. Everything here that looks odd answers a
defect that was measured or read: `DEFECTS.md` lists them, and the code names them (D1 …) where it answers them.

    bridge     the thread, and calls into it       adapter   `LibP2PGossip`
    node       puts the parts together             keeper    dials members, disconnects others
    gate       noise for members                   members   who that is; bans
    swarm      connections and streams             muxer     yamux with flow control
    pubsub     the path of a message               router    the mesh
    budgets    rates and strikes                   limits    every number
"""

from shared.adapters.gossip_libp2p.adapter import LibP2PGossip

__all__ = ["LibP2PGossip"]
