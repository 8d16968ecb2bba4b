"""Cards without a model: what a service's or a source's card must say, and what a hostile one may not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shared.canonical import encode_canonical
from shared.card_parts import Feed, Service, Similarity
from shared.errors import CodecError
from shared.model_card import ModelCard, check_card, decode_card
from shared.profiles import Profile
from tests.cards import make_card, make_json_card

SERVICE = Service(description="any", timeout_seconds=1.0)
FEED = Feed(
    url="https://prices.example/{pair}",
    parameters={"pair": ("a", "b")},
    select=("/price", ""),
    relative=0.0,
    absolute=0.0,
    max_age_seconds=1,
    timeout_seconds=1.0,
)
ORACLE = make_json_card(method="oracle", feed=FEED)


def feeding(**changes: Any) -> ModelCard:
    return make_json_card(method="oracle", feed=msgspec.structs.replace(FEED, **changes))


@pytest.mark.parametrize("card", [ORACLE, make_json_card(method="external", service=SERVICE)])
def test_a_card_without_a_model_survives(card: ModelCard) -> None:
    assert decode_card(encode_canonical(card)) == card


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (make_json_card(method="tensor"), "is verified by external or oracle"),
        (make_json_card(method="oracle"), "feed and method oracle go together"),
        (make_json_card(method="external", service=SERVICE, feed=FEED), "feed and method oracle go together"),
        (make_card(service=SERVICE), "service and method external go together"),
        (msgspec.structs.replace(ORACLE, model=make_card().model), "has no model"),
        (msgspec.structs.replace(ORACLE, golden=make_card().golden), "has no model"),
        (msgspec.structs.replace(ORACLE, calibration=make_card().calibration), "has no model"),
        (msgspec.structs.replace(ORACLE, outputs=make_card().outputs), "has no model"),
        (msgspec.structs.replace(ORACLE, tolerances=make_card().tolerances), "has no tolerances"),
        (msgspec.structs.replace(ORACLE, profile=Profile.FP32), "the profile exact-int"),
        (feeding(url="ftp://prices.example/{pair}"), "an http or https URL"),
        (feeding(url="https:///{pair}"), "an http or https URL"),
        (feeding(url="https://{pair}/"), "whose host is no parameter"),
        (feeding(url="https://x@{pair}/"), "whose host is no parameter"),
        (feeding(url="https://prices.example/"), "for each of its parameters"),
        (feeding(url="https://prices.example/{pair}{other}"), "for nothing else"),
        (feeding(select=("price",)), "begin with /"),
        (feeding(select=("/price", "/price")), "twice"),
    ],
)
def test_a_card_that_contradicts_itself(card: ModelCard, said: str) -> None:
    with pytest.raises(CodecError, match=said):
        check_card(card)


@pytest.mark.parametrize(
    "changes",
    [
        {"select": ()},
        {"relative": -0.1},
        {"relative": 1.5},
        {"absolute": -1.0},
        {"max_age_seconds": 0},
        {"max_age_seconds": 86_401},
        {"timeout_seconds": 0.0},
        {"timeout_seconds": 61.0},
        {"parameters": {"pair": tuple(map(str, range(257)))}},
    ],
)
def test_a_feed_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        decode_card(encode_canonical(feeding(**changes)))


def test_similarity_names_an_output_that_there_is() -> None:
    spec = Similarity(output="y", least=0.9, false_rejects=0.0, false_accepts=0.5, outputs=100)
    check_card(make_card(method="similarity", similarity=spec))
    with pytest.raises(CodecError, match=r"similarity\.output is one of y"):
        check_card(make_card(method="similarity", similarity=msgspec.structs.replace(spec, output="n")))


def test_a_similarity_that_does_not_state_its_errors_is_no_card() -> None:
    card = make_card(
        method="similarity",
        similarity=Similarity(output="y", least=0.9, false_rejects=0.0, false_accepts=0.5, outputs=100),
    )
    encoded = encode_canonical(card)
    assert decode_card(encoded) == card
    for field in (b'"falseRejects":0.0,', b'"falseAccepts":0.5,', b',"outputs":100'):
        assert field in encoded
        with pytest.raises(CodecError):
            decode_card(encoded.replace(field, b""))
