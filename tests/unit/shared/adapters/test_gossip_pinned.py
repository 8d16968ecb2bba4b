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

MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        *(gossipsub, pubsub, pubsub_notifee, rpc_queue, validators, swarm, swarm_connection, auto_connector),
        *(basic_host, yamux, muxer_multistream, upgrader, transport, patterns),
    )
}
# What is replaced by name, in which module.
REPLACED = [
    (pubsub, "RpcQueue", PeerQueue),
    (muxer_multistream, "Yamux", BoundedYamux),
    (yamux, "YamuxStream", CreditedStream),
]
# What is overridden, called though it is not public, or relied on, and the beginning of its text's SHA-256.
DIGESTS = {
    "gossipsub.GossipSub.__init__": "aa2c7451de9a63fa",
    "gossipsub.GossipSub.publish": "b978282af46297f7",
    "gossipsub.GossipSub._get_peers_to_send": "1d2d334126ca87ec",
    "gossipsub.GossipSub.send_recent_messages": "10e4dc4bd29ec41b",
    "gossipsub.GossipSub.flush_pending_messages": "05a6b16c6a39b508",
    "gossipsub.GossipSub.emit_control_message": "557180d0b48c03db",
    "gossipsub.GossipSub._handle_dropped_rpc": "c81733f1db845ea1",
    "gossipsub.GossipSub._emit_control_msgs": "31b209cca3155276",
    "gossipsub.GossipSub.handle_rpc": "bb6f7311e2958a22",
    "gossipsub.GossipSub.handle_ihave": "f6e76650441d182b",
    "gossipsub.GossipSub.handle_iwant": "cae61a447ac52c39",
    "gossipsub.GossipSub.handle_graft": "12206b0c497aaccd",
    "gossipsub.GossipSub.handle_prune": "c61235b1862b7fab",
    "gossipsub.GossipSub._do_px": "4b102fbb716dafc9",
    "gossipsub.GossipSub.heartbeat": "5e68bdb5a65be44f",
    "gossipsub.GossipSub.mesh_heartbeat": "57f36f0ee54dd461",
    "gossipsub.GossipSub._perform_opportunistic_grafting": "9450ce094dbedc9a",
    "gossipsub.GossipSub._consider_peer_replacement": "02620735cc46bfb9",
    "gossipsub.GossipSub.remove_peer": "bc0ead5b37c88dc3",
    "gossipsub.GossipSub.add_peer": "01b648c9e80b0b5c",
    "gossipsub.GossipSub.on_peer_subscribed": "20379c0803d1b02f",
    "gossipsub.GossipSub.send_rpc": "9829bb1473a299fb",
    "gossipsub.GossipSub._add_back_off": "72076b56bb3004a0",
    "gossipsub.GossipSub._check_back_off": "aab720b22c2eb651",
    "gossipsub.GossipSub._check_graft_flood_protection": "812b382b84338a41",
    "gossipsub.GossipSub._check_ihave_rate_limit": "39b5032688e9e1c2",
    "gossipsub.GossipSub._periodic_security_cleanup": "885da3853ca2f09d",
    "pubsub.Pubsub.__init__": "fc7e7f95ffc4b135",
    "pubsub.Pubsub.run": "98a3e7ada7e7a53c",
    "pubsub.Pubsub.get_hello_packet": "1161dbb181dfb9f4",
    "pubsub.Pubsub.continuously_read_stream": "ac0c4ad87ca39288",
    "pubsub.Pubsub.stream_handler": "4be06aba2f448b7b",
    "pubsub.Pubsub._handle_new_peer": "305ba4224e6151d7",
    "pubsub.Pubsub._handle_new_peer_with_retry": "123bb71089592a00",
    "pubsub.Pubsub._schedule_peer_stream_retry": "0378fb84f4ed5fee",
    "pubsub.Pubsub._peer_is_connected": "1dd78337297eb229",
    "pubsub.Pubsub._handle_dead_peer": "10026d998d3016b4",
    "pubsub.Pubsub._forget_all_subscriptions": "5e83d2f0d145fb18",
    "pubsub.Pubsub._replay_recent_messages": "7354a121f0a1013c",
    "pubsub.Pubsub.handle_dead_peer_queue": "8071f96dbabdc7c8",
    "pubsub.Pubsub.handle_sending_messages": "4eb0b978f9c4b142",
    "pubsub.Pubsub.handle_subscription": "c200deee0f0a965c",
    "pubsub.Pubsub._build_announce_rpc": "d47558b6295da716",
    "pubsub.Pubsub.subscribe": "935991d27b658c35",
    "pubsub.Pubsub.unsubscribe": "f4b88ac21bbb86de",
    "pubsub.Pubsub.message_all_peers": "d219135b2f978ce2",
    "pubsub.Pubsub.publish": "5e875e00e471afb8",
    "pubsub.Pubsub.push_msg": "1531483ab4d77674",
    "pubsub.Pubsub._next_seqno": "518c47aeb8ac58f8",
    "pubsub.Pubsub.write_msg": "ee86b14b4181afff",
    "pubsub_notifee.PubsubNotifee": "816947047eace1bc",
    "rpc_queue.RpcQueue": "f816055e5c2b6a3c",
    "validators.signature_validator": "4ef201cd300c8e3e",
    "swarm.Swarm._init_connection_management": "0488b2e8ec414e5e",
    "swarm.Swarm.run": "15ac9440b4fed110",
    "swarm.Swarm.listen": "c23f133cd5acc0a9",
    "swarm.Swarm.dial_addr": "d8224e38e702f063",
    "swarm.Swarm._dial_with_retry": "bd2025f00c84dddb",
    "swarm.Swarm._dial_addr_single_attempt": "54e3f8e1ea5b966e",
    "swarm.Swarm.upgrade_outbound_raw_conn": "54a8867681b2f4f0",
    "swarm.Swarm.upgrade_inbound_raw_conn": "e24c4285f494767a",
    "swarm.Swarm.add_conn": "d469d71b3ed1f4df",
    "swarm.Swarm._trim_connections": "bbc40f6542d22196",
    "swarm.Swarm.remove_conn": "0a3e93157b1a04c3",
    "swarm.Swarm.get_connections": "ef8124785c97b1f7",
    "swarm_connection.SwarmConn": "5b5613ad6d1909c2",
    "auto_connector.AutoConnector.maybe_connect": "018fac95eafc2413",
    "basic_host.BasicHost.__init__": "6a81506e92fbd211",
    "basic_host.BasicHost.run": "49d086030a367765",
    "basic_host.BasicHost._schedule_identify": "d24ee6400132b4af",
    "basic_host.BasicHost._swarm_stream_handler": "cec985884b1ba269",
    "basic_host.BasicHost.new_stream": "df9efa1bac504f42",
    "yamux.YamuxStream.write": "d87f74dfb53ab194",
    "yamux.YamuxStream._auto_tune_and_send_window_update": "6ebcbd822fe7f996",
    "yamux.YamuxStream.send_window_update": "f76fe6e67077b4a3",
    "yamux.Yamux.__init__": "3b11a2a71ca444ca",
    "yamux.Yamux.handle_incoming": "ad15ff6943feac20",
    "yamux.Yamux._measure_rtt_loop": "86222ce6e35836fd",
    "yamux.Yamux._cleanup_on_error": "4fed61a999a34989",
    "yamux.Yamux.close": "d80b27e69ccd1b89",
    "yamux.Yamux.start": "bd1a114758a61e42",
    "muxer_multistream.MuxerMultistream.new_conn": "91d21f40f524ad99",
    "upgrader.TransportUpgrader": "f7946861dc3853a0",
    "transport.Transport.secure_inbound": "4c447c4ea56267b1",
    "transport.Transport.secure_outbound": "f5be8851b898cbf1",
    "patterns.PatternXX": "c93d72d8a624e940",
}
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


