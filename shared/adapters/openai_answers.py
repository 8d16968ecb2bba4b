"""What servers with an OpenAI-compatible API answer, read into rows: for each position, log-probabilities by token id.

Row i is the distribution of the token behind position i, so the last row is that of the token that was generated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import InferenceFailed

Style = Literal["vllm", "openai", "llamacpp"]
Row = dict[int, float]
_PREFIX: Final = "token_id:"
# What rounding may put above certainty. More is no log-probability.
_MOST: Final = 1e-3

T = TypeVar("T")


# --- the answers, as far as they are read ----------------------------------------------------------
class ServedModel(msgspec.Struct, frozen=True):
    id: str
    owned_by: str = ""


class ServedModels(msgspec.Struct, frozen=True):
    """GET /v1/models."""

    data: list[ServedModel]


class _Logprob(msgspec.Struct, frozen=True):
    logprob: float


class _Logprobs(msgspec.Struct, frozen=True):
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class _Choice(msgspec.Struct, frozen=True):
    logprobs: _Logprobs
    prompt_logprobs: list[dict[str, _Logprob] | None] | None = None


class _Completion(msgspec.Struct, frozen=True):
    """POST /v1/completions."""

    choices: Annotated[list[_Choice], Meta(min_length=1, max_length=1)]


class _Candidate(msgspec.Struct, frozen=True):
    id: int
    logprob: float


class _Generated(msgspec.Struct, frozen=True):
    top_logprobs: list[_Candidate]


class _Step(msgspec.Struct, frozen=True):
    """POST /completion of llama.cpp."""

    completion_probabilities: Annotated[list[_Generated], Meta(min_length=1, max_length=1)]


# --- asking and reading ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of server is asked. `ask` makes the body for ids; `read` takes the answer for those ids.

    `is_whole`: one answer has the rows of all positions; otherwise it has the last one's alone.
    """

    path: str
    ask: Callable[[str, Sequence[int], int], Mapping[str, Any]]
    read: Callable[[bytes, Sequence[int]], list[Row]]
    is_whole: bool = True


def decode(data: bytes, kind: type[T], what: str) -> T:
    """Raises `InferenceFailed`; NaN and infinities are no JSON."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InferenceFailed(f"{what}: {error}; see that inference.openai_style is the server's") from None


def check_row(row: Row, position: int, *, vocabulary: int, logprobs: int) -> None:
    """Raises `InferenceFailed`. A row may have one more than was asked for: the token of the prompt, if it is not
    among the best."""
    least = min(logprobs, vocabulary)
    if not least <= len(row) <= logprobs + 1:
        raise InferenceFailed(
            f"position {position}: {len(row)} log-probabilities instead of {least}; raise what the server may return "
            "(vLLM: --max-logprobs)"
        )
    for token, logprob in row.items():
        if not 0 <= token < vocabulary:
            raise InferenceFailed(f"position {position}: token {token} is not in a vocabulary of {vocabulary}")
        if not logprob <= _MOST or math.isinf(logprob):
            raise InferenceFailed(f"position {position}: {logprob} is not a log-probability")


def best_of(row: Row, logprobs: int) -> Row:
    """Without the token of the prompt that is not among the best. Whoever writes a text gets a row before its token is
    known; were the row of whoever reads it lower at the end, all that is filled in would differ, honest as both are."""
    return dict(nlargest(logprobs, row.items(), key=lambda entry: entry[1]))


def _ask_openai(model: str, ids: Sequence[int], logprobs: int) -> Mapping[str, Any]:
    return {
        "model": model,
        "prompt": ids,
        "max_tokens": 1,
        "temperature": 0,
        "echo": True,
        "logprobs": logprobs,
        "return_tokens_as_token_ids": True,
    }


def _ask_vllm(model: str, ids: Sequence[int], logprobs: int) -> Mapping[str, Any]:
    asked = {**_ask_openai(model, ids, logprobs), "prompt_logprobs": logprobs}
    del asked["echo"]
    return asked


def _ask_llamacpp(model: str, ids: Sequence[int], logprobs: int) -> Mapping[str, Any]:
    return {"model": model, "prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": logprobs, "cache_prompt": True}


def _read_openai(data: bytes, ids: Sequence[int]) -> list[Row]:
    [choice] = decode(data, _Completion, "completion").choices
    found = choice.logprobs
    expected = [f"{_PREFIX}{token}" for token in ids]
    if found.tokens[:-1] != expected or len(found.top_logprobs) != len(ids) + 1:
        raise InferenceFailed(_other_ids(len(ids), len(found.tokens) - 1))
    return [_row(each, index) for index, each in enumerate(found.top_logprobs[1:])]


def _read_vllm(data: bytes, ids: Sequence[int]) -> list[Row]:
    [choice] = decode(data, _Completion, "completion").choices
    prompt, generated = choice.prompt_logprobs or [], choice.logprobs.top_logprobs
    if len(prompt) != len(ids) or len(generated) != 1:
        raise InferenceFailed(_other_ids(len(ids), len(prompt)))
    rows = []
    for index, (token, each) in enumerate(zip(ids[1:], prompt[1:], strict=True)):
        if each is None or str(token) not in each:  # the token of the prompt is always among them
            raise InferenceFailed(_other_ids(len(ids), len(prompt)))
        rows.append(_row({f"{_PREFIX}{name}": value.logprob for name, value in each.items()}, index))
    return [*rows, _row(generated[0], len(ids) - 1)]


def _read_llamacpp(data: bytes, _: Sequence[int]) -> list[Row]:
    [generated] = decode(data, _Step, "completion").completion_probabilities
    return [{candidate.id: candidate.logprob for candidate in generated.top_logprobs}]


def _row(named: Mapping[str, float] | None, position: int) -> Row:
    row = {}
    for name, logprob in (named or {}).items():
        digits = name.removeprefix(_PREFIX)
        if digits == name or not digits.isascii() or not digits.isdigit() or len(digits) > 9:
            raise InferenceFailed(f'position {position}: the server names tokens by text; it must say "{_PREFIX}N"')
        row[int(digits)] = logprob
    return row


def _other_ids(asked: int, got: int) -> str:
    return f"asked for {asked} token ids, got an answer about {got} others: the server adds or changes tokens"


DIALECTS: Final[Mapping[Style, Dialect]] = {
    "vllm": Dialect("/v1/completions", _ask_vllm, _read_vllm),
    "openai": Dialect("/v1/completions", _ask_openai, _read_openai),
    "llamacpp": Dialect("/completion", _ask_llamacpp, _read_llamacpp, is_whole=False),
}
