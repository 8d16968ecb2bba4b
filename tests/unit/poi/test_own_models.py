"""An operator's own models are published under the CIDs that their cards name, or not at all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from poi.own_models import publish_models
from shared.adapters.memory.content import ContentHub, MemoryContentStore
from shared.canonical import encode_canonical
from shared.content.unixfs import PROFILES, UNIXFS_V1_2025, UNIXFS_V1_CLASSIC, Profile, cid_of
from shared.types import FOREVER, Cid
from tests.content_support import OPERATORS, content_of
from tests.toy_model import CARD, GOLDEN_BYTES

MODEL = content_of(3 << 20)  # over a chunk of either profile


def lay(root: Path, *, model: bytes = MODEL, named: Cid | None = None, card: bytes | None = None) -> bytes:
    """A folder with card, model and golden vectors; the card's bytes."""
    folder = root / "toy"
    folder.mkdir()
    assert CARD.model is not None
    file = msgspec.structs.replace(CARD.model, cid=named or cid_of(model), size=len(model))
    card = encode_canonical(msgspec.structs.replace(CARD, model=file)) if card is None else card
    for name, data in {"card.json": card, "model.onnx": model, "golden.json": GOLDEN_BYTES}.items():
        (folder / name).write_bytes(data)
    return card


@pytest.fixture
def store() -> MemoryContentStore:
    return ContentHub().join(OPERATORS[0])


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
async def test_a_model_is_published_by_the_profile_that_its_card_names(
    tmp_path: Path, store: MemoryContentStore, profile: Profile
) -> None:
    cid = cid_of(MODEL, profile)
    card = lay(tmp_path, named=cid)
    with capture_logs() as logs:
        await publish_models(tmp_path, store)
    cids = [cid_of(card), cid, cid_of(GOLDEN_BYTES)]
    assert [(entry["event"], entry["cid"]) for entry in logs] == [("model content", each) for each in cids]
    assert {pin.cid: pin.keep_until for pin in await store.pins()} == dict.fromkeys(cids, FOREVER)
    assert await store.get(cid, max_bytes=len(MODEL), timeout_seconds=1.0) == MODEL


async def test_another_file_than_the_card_names_is_one_warning(tmp_path: Path, store: MemoryContentStore) -> None:
    card = lay(tmp_path, named=cid_of(b"another"))
    with capture_logs() as logs:
        await publish_models(tmp_path, store)
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert (warning["file"], warning["named"]) == ("toy/model.onnx", cid_of(b"another"))
    assert warning["found"] == [cid_of(MODEL, UNIXFS_V1_2025), cid_of(MODEL, UNIXFS_V1_CLASSIC)]
    assert {pin.cid for pin in await store.pins()} == {cid_of(card), cid_of(GOLDEN_BYTES)}


async def test_beside_what_is_no_card_nothing_is_published(tmp_path: Path, store: MemoryContentStore) -> None:
    lay(tmp_path, card=b"{}")
    (tmp_path / "no model").mkdir()
    with capture_logs() as logs:
        await publish_models(tmp_path, store)
    assert [(entry["log_level"], entry["file"]) for entry in logs] == [("warning", "toy/card.json")]
    assert await store.pins() == []


async def test_a_card_alone_is_published_alone(tmp_path: Path, store: MemoryContentStore) -> None:
    card = lay(tmp_path)
    for name in ("model.onnx", "golden.json"):
        (tmp_path / "toy" / name).unlink()
    await publish_models(tmp_path, store)
    assert [pin.cid for pin in await store.pins()] == [cid_of(card)]
