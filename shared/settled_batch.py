"""What stands under a settled root, for whoever was away when it settled (protocol §8.1)."""

from __future__ import annotations

from shared.batch import MAX_DOCUMENT_BYTES, Batch, decode_document, document_cid, make_batch
from shared.constants import FETCH_TIMEOUT_SECONDS
from shared.digests import Domain
from shared.errors import ChainUnavailable, CodecError, Reverted
from shared.interfaces import ContentStore, OperatorReader
from shared.types import BatchInfo, OperatorTable, TaskCertificate, TaskInfo


async def read_settled_batch(
    domain: Domain, settled: BatchInfo, content: ContentStore, reader: OperatorReader
) -> Batch:
    """The batch, made again from its document: it hashes to what the chain says, whoever served it.

    Raises `ContentError`, `ChainUnavailable`, and `CodecError` for a document that is not what is under the root.
    """
    document = await content.get(
        document_cid(settled.content_hash),
        max_bytes=MAX_DOCUMENT_BYTES,
        timeout_seconds=FETCH_TIMEOUT_SECONDS,
        prefer=settled.aggregator,
    )
    certificates = decode_document(document)
    tables = await _tables(certificates, settled.epoch, reader)

    def table_of(info: TaskInfo) -> OperatorTable:
        return tables[info.epoch, info.task_definition_id]

    try:
        batch = make_batch(domain, certificates, settled.epoch, settled.aggregator, table_of)
    except (KeyError, ValueError, Reverted) as error:
        raise CodecError(f"batch document: {error}") from None
    if batch.info != settled:
        raise CodecError("batch document: not what is under its root")
    return batch


async def _tables(
    certificates: tuple[TaskCertificate, ...], batch_epoch: int, reader: OperatorReader
) -> dict[tuple[int, int], OperatorTable]:
    """By epoch and task definition; those that the chain cannot know are missing. Raises `ChainUnavailable` for one
    that it must know: the node that was asked is behind, and a batch given up for that would be fees given up."""
    found = {}
    for epoch, definition_id in {(c.task_info.epoch, c.task_info.task_definition_id) for c in certificates}:
        definition = await reader.task_definition(definition_id)
        if definition is None:
            continue
        table = await reader.operator_table(epoch, definition.terms.attester_set)
        if table is not None:
            found[epoch, definition_id] = table
        elif 1 <= epoch <= batch_epoch and definition.terms.attester_set == 0:
            raise ChainUnavailable(f"the node does not know epoch {epoch} yet, of a batch that is settled")
    return found