def stock(name: str) -> object:
    """The library's own object, also where a patch stands in its place."""
    module, *path = name.split(".")
    item: object = MODULES[module]
    for part in path:
        item = getattr(item, part)
        if inspect.isclass(item) and item.__module__.startswith("shared."):
            item = item.__base__
    return item


def overrides(own: type) -> dict[str, object]:
    methods = {name: value for name, value in vars(own).items() if inspect.isfunction(value)}
    return {name: value for name, value in methods.items() if not name.startswith("__") and name not in NEW_NAMES[own]}


def test_the_version_is_the_one_that_was_read():
    assert version("libp2p") == patches.SUPPORTED_VERSION


@pytest.mark.parametrize("name", DIGESTS)
def test_the_text_is_the_one_that_was_read(name):
    text = inspect.getsource(stock(name))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[name], f"{name} changed: read it again"


@pytest.mark.parametrize("own", NEW_NAMES, ids=lambda own: own.__name__)
def test_every_override_overrides_something(own):
    assert {name for name in overrides(own) if not hasattr(own.__base__, name)} == set()
    assert {name for name in NEW_NAMES[own] if hasattr(own.__base__, name)} == set(), "ours, and now theirs too"


@pytest.mark.parametrize("own", NEW_NAMES, ids=lambda own: own.__name__)
def test_every_override_takes_what_the_original_takes(own):
    for name, mine in overrides(own).items():
        theirs = getattr(own.__base__, name)
        assert list(inspect.signature(mine).parameters) == list(inspect.signature(theirs).parameters), name


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
