"""Train the small decoder on the King James Bible and write `model.onnx`. Deterministic for one torch build.

The corpus is the text of the Debian package `bible-kjv-text` (in the public domain), one verse a line:

    apt-get install bible-kjv && bible -f gen1:1-rev22:21 > kjv.txt
    python models/text/train.py --corpus kjv.txt

About 12 minutes on one free core. Tokens are bytes, 256 begins a text and 257 ends it. With glibc, some gigabytes as
MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ keep it from giving every activation's pages back to the kernel.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from decoder import Decoder, Shape, export
from torch import Tensor
from torch.nn import functional

BOS, EOS = 256, 257
CORPUS_SHA256 = "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d"
HELD_OUT_EVERY = 50  # each fiftieth verse is never trained on
BATCH_TOKENS = 1024  # many small steps beat few large ones at this size
PEAK_RATE, WARM_UP = 6e-3, 60


def read_verses(path: Path) -> list[bytes]:
    """The verses without their references. Refuses another text than the one this script was made for."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != CORPUS_SHA256:
        raise SystemExit(f"{path} is not the text of bible-kjv-text 4.38: its SHA-256 differs")
    return [line.split(b" ", 1)[1] for line in data.splitlines()]


def passage(verses: list[bytes], rng: random.Random, longest: int) -> list[int]:
    """One to three verses on end, half the time from a word in the middle on: prompts begin anywhere."""
    at = rng.randrange(len(verses))
    text = b" ".join(verses[at : at + rng.choice((1, 1, 2, 3))])
    if rng.random() < 0.5:
        spaces = [i for i, byte in enumerate(text) if byte == 32]
        text = text[rng.choice(spaces) + 1 :] if spaces else text
    tokens = [BOS, *text, EOS]
    return tokens[:longest]


def batches(verses: list[bytes], seed: int, longest: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (inputs, targets) of about BATCH_TOKENS tokens, texts of like length together; target -100 is padding."""
    rng = random.Random(seed)
    while True:
        pool = sorted((passage(verses, rng, longest + 1) for _ in range(1024)), key=len)
        groups, group = [], []
        for tokens in pool:
            if group and len(tokens) * (len(group) + 1) > BATCH_TOKENS:
                groups.append(group)
                group = []
            group.append(tokens)
        rng.shuffle(groups)
        yield from map(pad, groups)


def pad(group: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, group))
    rows = torch.tensor([tokens + [-100] * (longest - len(tokens)) for tokens in group])
    return rows[:, :-1].clamp(min=0), rows[:, 1:].contiguous()


def loss_of(model: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
    past = model.empty_past(len(inputs))
    logits = model(inputs, past, past)[0].float()
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def train(model: Decoder, verses: list[bytes], steps: int, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05)
    data = batches(verses, seed, model.shape.context)
    started = time.monotonic()
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * decay)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, *next(data))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.3f} after {time.monotonic() - started:.0f} s", flush=True)


@torch.no_grad()
def held_out_loss(model: Decoder, verses: list[bytes]) -> float:
    """Mean nats a byte over the held-out verses, each from its beginning."""
    total, count = 0.0, 0
    for verse in verses:
        tokens = [BOS, *verse, EOS][: model.shape.context + 1]
        inputs, targets = pad([tokens])
        total += loss_of(model, inputs, targets).item() * targets.numel()
        count += targets.numel()
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small decoder and write model.onnx.")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model.onnx")
    arguments = parser.parse_args()
    verses = read_verses(arguments.corpus)
    kept = [verse for i, verse in enumerate(verses) if i % HELD_OUT_EVERY]
    torch.set_num_threads(1)  # the order of sums, and so every weight, depends on it
    torch.manual_seed(arguments.seed)
    model = Decoder(Shape())
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {sum(map(len, kept))} bytes", flush=True)
    train(model, kept, arguments.steps, arguments.seed)
    quality = {"heldOutNatsPerByte": round(held_out_loss(model, verses[::HELD_OUT_EVERY]), 4)}
    print(quality)
    (arguments.out.parent / "quality.json").write_text(json.dumps(quality) + "\n")
    export(model, arguments.out)
    print(f"wrote {arguments.out}, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
