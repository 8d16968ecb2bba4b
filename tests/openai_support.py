"""An OpenAI-compatible server on loopback that really computes, in the three styles; and ways for it to misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

Logits = npt.NDArray[np.float32]
Model = Callable[[Sequence[int]], Logits]  # ids to (T, vocabulary)
Change = Callable[[dict[str, Any]], Any]  # of an answer, before it is sent


class CompletionServer:
    """Serves `models` by name. `change` may spoil an answer; `asked` are the bodies that came."""

    def __init__(self, models: Mapping[str, Model], *, key: str = "") -> None:
        self.models, self.key = models, key
        self.asked: list[dict[str, Any]] = []
        self.change: Change = lambda answer: answer
        self.url = ""
        self.over = asyncio.Event()

    async def list_models(self, request: web.Request) -> web.Response:
        self._check_key(request)
        return web.json_response({"object": "list", "data": [{"id": name, "owned_by": "vllm"} for name in self.models]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        body = await request.json()
        self.asked.append(body)
        assert (body["max_tokens"], body["temperature"], body["return_tokens_as_token_ids"]) == (1, 0, True)
        ids, best = body["prompt"], body["logprobs"]
        rows = await self._rows(body["model"], ids)
        generated = int(np.argmax(rows[-1]))
        tokens = [*ids, generated]
        tops = [top(row, best, after) for row, after in zip(rows, tokens[1:], strict=True)]
        choice: dict[str, Any] = {"index": 0, "text": "…", "finish_reason": "length"}
        if body.get("echo"):
            choice["logprobs"] = _named([None, *tops], tokens)
        else:
            assert body["prompt_logprobs"] == best
            choice["logprobs"] = _named(tops[-1:], tokens[-1:])
            choice["prompt_logprobs"] = [None] + [
                {str(token): {"logprob": value, "rank": 1, "decoded_token": "x"} for token, value in each.items()}
                for each in tops[:-1]
            ]
        return self._answer({"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": {}})

    async def complete_natively(self, request: web.Request) -> web.StreamResponse:
        """llama.cpp's own."""
        self._check_key(request)
        body = await request.json()
        self.asked.append(body)
        row = (await self._rows(body["model"], body["prompt"]))[-1]
        found = top(row, body["n_probs"], int(np.argmax(row)))
        candidates = [{"id": token, "token": "x", "bytes": [120], "logprob": value} for token, value in found.items()]
        first = candidates[0] | {"top_logprobs": candidates}
        return self._answer({"content": "x", "completion_probabilities": [first]})

    async def _rows(self, name: str, ids: Sequence[int]) -> Logits:
        try:
            logits = self.models[name](ids).astype(np.float64)
        except ValueError as error:
            raise web.HTTPInternalServerError(text=f"the model failed: {error}") from None
        if np.isnan(logits).all():
            await self.over.wait()  # a model that never ends
        peak = logits.max(axis=-1, keepdims=True)
        return np.asarray(logits - peak - np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True)))

    def _answer(self, answer: dict[str, Any]) -> web.StreamResponse:
        changed = self.change(answer)
        if isinstance(changed, web.StreamResponse):
            return changed
        return web.Response(text=changed if isinstance(changed, str) else json.dumps(changed))

    def _check_key(self, request: web.Request) -> None:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            raise web.HTTPUnauthorized(text="no such key")


@asynccontextmanager
async def serving(server: CompletionServer) -> AsyncIterator[CompletionServer]:
    app = web.Application()
    app.router.add_get("/v1/models", server.list_models)
    app.router.add_post("/v1/completions", server.complete)
    app.router.add_post("/completion", server.complete_natively)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}"
        yield server
    finally:
        server.over.set()
        await runner.cleanup()


def top(row: npt.NDArray[Any], best: int, also: int) -> dict[int, float]:
    """The `best` of a row and the token `also`, as vLLM has it."""
    order = np.argsort(-row, kind="stable")[:best]
    return {int(token): float(row[token]) for token in (*order, also)}


def _named(tops: list[Any], tokens: Sequence[int]) -> dict[str, Any]:
    named = [each and {f"token_id:{token}": value for token, value in each.items()} for each in tops]
    return {"tokens": [f"token_id:{token}" for token in tokens], "token_logprobs": [], "top_logprobs": named}


def manifest(served: str, vocab: int, logprobs: int) -> bytes:
    """Canonical."""
    return json.dumps({"logprobs": logprobs, "served": served, "vocab": vocab}, separators=(",", ":")).encode()
