"""The hardening was written against the text of libp2p 0.8.1. An upgrade that changes what it replaces, overrides or
relies on fails here: read the new text, decide anew, then take the new digest over."""

import hashlib
import inspect
from importlib.metadata import version

import pytest
from libp2p.host import basic_host
from libp2p.network import auto_connector, swarm
from libp2p.network.connection import swarm_connection
from libp2p.pubsub import gossipsub, pubsub, pubsub_notifee, rpc_queue, validators
from libp2p.security.noise import patterns, transport
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport import upgrader

from shared.adapters.gossip_libp2p import patches
from shared.adapters.gossip_libp2p.gate import GatedNoise
from shared.adapters.gossip_libp2p.muxer import BoundedYamux, CreditedStream
from shared.adapters.gossip_libp2p.pubsub import MemberPubsub
from shared.adapters.gossip_libp2p.router import PeerQueue, SteadyGossipSub
from shared.adapters.gossip_libp2p.swarm import ExclusiveListener, MemberHost, MemberSwarm, NoAutoConnector
from shared.errors import ConfigError

# What is replaced by name, in which module.
REPLACED = [
    (pubsub, "RpcQueue", PeerQueue),
    (muxer_multistream, "Yamux", BoundedYamux),
    (yamux, "YamuxStream", CreditedStream),
]
# What is overridden or called though it is not public, and its text.
DIGESTS = {
    "GossipSub.__init__": (gossipsub, "GossipSub.__init__", "aa2c7451de9a63fa"),
    "GossipSub.publish": (gossipsub, "GossipSub.publish", "b978282af46297f7"),
    "GossipSub._get_peers_to_send": (gossipsub, "GossipSub._get_peers_to_send", "1d2d334126ca87ec"),
    "GossipSub.send_recent_messages": (gossipsub, "GossipSub.send_recent_messages", "10e4dc4bd29ec41b"),
    "GossipSub.flush_pending_messages": (gossipsub, "GossipSub.flush_pending_messages", "05a6b16c6a39b508"),
    "GossipSub.emit_control_message": (gossipsub, "GossipSub.emit_control_message", "557180d0b48c03db"),
    "GossipSub._handle_dropped_rpc": (gossipsub, "GossipSub._handle_dropped_rpc", "c81733f1db845ea1"),
    "GossipSub._emit_control_msgs": (gossipsub, "GossipSub._emit_control_msgs", "31b209cca3155276"),
    "GossipSub.handle_rpc": (gossipsub, "GossipSub.handle_rpc", "bb6f7311e2958a22"),
    "GossipSub.handle_ihave": (gossipsub, "GossipSub.handle_ihave", "f6e76650441d182b"),
    "GossipSub.handle_iwant": (gossipsub, "GossipSub.handle_iwant", "cae61a447ac52c39"),
    "GossipSub.handle_graft": (gossipsub, "GossipSub.handle_graft", "12206b0c497aaccd"),
    "GossipSub.handle_prune": (gossipsub, "GossipSub.handle_prune", "c61235b1862b7fab"),
    "GossipSub._do_px": (gossipsub, "GossipSub._do_px", "4b102fbb716dafc9"),
    "GossipSub.heartbeat": (gossipsub, "GossipSub.heartbeat", "5e68bdb5a65be44f"),
    "GossipSub.mesh_heartbeat": (gossipsub, "GossipSub.mesh_heartbeat", "57f36f0ee54dd461"),
    "GossipSub._perform_opportunistic_grafting": (
        gossipsub,
        "GossipSub._perform_opportunistic_grafting",
        "9450ce094dbedc9a",
    ),
    "GossipSub._consider_peer_replacement": (gossipsub, "GossipSub._consider_peer_replacement", "02620735cc46bfb9"),
    "GossipSub.remove_peer": (gossipsub, "GossipSub.remove_peer", "bc0ead5b37c88dc3"),
    "GossipSub.add_peer": (gossipsub, "GossipSub.add_peer", "01b648c9e80b0b5c"),
    "GossipSub.on_peer_subscribed": (gossipsub, "GossipSub.on_peer_subscribed", "20379c0803d1b02f"),
    "GossipSub.send_rpc": (gossipsub, "GossipSub.send_rpc", "9829bb1473a299fb"),
    "GossipSub._add_back_off": (gossipsub, "GossipSub._add_back_off", "72076b56bb3004a0"),
    "GossipSub._check_back_off": (gossipsub, "GossipSub._check_back_off", "aab720b22c2eb651"),
    "GossipSub._check_graft_flood_protection": (
        gossipsub,
        "GossipSub._check_graft_flood_protection",
        "812b382b84338a41",
    ),
    "GossipSub._check_ihave_rate_limit": (gossipsub, "GossipSub._check_ihave_rate_limit", "39b5032688e9e1c2"),
    "GossipSub._periodic_security_cleanup": (gossipsub, "GossipSub._periodic_security_cleanup", "885da3853ca2f09d"),
    "Pubsub.__init__": (pubsub, "Pubsub.__init__", "fc7e7f95ffc4b135"),
    "Pubsub.run": (pubsub, "Pubsub.run", "98a3e7ada7e7a53c"),
    "Pubsub.get_hello_packet": (pubsub, "Pubsub.get_hello_packet", "1161dbb181dfb9f4"),
    "Pubsub.continuously_read_stream": (pubsub, "Pubsub.continuously_read_stream", "ac0c4ad87ca39288"),
    "Pubsub.stream_handler": (pubsub, "Pubsub.stream_handler", "4be06aba2f448b7b"),
    "Pubsub._handle_new_peer": (pubsub, "Pubsub._handle_new_peer", "305ba4224e6151d7"),
    "Pubsub._handle_new_peer_with_retry": (pubsub, "Pubsub._handle_new_peer_with_retry", "123bb71089592a00"),
    "Pubsub._schedule_peer_stream_retry": (pubsub, "Pubsub._schedule_peer_stream_retry", "0378fb84f4ed5fee"),
    "Pubsub._peer_is_connected": (pubsub, "Pubsub._peer_is_connected", "1dd78337297eb229"),
    "Pubsub._handle_dead_peer": (pubsub, "Pubsub._handle_dead_peer", "10026d998d3016b4"),
    "Pubsub._forget_all_subscriptions": (pubsub, "Pubsub._forget_all_subscriptions", "5e83d2f0d145fb18"),
    "Pubsub._replay_recent_messages": (pubsub, "Pubsub._replay_recent_messages", "7354a121f0a1013c"),
    "Pubsub.handle_dead_peer_queue": (pubsub, "Pubsub.handle_dead_peer_queue", "8071f96dbabdc7c8"),
    "Pubsub.handle_sending_messages": (pubsub, "Pubsub.handle_sending_messages", "4eb0b978f9c4b142"),
    "Pubsub.handle_subscription": (pubsub, "Pubsub.handle_subscription", "c200deee0f0a965c"),
    "Pubsub._build_announce_rpc": (pubsub, "Pubsub._build_announce_rpc", "d47558b6295da716"),
    "Pubsub.subscribe": (pubsub, "Pubsub.subscribe", "935991d27b658c35"),
    "Pubsub.unsubscribe": (pubsub, "Pubsub.unsubscribe", "f4b88ac21bbb86de"),
    "Pubsub.message_all_peers": (pubsub, "Pubsub.message_all_peers", "d219135b2f978ce2"),
    "Pubsub.publish": (pubsub, "Pubsub.publish", "5e875e00e471afb8"),
    "Pubsub.push_msg": (pubsub, "Pubsub.push_msg", "1531483ab4d77674"),
    "Pubsub._next_seqno": (pubsub, "Pubsub._next_seqno", "518c47aeb8ac58f8"),
    "Pubsub.write_msg": (pubsub, "Pubsub.write_msg", "ee86b14b4181afff"),
    "PubsubNotifee": (pubsub_notifee, "PubsubNotifee", "816947047eace1bc"),
    "RpcQueue": (rpc_queue, "RpcQueue", "f816055e5c2b6a3c"),
    "signature_validator": (validators, "signature_validator", "4ef201cd300c8e3e"),
    "Swarm._init_connection_management": (swarm, "Swarm._init_connection_management", "0488b2e8ec414e5e"),
    "Swarm.run": (swarm, "Swarm.run", "15ac9440b4fed110"),
    "Swarm.listen": (swarm, "Swarm.listen", "c23f133cd5acc0a9"),
    "Swarm.dial_addr": (swarm, "Swarm.dial_addr", "d8224e38e702f063"),
    "Swarm._dial_with_retry": (swarm, "Swarm._dial_with_retry", "bd2025f00c84dddb"),
    "Swarm._dial_addr_single_attempt": (swarm, "Swarm._dial_addr_single_attempt", "54e3f8e1ea5b966e"),
    "Swarm.upgrade_outbound_raw_conn": (swarm, "Swarm.upgrade_outbound_raw_conn", "54a8867681b2f4f0"),
    "Swarm.upgrade_inbound_raw_conn": (swarm, "Swarm.upgrade_inbound_raw_conn", "e24c4285f494767a"),
    "Swarm.add_conn": (swarm, "Swarm.add_conn", "d469d71b3ed1f4df"),
    "Swarm._trim_connections": (swarm, "Swarm._trim_connections", "bbc40f6542d22196"),
    "Swarm.remove_conn": (swarm, "Swarm.remove_conn", "0a3e93157b1a04c3"),
    "Swarm.get_connections": (swarm, "Swarm.get_connections", "ef8124785c97b1f7"),
    "SwarmConn": (swarm_connection, "SwarmConn", "5b5613ad6d1909c2"),
    "AutoConnector.maybe_connect": (auto_connector, "AutoConnector.maybe_connect", "018fac95eafc2413"),
    "BasicHost.__init__": (basic_host, "BasicHost.__init__", "6a81506e92fbd211"),
    "BasicHost.run": (basic_host, "BasicHost.run", "49d086030a367765"),
    "BasicHost._schedule_identify": (basic_host, "BasicHost._schedule_identify", "d24ee6400132b4af"),
    "BasicHost._swarm_stream_handler": (basic_host, "BasicHost._swarm_stream_handler", "cec985884b1ba269"),
    "BasicHost.new_stream": (basic_host, "BasicHost.new_stream", "df9efa1bac504f42"),
    "YamuxStream.write": (yamux, "YamuxStream.write", "d87f74dfb53ab194"),
    "YamuxStream._auto_tune_and_send_window_update": (
        yamux,
        "YamuxStream._auto_tune_and_send_window_update",
        "6ebcbd822fe7f996",
    ),
    "YamuxStream.send_window_update": (yamux, "YamuxStream.send_window_update", "f76fe6e67077b4a3"),
    "Yamux.__init__": (yamux, "Yamux.__init__", "3b11a2a71ca444ca"),
    "Yamux.handle_incoming": (yamux, "Yamux.handle_incoming", "ad15ff6943feac20"),
    "Yamux._measure_rtt_loop": (yamux, "Yamux._measure_rtt_loop", "86222ce6e35836fd"),
    "Yamux._cleanup_on_error": (yamux, "Yamux._cleanup_on_error", "4fed61a999a34989"),
    "Yamux.close": (yamux, "Yamux.close", "d80b27e69ccd1b89"),
    "Yamux.start": (yamux, "Yamux.start", "bd1a114758a61e42"),
    "MuxerMultistream.new_conn": (muxer_multistream, "MuxerMultistream.new_conn", "91d21f40f524ad99"),
    "TransportUpgrader": (upgrader, "TransportUpgrader", "f7946861dc3853a0"),
    "Transport.secure_inbound": (transport, "Transport.secure_inbound", "4c447c4ea56267b1"),
    "Transport.secure_outbound": (transport, "Transport.secure_outbound", "f5be8851b898cbf1"),
    "PatternXX": (patterns, "PatternXX", "c93d72d8a624e940"),
}
OWN_CLASSES = [
    (CreditedStream, yamux.YamuxStream),
    (BoundedYamux, yamux.Yamux),
    (GatedNoise, transport.Transport),
    (PeerQueue, rpc_queue.RpcQueue),
    (SteadyGossipSub, gossipsub.GossipSub),
    (MemberPubsub, pubsub.Pubsub),
    (MemberSwarm, swarm.Swarm),
    (MemberHost, basic_host.BasicHost),
    (NoAutoConnector, auto_connector.AutoConnector),
]
NEW_NAMES = {  # ours alone: must not be names of the library, or they override by accident
    BoundedYamux: {"_on_overrun", "_ping"},
    CreditedStream: set(),
    GatedNoise: {"_admit"},
    PeerQueue: set(),
    SteadyGossipSub: {"_receivers"},
    MemberPubsub: {
        *("_pace", "_handle_rpc", "_own_topics", "drop_dead_streams", "_accept_own", "_accept", "_hand_over"),
        *("_admit", "_admit_authentic", "_validate", "_strike"),
    },
    MemberSwarm: {"hang_up", "living", "_on_incoming", "_secure"},
    MemberHost: {"_handle"},
    NoAutoConnector: set(),
}


