"""How block/put is told what a block is, whoever makes the call: it changed with Kubo 0.13."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shared.adapters.content.kubo import answers
from shared.content.cid import Block, Codec, codec_of
from shared.errors import SourceFailed
from shared.reasons import SourceFault

# Since Kubo 0.13, and before it, when the other option was not known and ignored.
_CODEC_OPTIONS = (
    {Codec.RAW: ("cid-codec", "raw"), Codec.DAG_PB: ("cid-codec", "dag-pb")},
    {Codec.RAW: ("format", "raw"), Codec.DAG_PB: ("format", "protobuf")},
)
_OPTIONS = {"mhtype": "sha2-256", "pin": "false", "allow-big-block": "true"}  # big: up to MAX_BLOCK_BYTES


class BlockPut:
    """What one node understood is what it is asked next time."""

    def __init__(self) -> None:
        self._understood = 0

    async def put(self, block: Block, ask: Callable[[dict[str, str]], Awaitable[answers.BlockStat]]) -> None:
        """`ask` makes the call with these options. Raises `SourceFailed`, also when it is kept by another CID."""
        kept_as = ""
        for index in range(self._understood, len(_CODEC_OPTIONS)):
            name, value = _CODEC_OPTIONS[index][codec_of(block.cid)]
            stat = await ask(_OPTIONS | {name: value})
            if (kept_as := stat.key) == block.cid:
                self._understood = index
                return
        raise SourceFailed(f"block/put: it kept {block.cid} as {kept_as}"[: answers.MAX_SHOWN], SourceFault.BAD_ANSWER)
