"""An operator's own models, put into its content store: everybody else fetches them from there by CID."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from shared.adapters.content.store import NodeContentStore
from shared.content.unixfs import PROFILES, UNIXFS_V1_2025, Profile, build_file
from shared.documents import decode_card
from shared.errors import CodecError
from shared.types import Cid

CARD, MODEL, GOLDEN = "card.json", "model.onnx", "golden.json"

log = structlog.get_logger(__name__)


async def publish_models(folder: Path, content: NodeContentStore) -> None:
    """Each folder with a card: the card, and the model and the golden vectors that it names, without which no attester
    would vote by it. Raises `ContentError`, `OSError`."""
    for card in _cards(folder):
        try:
            named = _named_by(card)
        except CodecError as error:
            log.warning("no model card; nothing beside it is published", file=_shown(card), reason=str(error))
            continue
        await _publish(card, UNIXFS_V1_2025, content)
        for path in (card.with_name(name) for name in named):
            if path.is_file():
                await _publish_named(path, named[path.name], content)


def _cards(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/{CARD}"))


def _named_by(card: Path) -> dict[str, Cid]:
    """CIDs by file name. Raises `CodecError`."""
    parsed = decode_card(card.read_bytes())
    files = {MODEL: parsed.model, GOLDEN: parsed.golden}
    return {name: Cid(file.cid) for name, file in files.items() if file is not None}


async def _publish_named(path: Path, cid: Cid, content: NodeContentStore) -> None:
    """By the profile that gives the CID in the card: others look for no other."""
    found: list[Cid] = []
    for profile in PROFILES.values():
        found.append(await asyncio.to_thread(_cid_of, path, profile))
        if found[-1] == cid:
            await _publish(path, profile, content)
            return
    log.warning("the card names another file; this one is not published", file=_shown(path), named=cid, found=found)


async def _publish(path: Path, profile: Profile, content: NodeContentStore) -> None:
    ref = await content.add_file(path, profile=profile)
    log.info("model content", file=_shown(path), cid=ref.cid)


def _cid_of(path: Path, profile: Profile) -> Cid:
    with path.open("rb") as stream:
        return build_file(stream, lambda _: None, profile)[0]


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
