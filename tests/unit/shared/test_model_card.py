"""Model cards: what a card must say for its method and its profile, and how lenient it may be."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.canonical import encode_canonical
from shared.card_parts import Audit, Feed, Sequence, Service, Similarity
from shared.constants import MAX_CARD_BYTES
from shared.errors import CodecError
from shared.model_card import METHODS_OF, PART_OF_METHOD, ModelCard, Tolerance, check_card, decode_card
from shared.profiles import MAX_MARGIN, MAX_RELATIVE_TOLERANCE, Profile
from shared.tensors import TensorSpec
from tests.cards import CALIBRATION, make_card, make_text_card
from tests.inference_support import MODELS, card_of

CLASSIFIER = {
    "kind": "classify",
    "inputs": (TensorSpec("x", "float32", (1, 3)),),
    "outputs": (TensorSpec("y", "float32", (1, 2)),),
}
EXACT: dict[str, Any] = {"method": "exact", "profile": Profile.EXACT_FP64, "tolerances": {}}
AUDIT = Audit(relative=1e-6, draws=8)
SEQUENCE = Sequence(honest_mean=0.0, honest_deviation=0.1, honest_miss=0.01, shift=0.5, limit=10.0)
SIMILARITY = Similarity(output="y", least=0.9, false_rejects=0.1, false_accepts=0.5, outputs=100)
SERVICE = Service(description="a service", timeout_seconds=5.0)
FEED = Feed(
    url="https://example.org/{pair}",
    parameters={"pair": ("a-b",)},
    select=("/price",),
    relative=0.01,
    absolute=0.0,
    max_age_seconds=60,
    timeout_seconds=5.0,
)
# What a card of no model leaves out.
SOURCE: dict[str, Any] = {
    "kind": "json",
    "profile": Profile.EXACT_INT,
    "model": None,
    "inputs": (),
    "outputs": (),
    "tolerances": {},
    "calibration": None,
    "golden": None,
}
TEXT = make_text_card()
CACHELESS = msgspec.structs.replace(TEXT, inputs=TEXT.inputs[:1], outputs=TEXT.outputs[:1])
COARSE = {"logits": Tolerance(relative=5e-3, scale=10.0)}
CARDS = {
    "tensor": make_card(),
    "classify": make_card(**CLASSIFIER),
    "text": TEXT,
    "text without a cache": CACHELESS,
    "exact-fp64": make_card(**EXACT),
    "exact-int": make_card(**{**EXACT, "profile": Profile.EXACT_INT}),
    "similarity": make_card(method="similarity", similarity=SIMILARITY),
    "batch-audit": make_card(method="batch-audit", audit=AUDIT),
    "fp16": msgspec.structs.replace(
        TEXT, method="sequential", profile=Profile.FP16, sequence=SEQUENCE, tolerances=COARSE
    ),
    "bf16": msgspec.structs.replace(
        TEXT, method="sequential", profile=Profile.BF16, sequence=SEQUENCE, tolerances=COARSE
    ),
    "external": make_card(**SOURCE, method="external", service=SERVICE),
    "oracle": make_card(**SOURCE, method="oracle", feed=FEED),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_survives(kind: str) -> None:
    assert decode_card(encode_canonical(CARDS[kind])) == CARDS[kind]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/card.json")))
def test_the_shipped_cards_read_in_camel_case(name: str) -> None:
    form = json.loads(encode_canonical(card_of(name)))
    assert form["version"] == 2
    assert {"trainedOn", "madeBy", "licence", "calibration", "tolerances", "golden", "profile"} <= set(form)
    assert {"smallestScore", "caught", "setsFloor"} == set(next(iter(form["calibration"]["cheats"].values())))


def out(name: str = "y", dtype: Any = "float32", shape: tuple[int, ...] = (1, 2)) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name, dtype, shape),)


assert TEXT.text is not None
SPEC = TEXT.text


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (make_card(method="text"), "is verified by tensor"),
        (make_card(method="magic"), "is verified by tensor"),
        (make_card(kind="text"), "is verified by text"),
        (make_card(inputs=out() + out()), "one name"),
        (make_card(outputs=out() + out()), "one name"),
        (make_card(tolerances={}), "tolerances for y, and"),
        (make_card(tolerances={**make_card().tolerances, "n": Tolerance(relative=1e-6, scale=1.0)}), "for y, and"),
        (make_card(text=TEXT.text), "do not go together"),
        (make_card(model=None), "comes with its file"),
        (make_card(calibration=None), "comes with its file"),
        (make_card(golden=None), "comes with its file"),
        (make_card(inputs=()), "takes and gives"),
        (make_card(outputs=(), tolerances={}), "takes and gives"),
        (msgspec.structs.replace(TEXT, text=None), "do not go together"),
        (msgspec.structs.replace(TEXT, tolerances=make_card().tolerances), "tolerances for logits"),
        (make_card(**{**CLASSIFIER, "inputs": out("x", "float32", (-1, 3))}), "fixed shape"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(-1, 2))}), "scores of shape"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(2, 2))}), "scores of shape"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(2,))}), "scores of shape"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(1, 1))}), "two classes"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(1, -1))}), "two classes"),
        (make_card(**{**CLASSIFIER, "outputs": out(dtype="float64")}), "scores of shape"),
        (msgspec.structs.replace(TEXT, inputs=TEXT.inputs[:2]), "a decoder takes"),
        (msgspec.structs.replace(TEXT, inputs=TEXT.inputs[:1]), "without a cache"),
        (msgspec.structs.replace(CACHELESS, outputs=TEXT.outputs), "without a cache"),
        (
            msgspec.structs.replace(
                TEXT, inputs=(TEXT.inputs[0], *out("past_keys", shape=(1, -1, -1, -1, 2)), TEXT.inputs[2])
            ),
            "past_keys must be",
        ),
        (msgspec.structs.replace(TEXT, inputs=out("ids") + TEXT.inputs[1:]), "a decoder takes"),
        (msgspec.structs.replace(TEXT, outputs=TEXT.outputs[:2]), "a decoder gives"),
        (msgspec.structs.replace(TEXT, outputs=out("logits", shape=(-1, -1, 9)) + TEXT.outputs[1:]), "a decoder gives"),
        (msgspec.structs.replace(TEXT, text=msgspec.structs.replace(SPEC, bos=257)), "must differ"),
        (msgspec.structs.replace(TEXT, text=msgspec.structs.replace(SPEC, eos=258)), "within the vocabulary"),
        (msgspec.structs.replace(TEXT, text=msgspec.structs.replace(SPEC, bos=255)), "256 or more"),
        (msgspec.structs.replace(TEXT, text=msgspec.structs.replace(SPEC, max_tokens=32)), "no room"),
        (make_card(**{**SOURCE, "kind": "json", "model": make_card().model}, method="oracle", feed=FEED), "no model"),
        (make_card(**{**SOURCE, "inputs": out()}, method="oracle", feed=FEED), "no model"),
        (make_card(**{**SOURCE, "golden": make_card().golden}, method="external", service=SERVICE), "no model"),
        (make_card(**{**SOURCE, "calibration": CALIBRATION}, method="external", service=SERVICE), "no model"),
        (make_card(**{**SOURCE, "profile": Profile.FP32}, method="oracle", feed=FEED), "the profile exact-int"),
        (make_card(**{**SOURCE, "tolerances": make_card().tolerances}, method="oracle", feed=FEED), "no tolerances"),
    ],
)
def test_a_card_that_its_method_cannot_use(card: ModelCard, said: str) -> None:
    with pytest.raises(CodecError, match=said):
        check_card(card)
    with pytest.raises(CodecError, match=said):
        decode_card(encode_canonical(card))


PARTS: dict[str, Any] = {
    "similarity": SIMILARITY,
    "audit": AUDIT,
    "sequence": SEQUENCE,
    "service": SERVICE,
    "feed": FEED,
}


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("method", PART_OF_METHOD)
def test_a_part_goes_with_its_method_and_with_no_other(name: str, method: str) -> None:
    card, part = CARDS[name], PART_OF_METHOD[method]
    changed = msgspec.structs.replace(card, **{part: None if card.method == method else PARTS[part]})
    with pytest.raises(CodecError, match=f"{part} and method {method} go together"):
        decode_card(encode_canonical(changed))


@pytest.mark.parametrize("name", ["tensor", "classify", "similarity", "batch-audit"])
@pytest.mark.parametrize("profile", [Profile.EXACT_INT, Profile.EXACT_FP64, Profile.FP16, Profile.BF16])
def test_these_methods_are_of_float32(name: str, profile: Profile) -> None:
    card = msgspec.structs.replace(CARDS[name], profile=profile)
    with pytest.raises(CodecError, match="model card: the "):
        decode_card(encode_canonical(card))


@pytest.mark.parametrize("profile", [Profile.FP32, Profile.FP16, Profile.BF16])
def test_exact_is_of_the_exact_profiles(profile: Profile) -> None:
    with pytest.raises(CodecError, match="exact goes with the exact profiles"):
        decode_card(encode_canonical(make_card(**{**EXACT, "profile": profile})))


def test_an_exact_card_tolerates_nothing() -> None:
    with pytest.raises(CodecError, match="tolerances for nothing, and for nothing else"):
        decode_card(encode_canonical(make_card(**{**EXACT, "tolerances": make_card().tolerances})))


# --- the caps of a profile -----------------------------------------------------------------------------
def with_numbers(profile: Profile, relative: float, margin: float) -> ModelCard:
    card = TEXT if profile is Profile.FP32 else CARDS[profile.value]
    spec = msgspec.structs.replace(SPEC, margin=margin)
    return msgspec.structs.replace(card, text=spec, tolerances={"logits": Tolerance(relative=relative, scale=1.0)})


@pytest.mark.parametrize("profile", [Profile.FP32, Profile.FP16, Profile.BF16])
def test_a_profile_caps_what_a_card_may_tolerate(profile: Profile) -> None:
    relative, margin = MAX_RELATIVE_TOLERANCE[profile], MAX_MARGIN[profile]
    at_most = with_numbers(profile, relative, margin)
    assert decode_card(encode_canonical(at_most)) == at_most
    with pytest.raises(CodecError, match=f"logits may differ by .*{profile} allows"):
        decode_card(encode_canonical(with_numbers(profile, relative * 1.01, margin)))
    with pytest.raises(CodecError, match=f"margin .*{profile} allows"):
        decode_card(encode_canonical(with_numbers(profile, relative, margin * 1.01)))


@pytest.mark.parametrize("separation", [3.99, 1.0, 0.0, -1.0])
def test_a_float32_card_keeps_cheats_four_tolerances_away(separation: float) -> None:
    near = msgspec.structs.replace(CALIBRATION, separation=separation)
    with pytest.raises(CodecError, match="under 4"):
        decode_card(encode_canonical(make_card(calibration=near)))
    exact = make_card(**EXACT, calibration=near)
    assert decode_card(encode_canonical(exact)) == exact


@pytest.mark.parametrize("url", ["http://[", "http://[::1", "http://a\u2100b/"])
def test_a_feed_whose_url_cannot_be_read_is_refused(url: str) -> None:
    feed = msgspec.structs.replace(FEED, url=url + "{pair}")
    with pytest.raises(CodecError, match="is no URL"):
        decode_card(encode_canonical(make_card(**SOURCE, method="oracle", feed=feed)))


@pytest.mark.parametrize(("relative", "scale"), [(9e-8, 1.0), (1e-300, 1e-30), (1e-5, 1e-31)])
def test_a_tolerance_under_float32_is_a_trap_for_the_honest(relative: float, scale: float) -> None:
    tight = {"y": Tolerance(relative=relative, scale=scale)}
    with pytest.raises(CodecError, match="honest engines differ by more"):
        decode_card(encode_canonical(make_card(tolerances=tight)))


def test_a_margin_under_float32_is_a_trap_for_the_honest() -> None:
    with pytest.raises(CodecError, match="honest engines differ by more"):
        decode_card(encode_canonical(msgspec.structs.replace(TEXT, text=msgspec.structs.replace(SPEC, margin=9e-8))))


def test_a_cache_that_cannot_be_made_is_refused() -> None:
    past = [spec for name in ("past_keys", "past_values") for spec in out(name, shape=(1 << 22, -1, 2, -1, 2))]
    with pytest.raises(CodecError, match="for one token"):
        decode_card(encode_canonical(msgspec.structs.replace(TEXT, inputs=(TEXT.inputs[0], *past))))


def test_every_kind_has_a_method_and_every_part_a_method() -> None:
    assert set(METHODS_OF) == {"classify", "tensor", "text", "json"}
    assert set(PART_OF_METHOD) <= {method for methods in METHODS_OF.values() for method in methods}


# --- values --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("tensor", "version", 1),
        ("tensor", "version", 3),
        ("tensor", "profile", "fp8"),
        ("tensor", "kind", "image"),
        ("tensor", "method", ""),
        ("tensor", "kind", "poem"),
        ("tensor", "more", 1),
        ("tensor", "name", ""),
        ("tensor", "licence", "x" * 1025),
        ("tensor", "outputs", [{"name": f"x{i}", "dtype": "int32", "shape": []} for i in range(17)]),
        ("tensor", "model.sha256", "0x" + "00" * 32),
        ("tensor", "model.sha256", "00" * 31),
        ("tensor", "model.sha256", "AA" * 32),
        ("tensor", "model.size", 0),
        ("tensor", "model.size", 1 << 60),
        ("tensor", "tolerances.y.relative", 0.0),
        ("tensor", "tolerances.y.relative", 5.1e-5),  # float16 weights would pass
        ("tensor", "tolerances.y.relative", "1e-5"),
        ("tensor", "tolerances.y.more", 1),
        ("tensor", "tolerances.y.scale", 0.0),
        ("tensor", "tolerances.y.scale", -1.0),
        ("tensor", "tolerances.y.scale", 1e31),
        ("tensor", "quality", {"accuracy": "good"}),
        ("tensor", "calibration.samples", 0),
        ("tensor", "calibration.separation", 1e31),
        ("tensor", "calibration.engines", ["x"] * 17),
        ("tensor", "calibration.configurations", {str(i): 0.1 for i in range(257)}),
        ("tensor", "calibration.cheats", {"fp16": {"smallestScore": 9.0, "caught": 1.1, "setsFloor": True}}),
        ("tensor", "calibration.cheats", {"fp16": {"smallestScore": 9.0, "caught": 1.0}}),
        ("tensor", "calibration.cheats", {str(i): {} for i in range(65)}),
        ("tensor", "golden.vectors", 0),
        ("tensor", "golden.vectors", 65),
        ("tensor", "golden.cid", "b" * 129),
        ("tensor", "model.opset", -1),
        ("tensor", "model", {"cid": "b", "sha256": "00" * 32}),
        ("tensor", "inputs", [{"name": f"x{i}", "dtype": "int32", "shape": []} for i in range(17)]),
        ("tensor", "inputs", [{"name": "x", "dtype": "complex64", "shape": []}]),
        ("tensor", "inputs", [{"name": "x", "dtype": "int32", "shape": [-2]}]),
        ("tensor", "inputs", [{"name": "x", "dtype": "int32", "shape": [1] * 9}]),
        ("tensor", "signatures", [{}]),
        ("similarity", "similarity.least", 1.0),
        ("similarity", "similarity.falseAccepts", 1.5),
        ("batch-audit", "audit.relative", 5.1e-5),
        ("batch-audit", "audit.draws", 0),
        ("bf16", "sequence.limit", 0.0),
        ("bf16", "sequence.honestDeviation", 0.0),
        ("external", "service.timeoutSeconds", 61),
        ("oracle", "feed.select", []),
        ("oracle", "feed.maxAgeSeconds", 0),
        ("text", "text.margin", 0.0),
        ("text", "text.margin", 2e-3),  # a forger would choose among tokens
        ("text", "text.context", 4097),
        ("text", "text.vocab", 256),
        ("text", "text.bos", 255),
        ("text", "text.tokens", "words"),
        ("text", "text.sampler", "gumbel-philox-2"),
        ("text", "text.seed", "performer"),
        ("text", "text.vocab", 1 << 21),
    ],
)
def test_values_out_of_range_are_refused(kind: str, path: str, value: object) -> None:
    form = json.loads(encode_canonical(CARDS[kind]))
    at = form
    *parents, last = path.split(".")
    for name in parents:
        at = at[name]
    at[last] = value
    with pytest.raises(CodecError, match=r"^model card: "):
        decode_card(encode_canonical(form))


def test_a_card_has_one_spelling_and_a_limit() -> None:
    with pytest.raises(CodecError, match="canonical"):
        decode_card(encode_canonical(make_card()) + b" ")
    with pytest.raises(CodecError, match="at most"):
        decode_card(b" " * (MAX_CARD_BYTES + 1))


def test_a_tolerance_is_a_part_of_the_scale() -> None:
    assert Tolerance(relative=1e-5, scale=20.0).absolute == pytest.approx(2e-4)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_what_is_no_number_is_refused(number: str) -> None:
    data = encode_canonical(make_card())
    for written in (b'"relative":0.00001', b'"scale":10.0', b'"separation":9.0', b'"honestMax":0.0'):
        assert written in data
        name, _, _ = written.partition(b":")
        with pytest.raises(CodecError, match=r"^model card: "):
            decode_card(data.replace(written, name + b":" + number.encode()))


def test_a_card_says_each_thing_once() -> None:
    """Of two values under one key readers of other make might take the first."""
    data = encode_canonical(make_card())
    with pytest.raises(CodecError, match="canonical"):
        decode_card(data.replace(b'"relative":0.00001', b'"relative":0.000001,"relative":0.00001'))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_byte_gives_another_card_of_the_same_bytes(at: int, flip: int) -> None:
    data = bytearray(encode_canonical(make_card()))
    data[at % len(data)] ^= flip
    try:
        card = decode_card(bytes(data))
    except CodecError:
        return
    assert encode_canonical(card) == bytes(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_card_or_a_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_card(data)


@pytest.mark.parametrize("reach", [{"z": 1.0}, {"x": 1.0, "n": 2.0}])
def test_a_reach_is_of_a_float_input(reach: dict[str, float]) -> None:
    check_card(make_card(reach={"x": 1.0}))
    with pytest.raises(CodecError, match="a reach for x, and for nothing else"):
        check_card(make_card(reach=reach))
    with pytest.raises(CodecError, match="a reach for nothing"):
        check_card(msgspec.structs.replace(TEXT, reach={"past_keys": 1.0}))


@pytest.mark.parametrize("reach", [0.0, -1.0, 1e31])
def test_a_reach_has_bounds(reach: float) -> None:
    with pytest.raises(CodecError):
        decode_card(encode_canonical(make_card(reach={"x": reach})))
