"""Bounds of the libp2p transport, each with its reason. Protocol numbers are in `shared.constants`."""

from __future__ import annotations

from shared.constants import ORIGIN_BURST, ORIGIN_RATE_PER_SECOND

# --- connections -----------------------------------------------------------------------------------
MAX_CONNECTIONS = 1024  # far over any operator set; each costs a socket and about 1 MB
MAX_CONNECTIONS_PER_PEER = 4  # two that crossed in dialling, and two that a crashed host left behind
MAX_PENDING_HANDSHAKES = 256  # strangers who have not proved a key yet
MAX_PENDING_HANDSHAKES_PER_HOST = 64  # a testnet of 64 nodes starts on one address
HANDSHAKES_PER_SECOND_PER_HOST = 10.0  # a handshake costs about 5 ms: a host may take 5 % of a core
HANDSHAKE_BURST_PER_HOST = 100.0
MAX_REMEMBERED_HOSTS = 4096
HANDSHAKE_SECONDS = 5.0
DIAL_SECONDS = 8.0
MAX_CONCURRENT_DIALS = 16
MAX_STREAMS_PER_CONNECTION = 16  # pubsub uses one, identify and ping one each for a moment

# --- keeping members connected -----------------------------------------------------------------------
KEEPER_SECONDS = 0.2  # membership and connections are compared this often ("within a second")
MEMBERS_SECONDS = 0.25  # the caller's view of the members is read this often
SECOND_DIALLER_SECONDS = 0.5  # the larger key lets the smaller one dial first, so that two dials rarely cross
REDIAL_MIN_SECONDS = 0.5
REDIAL_MAX_SECONDS = 10.0
STABLE_SECONDS = 5.0  # a connection that lives so long forgives the failures before it
UNREGISTERED_SECONDS = 1.0  # a connection without a pubsub stream for so long gets another attempt
HANG_UP_SECONDS = 1.0  # for saying good-bye to everybody
PING_SECONDS = 10.0
PONG_SECONDS = 15.0  # a loaded machine may stall for seconds; a dead one never answers

# --- streams and frames ------------------------------------------------------------------------------
STREAM_WINDOW_BYTES = 256 * 1024  # yamux's own default; never grown, so this is what a stream can hold of our memory
WINDOW_CREDIT_BYTES = 64 * 1024  # credit goes back in steps of this, not a frame for each read
MAX_RPC_BYTES = 1 << 20  # what every libp2p implementation sends at most
RESET_SECONDS = 0.5
READ_BYTES = 64 * 1024

# --- what one peer may ask of us ------------------------------------------------------------------------
MAX_TOPIC_CHARACTERS = 256  # ours have about 70
MAX_SUBSCRIPTIONS = 32  # ours are four topics; a peer's list is memory of ours
MAX_CONTROL_IDS = 5000  # ids and entries in one control message, as in go-libp2p
MAX_WANTED_IDS = 500  # asked for in one IWANT
IWANT_BYTES_PER_HEARTBEAT = 2 << 20  # answers to one peer: a few hundred messages, not an amplifier
MAX_BACK_OFF_SECONDS = 60  # what a PRUNE may impose
FORWARDER_FACTOR = 10.0  # a forwarder relays for everybody
FORWARDER_RATE_PER_SECOND = ORIGIN_RATE_PER_SECOND * FORWARDER_FACTOR
FORWARDER_BURST = ORIGIN_BURST * FORWARDER_FACTOR
ORIGIN_BYTES_PER_SECOND = float(2 << 20)  # two full batch proposals
ORIGIN_BURST_BYTES = float(8 << 20)
FORWARDER_BYTES_PER_SECOND = ORIGIN_BYTES_PER_SECOND * FORWARDER_FACTOR
FORWARDER_BURST_BYTES = ORIGIN_BURST_BYTES * FORWARDER_FACTOR
OWN_SHARE = 0.8  # we publish below the rate that others enforce, since clocks and bursts differ

# --- queues --------------------------------------------------------------------------------------------
PEER_QUEUE_MESSAGES = 1024  # outgoing, for one peer
PEER_QUEUE_BYTES = 8 << 20

# --- bookkeeping ---------------------------------------------------------------------------------------
SEEN_SECONDS = 120.0
STRIKE_LIMIT = 20.0  # points; a refused message is 1, an unreadable stream 5
MALFORMED_STRIKES = 5.0
STRIKES_FORGIVEN_PER_SECOND = 0.1
BAN_SECONDS = 60.0
LOG_LINES_PER_SECOND = 2.0
LOG_BURST = 20.0
MAX_LOG_CHARACTERS = 300

# --- gossipsub -------------------------------------------------------------------------------------------
# Own messages go to every subscriber (see the router), so the mesh only has to reach whom the origin does not; each
# degree costs every node a copy of every message.
DEGREE, DEGREE_LOW, DEGREE_HIGH = 3, 2, 8
HEARTBEAT_SECONDS = 1
PRUNE_BACK_OFF_SECONDS = 10
UNSUBSCRIBE_BACK_OFF_SECONDS = 1  # a node that subscribes again must not wait ten seconds for its mesh
GOSSIP_WINDOW, GOSSIP_HISTORY = 3, 5  # heartbeats that IHAVE names, and that IWANT can still fetch
