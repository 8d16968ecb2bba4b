"""Numbers of the protocol, each with its unit and its reason. A stranger can influence none of them."""

from __future__ import annotations

# --- quorum (protocol §3) ------------------------------------------------------------------------
APPROVE_NUMERATOR = 2  # of 3: strictly more than two thirds
REJECT_NUMERATOR = 1  # of 3: strictly more than one third
QUORUM_DENOMINATOR = 3

# Ten pages of 104 seats, 232 bytes each (24,128 of the 24,576 bytes EIP-170 allows a page).
MAX_SEATS = 1040

# --- gossip (protocol §4) ------------------------------------------------------------------------
# The libp2p frame limit is 1 MiB and larger frames vanish silently; see research on py-libp2p.
MAX_MESSAGE_BYTES = 900_000
MAX_TASK_MESSAGE_BYTES = 32 * 1024  # parameters, data and two signatures, with room
MAX_VOTE_MESSAGE_BYTES = 1024
MAX_CERTIFICATE_MESSAGE_BYTES = 32 * 1024
MAX_BATCH_SIZE = 128  # certificates of about 2 KB: a proposal stays well under MAX_MESSAGE_BYTES
MAX_BATCH_MESSAGE_BYTES = MAX_MESSAGE_BYTES
# Remembered ids for "already seen": 65,536 of 32 bytes are 2 MiB at most, and an hour at 18 messages a second.
SEEN_CACHE_SIZE = 65_536
# Each origin may publish this many messages a second (burst in messages); a node spends about 2 ms on each.
ORIGIN_RATE_PER_SECOND = 50.0
ORIGIN_BURST = 200.0

# --- task requests -------------------------------------------------------------------------------
MAX_PARAMETERS_BYTES = 4 * 1024
MAX_DATA_BYTES = 4 * 1024  # what a contract may have to take as calldata: 64k gas at 16 a byte
MAX_DEADLINE_SECONDS = 24 * 3600  # a task kept open longer would hold its content and its seen-entry for ever
MAX_CID_CHARACTERS = 128

# --- content (protocol §5) -----------------------------------------------------------------------
CHUNK_BYTES = 1 << 20  # unixfs-v1-2025 (IPIP-499)
MAX_LINKS = 1024
MAX_BLOCK_BYTES = 2 << 20  # what bitswap carries; larger blocks are attacks
MAX_DAG_DEPTH = 8  # 1024**8 chunks is beyond any file
MAX_INPUT_BYTES = 4 << 20
MAX_PROOF_BYTES = 16 << 20
MAX_CARD_BYTES = 1 << 20
MAX_GOLDEN_BYTES = 16 << 20  # a card's golden vectors: 64 of a quarter of a megabyte
MAX_MODEL_BYTES = 64 << 30
MAX_SOURCES = 8  # that a performer names beside its proof
MAX_SOURCE_CHARACTERS = 256
MAX_EIGENDA_CERTIFICATE_BYTES = 8 * 1024  # version byte and RLP: about one or two KB, more with many signers missing
FETCH_TIMEOUT_SECONDS = 10.0  # for proofs, inputs and cards; a model gets its time by size
HEDGE_SECONDS = 0.3  # the next source is asked after this silence
# What the chain says is used where it was heard (`Roster.settle_seconds`); this is in its place before.
SETTLE_SECONDS = 7 * 24 * 3600
KEEP_MARGIN_SECONDS = 2 * 24 * 3600  # an epoch rolled late, clocks that differ, a slash executed late, a day's veto
# Who claims a share of a batch's fees needs its document: most claim by the month, and may miss one or two. Small ones,
# one every two seconds, take 16 GB in that time, which is within `content.max_bytes` as it comes.
BATCH_DOCUMENT_SECONDS = 90 * 24 * 3600
# A tenth of `content.max_bytes` as it comes: half a million small files, or a hundred and more proofs of the largest.
MAX_KEPT_BYTES_A_PERFORMER = 2 << 30
PROGRESS_SECONDS = 5.0  # between two lines about a fetch that takes long

# --- inference -----------------------------------------------------------------------------------
MAX_TEXT_TOKENS = 4096  # prompt and output together: a prefill of so many takes a CPU its minute; a card may lower it
MAX_ANSWER_BYTES = 256 * 1024  # of a service or a source: four times the next, it may say more than a card selects
MAX_JSON_OUTPUT_CHARACTERS = 64 * 1024  # what a service or a source may answer: a page of text, or a few hundred prices
MAX_TENSOR_ELEMENTS = 4 << 20
MAX_TENSOR_RANK = 8
INFERENCE_TIMEOUT_SECONDS = 60.0

# --- the performer's door ------------------------------------------------------------------------
MAX_RPC_BODY_BYTES = 8 << 20  # MAX_INPUT_BYTES as a JSON string with escapes
MAX_OPEN_TASKS = 1024  # accepted and not final; more are refused with "busy"
LONG_POLL_SECONDS = 30.0
MAX_LONG_POLLS = 256

# --- the duties (protocol §7) --------------------------------------------------------------------
REPUBLISH_SECONDS = 2.0
REPEAT_SECONDS = 1.0  # half of the above: an honest repetition always passes, a flood of copies does not
ABSTAIN_RETRY_SECONDS = 1.0  # doubles up to the next constant
ABSTAIN_RETRY_MAX_SECONDS = 15.0
MAX_CONCURRENT_VERIFICATIONS = 4
# An aggregator keeps at most a vote of 500 bytes a seat for each: 65 MB with 127 attesters, 0.5 GB with all seats.
MAX_POOLED_TASKS = 1024
MAX_EARLY_VOTES = 4096  # votes that came before their task
MAX_OPEN_VERIFICATIONS = 256  # tasks that an attester has under way; more are answered with "overloaded"
# A driver or a library that is updated under a running node shows within the hour; a test costs a few runs.
SELF_TEST_SECONDS = 3600.0
SELF_TEST_LIMIT_SECONDS = 300.0  # all vectors of a card; a card of 64 that take a minute each would hold an engine up
SELF_TEST_RETRY_SECONDS = 180.0  # after one that failed: a person mends what it names, and wants to see it soon
# Evidence outlives the dispute window and the exit of who voted, a day and a week where nobody chose longer.
EVIDENCE_SECONDS = 30 * 24 * 3600
MAX_EVIDENCE = 65_536  # votes: 17 MB of memory to know them by; a vote every 40 seconds for all of that time
MAX_EVIDENCE_STORE_BYTES = 512 << 20  # read once at the start, in about two seconds
BATCH_VOTE_SECONDS = 2.0
CHAIN_POLL_SECONDS = 0.25  # for events and receipts, which somebody waits for
ROSTER_POLL_SECONDS = 2.0  # six calls each time, two more after a roll; operators and epochs change by the hour
CONFIRMATIONS = 1

GWEI = 10**9
WAD = 10**18
