"""The parts of a model card, each with the bounds of its numbers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.constants import MAX_CID_CHARACTERS, MAX_MODEL_BYTES, MAX_TEXT_TOKENS
from shared.tensors import Name

Line = Annotated[str, Meta(max_length=1024)]
Size = Annotated[int, Meta(ge=1, le=MAX_MODEL_BYTES)]
Positive = Annotated[float, Meta(gt=0, le=1e30)]  # a bound also keeps infinity out
Measured = Annotated[float, Meta(ge=-1e30, le=1e30)]
Share = Annotated[float, Meta(ge=0, le=1)]
CidText = Annotated[str, Meta(max_length=MAX_CID_CHARACTERS)]


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A part of the card: camelCase, nothing unknown."""


class ModelFile(Form, frozen=True):
    """The model's bytes: an ONNX file, or the manifest of a served model."""

    cid: CidText
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]  # equals the chain's model hash
    size: Size
    opset: Annotated[int, Meta(ge=0, le=1000)] = 0  # of the default operator set; 0 where it is no ONNX file


class Tolerance(Form, frozen=True):
    """Two runs agree when `max|Δ| ≤ relative · scale`."""

    relative: Positive  # at most what the profile allows
    scale: Positive  # largest magnitude of this output in calibration

    @property
    def absolute(self) -> float:
        return self.relative * self.scale


class TextSpec(Form, frozen=True):
    """How text becomes tokens, how tokens are sampled, and how long it may get.

    `tokens` bytes: those below 256 are the bytes of UTF-8 text, and a prompt is a text. `ids`: prompts are token ids of
    a tokenizer that requesters bring, as an int64 tensor `ids` [1, n].
    """

    tokens: Literal["bytes", "ids"]
    vocab: Annotated[int, Meta(ge=2, le=1 << 20)]
    bos: Annotated[int, Meta(ge=0)]
    eos: Annotated[int, Meta(ge=0)]
    context: Annotated[int, Meta(ge=2, le=MAX_TEXT_TOKENS)]  # prompt and output together
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TEXT_TOKENS)]  # of output
    margin: Annotated[float, Meta(gt=0, le=1)]  # logits by which a token may miss the sampler's choice
    sampler: Literal["gumbel-philox-1"]  # protocol §6
    seed: Literal["beacon", "requester"]  # what the request's seed must be


class Cheat(Form, frozen=True):
    """What the calibration measured on a model changed on purpose."""

    smallest_score: Measured  # over the outputs, in tolerances: at most 1 is accepted
    caught: Share  # of outputs that verification rejects
    sets_floor: bool  # whether the card's separation counts it


class Calibration(Form, frozen=True):
    """How the tolerances came about: `poi calibrate`. Distances are scores: in tolerances, 1 is the limit."""

    engines: Annotated[tuple[Line, ...], Meta(max_length=16)]  # with their versions
    samples: Annotated[int, Meta(ge=1)]
    configurations: Annotated[dict[Line, Measured], Meta(max_length=256)]  # each one's largest score against float64
    honest_max: Measured  # the largest score between two honest runs
    cheats: Annotated[dict[Line, Cheat], Meta(max_length=64)]
    separation: Measured  # smallest score over the cheats that set the floor


class Golden(Form, frozen=True):
    """Inputs with their outputs by the float64 reference, on which attesters test themselves."""

    cid: CidText
    vectors: Annotated[int, Meta(ge=1, le=64)]


class Similarity(Form, frozen=True):
    """For a definition that insists on accepting by cosine similarity: its measured errors, for everybody to read."""

    output: Name  # which tensor is compared
    least: Annotated[
        float, Meta(ge=-1, le=0.999999)
    ]  # cosine at and above which it is accepted; of rounding there is 1e-9
    false_rejects: Share  # of honest outputs
    false_accepts: Share  # of the cheats' outputs
    outputs: Annotated[int, Meta(ge=1)]  # on how many of each that was measured


class Audit(Form, frozen=True):
    """Batch audit: how far the random projections of a layer may lie apart, as a part of the norms of what they are
    sums of: rows of what goes in, columns of weights."""

    relative: Annotated[float, Meta(ge=1e-8, le=5e-5)]  # a sixth of a float32 step: less would be luck
    draws: Annotated[int, Meta(ge=1, le=16)]  # independent vectors; each misses an x-fold error with at most 2/x


class Sequence(Form, frozen=True):
    """Evidence per operator across tasks, for fp16 and bf16: the self-calibrated ratio (protocol §6)."""

    # Upper bounds over all honest engines that the card is for. Their own bounds keep the test from being empty: errors
    # half as large again as the attester's own are what int8 weights make.
    honest_mean: Annotated[float, Meta(ge=-0.5, le=0.5)]  # of a token's log ratio
    honest_deviation: Annotated[float, Meta(ge=0.05, le=1)]  # √n times the standard deviation of the mean over n tokens
    honest_miss: Annotated[
        float, Meta(ge=1e-4, le=0.05)
    ]  # margins by which a token misses the sampler's pick: the mean
    shift: Annotated[float, Meta(ge=0.01, le=1)]  # of the mean: the smallest that is looked for
    limit: Annotated[float, Meta(ge=9.21, le=25)]  # nats of evidence; 9.21 is ln(1e4)


class Service(Form, frozen=True):
    """External: the builder's own services perform and validate; each operator configures the URL of its own."""

    description: Line
    timeout_seconds: Annotated[float, Meta(gt=0, le=60)]


class Feed(Form, frozen=True):
    """Oracle: where the value comes from, and how far two fetches may lie apart."""

    url: Line  # with {name} for each parameter
    parameters: Annotated[dict[Name, Annotated[tuple[Line, ...], Meta(max_length=256)]], Meta(max_length=8)]  # allowed
    select: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=16)]  # JSON pointers (RFC 6901) to the values
    relative: Annotated[float, Meta(ge=0, le=1)]
    absolute: Annotated[float, Meta(ge=0, le=1e30)]
    max_age_seconds: Annotated[int, Meta(ge=1, le=86_400)]  # between the two fetches, beyond which nobody can tell
    timeout_seconds: Annotated[float, Meta(gt=0, le=60)]


class CalibratorSignature(Form, frozen=True):
    """Who measured, and stands for it: a secp256k1 signature over the card without its signatures (protocol §5)."""

    calibrator: Annotated[str, Meta(pattern="^0x[0-9a-f]{40}$", max_length=42)]
    signature: Annotated[str, Meta(pattern="^0x[0-9a-f]{130}$", max_length=132)]
