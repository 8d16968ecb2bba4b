"""Train the small decoder on the King James Bible; write `model.onnx` and, under `variants/`, what a dishonest
performer would run instead (see variants.py). Deterministic for one torch build.

    python -m models.text.train --corpus kjv.txt     # the corpus: see models/verses.py

About 8 minutes on one core for the model, 4 more for the variants. Tokens are bytes, 256 begins a text and 257
ends it. With glibc, some gigabytes as MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ keep it from giving every
activation's pages back to the kernel.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.text.decoder import Decoder, Shape, export
from models.text.smaller import Smaller, smaller
from models.text.variants import STORED_AS, pack
from models.verses import read_verses

BOS, EOS = 256, 257
BATCH_TOKENS = 1024  # many small steps beat few large ones at this size
PEAK_RATE, WARM_UP = 6e-3, 60
STALE = {"stale98": 0.98, "stale90": 0.9}  # of the steps
FINE_TUNED = {"ft1_lr1e-6": (1, 1e-6), "ft10_lr1e-5": (10, 1e-5), "ft10_lr1e-4": (10, 1e-4)}  # steps, rate
TUNING_SEED, OTHER_SEED, SMALL_SEED = 4, 2, 3
SHORTER = 4  # the other seed and the smaller model are trained for a quarter of the steps


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


def train(
    model: Decoder, verses: list[bytes], steps: int, seed: int, checkpoints: Sequence[int] = ()
) -> dict[int, Decoder]:
    """Trains `model` in place. Returns copies of it as it was after so many steps."""
    kept = {}
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
        if step + 1 in checkpoints:
            kept[step + 1] = copy.deepcopy(model)
    return kept


def fine_tuned(model: Decoder, verses: list[bytes], steps: int, rate: float) -> Decoder:
    """A copy after some plain AdamW steps in float32, without weight decay: every weight moves, and by little."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    data = batches(verses, TUNING_SEED, model.shape.context)
    for _ in range(steps):
        loss = loss_of(model, *next(data))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


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


def other_models(model: Decoder, kept: dict[int, Decoder], verses: list[bytes], steps: int) -> dict[str, Decoder]:
    """Everything that variants.py lists, by name, trained."""
    others = {name: kept[round(part * steps)] for name, part in STALE.items()}
    others |= {name: fine_tuned(model, verses, *how) for name, how in FINE_TUNED.items()}
    torch.manual_seed(OTHER_SEED)
    others["seed2"] = Decoder(model.shape)
    others["small"] = smaller(SMALL_SEED)
    train(others["seed2"], verses, steps // SHORTER, OTHER_SEED)
    train(others["small"], verses, steps // SHORTER, SMALL_SEED)
    return others


def write_variant(name: str, other: Decoder, model: Path, folder: Path, whole: Path) -> None:
    """`whole` keeps the file that `folder` holds in short, for whoever wants to compare."""
    path = whole / f"{name}.onnx"
    if name in STORED_AS:
        export(other, path, other.shape)
        packed = pack(model.read_bytes(), path.read_bytes(), STORED_AS[name])
        np.savez_compressed(folder / f"{name}.npz", allow_pickle=False, **packed)
    else:
        export(Smaller(other, Shape()), path, Shape())
        (folder / path.name).write_bytes(path.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small decoder; write model.onnx and its variants.")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--whole", type=Path, help="a folder that is to get the variants as whole ONNX files")
    arguments = parser.parse_args()
    verses, held_out = read_verses(arguments.corpus)
    torch.set_num_threads(1)  # the order of sums, and so every weight, depends on it
    torch.manual_seed(arguments.seed)
    model = Decoder(Shape())
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {sum(map(len, verses))} bytes", flush=True)
    stale = [round(part * arguments.steps) for part in STALE.values()]
    checkpoints = train(model, verses, arguments.steps, arguments.seed, stale)
    export(model, arguments.out / "model.onnx", model.shape)
    write_quality({"heldOutNatsPerByte": held_out_loss(model, held_out)}, arguments.out)
    others = other_models(model, checkpoints, verses, arguments.steps)
    folder = arguments.out / "variants"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name, other in others.items():
            write_variant(name, other, arguments.out / "model.onnx", folder, arguments.whole or Path(temporary))
    write_quality({name: held_out_loss(other, held_out) for name, other in others.items()}, folder)


def write_quality(quality: dict[str, float], folder: Path) -> None:
    """In nats a byte."""
    text = json.dumps({name: round(value, 4) for name, value in quality.items()})
    (folder / "quality.json").write_text(text + "\n")
    print(text, flush=True)


if __name__ == "__main__":
    main()
