"""Hypothesis strategies for the protocol's values: whatever their types allow, honest or not."""

from __future__ import annotations

from hypothesis import strategies as st

from shared.constants import MAX_SEATS
from shared.digests import Domain
from shared.types import Address, BatchInfo, Cid, Digest, TaskCertificate, TaskInfo, TaskRequest, Uint256, Verdict

addresses = st.binary(min_size=20, max_size=20).map(Address)
hashes = st.binary(min_size=32, max_size=32).map(Digest)
uints = st.integers(0, 2**256 - 1)
domains = st.builds(Domain, uints, addresses)
requests = st.builds(
    TaskRequest,
    requester=addresses,
    nonce=uints.map(Uint256),
    performer=addresses,
    task_definition_id=st.integers(0, 2**16 - 1),
    model_hash=hashes,
    input_cid=st.text().map(Cid),
    parameters=st.text(),
    seed=hashes,
    fee=uints.map(Uint256),
    deadline=st.integers(0, 2**64 - 1),
)
infos = st.builds(
    TaskInfo,
    task_id=hashes,
    proof_of_task=st.text().map(Cid),
    data=st.binary(),
    task_performer=addresses,
    task_definition_id=st.integers(0, 2**16 - 1),
    epoch=st.integers(0, 2**32 - 1),
)
batches = st.builds(
    BatchInfo,
    root=hashes,
    content_hash=hashes,
    size=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 2**32 - 1),
    aggregator=addresses,
)
certificates = st.builds(
    TaskCertificate,
    task_info=infos,
    verdict=st.sampled_from([Verdict.VALID, Verdict.INVALID]),
    signers=st.lists(st.integers(0, MAX_SEATS - 1), unique=True).map(lambda signers: tuple(sorted(signers))),
    signature=st.binary(min_size=96, max_size=96),
    performer_signature=st.binary(min_size=65, max_size=65),
)
# What a JSON decoder may give.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