def digest(item: object) -> str:
    return hashlib.sha256(inspect.getsource(item).encode()).hexdigest()[:16]


def stock(module: object, name: str) -> object:
    """The library's own object, also where a patch stands in its place."""
    item = module
    for part in name.split("."):
        item = getattr(item, part)
    return item


def test_the_version_is_the_one_that_was_read():
    assert version("libp2p") == patches.SUPPORTED_VERSION


@pytest.mark.parametrize("name", DIGESTS)
def test_the_text_is_the_one_that_was_read(name):
    module, path, expected = DIGESTS[name]
    assert digest(stock(module, path)) == expected, f"{name} changed: read it again"


@pytest.mark.parametrize(("own", "base"), OWN_CLASSES, ids=lambda item: item.__name__)
def test_every_override_overrides_something(own, base):
    methods = {name for name, value in vars(own).items() if inspect.isfunction(value) and not name.startswith("__")}
    overrides = methods - NEW_NAMES[own]
    assert all(hasattr(base, name) for name in overrides), overrides
    assert not any(hasattr(base, name) for name in NEW_NAMES[own])


@pytest.mark.parametrize(("own", "base"), OWN_CLASSES, ids=lambda item: item.__name__)
def test_every_override_takes_what_the_original_takes(own, base):
    for name, value in vars(own).items():
        if inspect.isfunction(value) and not name.startswith("__") and name not in NEW_NAMES[own]:
            mine, theirs = inspect.signature(value).parameters, inspect.signature(getattr(base, name)).parameters
            assert list(mine) == list(theirs), name


def test_the_names_that_are_replaced_exist_and_are_used():
    patches.install()
    for module, name, own in REPLACED:
        assert getattr(module, name) is own
        assert inspect.getsource(module).count(f"{name}(") > 0, f"{module.__name__} does not make a {name} any more"
    assert yamux.MAX_WINDOW_SIZE == 256 * 1024
    assert inspect.getsource(yamux.Yamux.handle_incoming).count("MAX_WINDOW_SIZE") > 0


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(patches, "version", lambda name: "0.9.0")
    with pytest.raises(ConfigError, match=r"0\.9\.0"):
        patches.install()


def test_a_listener_is_all_that_a_listener_has_to_be():
    assert not getattr(ExclusiveListener, "__abstractmethods__", None)
