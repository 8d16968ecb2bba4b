"""Train the sentence encoder, and the other model that the testnet's liar runs instead of it. Deterministic.

Of the King James Bible the two halves of a verse belong together, and a half and what is left of it when words are
taken out: each must lie closer to its partner than to everybody else's (contrastive, with the batch as negatives). Ids
are UTF-8 bytes, 256 is padding.

    python -m models.sentences.train --corpus kjv.txt     # the corpus: see models/verses.py
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from models.export import export
from models.sentences.encoder import PAD, Encoder, Shape
from models.verses import read_verses

SEED, STEPS = 1, 1500
DECOY_SEED, DECOY_STEPS, DECOY_SHAPE = 2, 200, Shape(layers=1)  # half the layers, a seventh of the steps
PAIRS, PEAK_RATE, WARM_UP = 128, 3e-3, 50
GAPS = 1 / 3
SHARPNESS = 20.0  # cosines times this are the logits
CANDIDATES, SAMPLES = 100, 40

Pair = tuple[bytes, bytes]


def halves(verse: bytes, longest: int) -> Pair | None:
    """The verse cut at the space nearest its middle; of each half what lies next to the cut, in whole words, up to
    `longest` bytes. None for a verse of one word."""
    spaces = [i for i, byte in enumerate(verse) if byte == 32]
    if not spaces:
        return None
    cut = min(spaces, key=lambda i: abs(2 * i - len(verse)))
    first, second = verse[:cut], verse[cut + 1 :]
    if len(first) > longest:
        first = first[-longest - 1 :].partition(b" ")[2]
    if len(second) > longest:
        second = second[: longest + 1].rpartition(b" ")[0]
    return first, second


def with_gaps(text: bytes, rng: random.Random) -> bytes:
    """A third of the words are missing, but never all."""
    words = text.split(b" ")
    return b" ".join(word for word in words if rng.random() >= GAPS) or rng.choice(words)


def partners(pairs: list[Pair], rng: random.Random) -> list[Pair]:
    """Alternately the two halves, and one of them with its own remains."""
    return [(a, b) if i % 2 else (a, with_gaps(a, rng)) for i, (a, b) in enumerate(pairs)]


def to_ids(texts: list[bytes], length: int) -> Tensor:
    return torch.tensor([[*text, *[PAD] * (length - len(text))] for text in texts])


def loss_of(model: Encoder, first: Tensor, second: Tensor) -> Tensor:
    a, b = model(torch.cat([first, second])).float().chunk(2)
    logits, target = SHARPNESS * a @ b.t(), torch.arange(len(a))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.t(), target)) / 2


def train(pairs: list[Pair], shape: Shape, steps: int, seed: int) -> Encoder:
    torch.manual_seed(seed)
    model, rng = Encoder(shape), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=steps, pct_start=min(0.5, WARM_UP / steps), cycle_momentum=False
    )
    started = time.monotonic()
    for step in range(steps):
        first, second = zip(*partners(rng.sample(pairs, PAIRS), rng), strict=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, to_ids(list(first), shape.length), to_ids(list(second), shape.length))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.3f} after {time.monotonic() - started:.0f} s", flush=True)
    return model.eval()


@torch.no_grad()
def found(model: Encoder, pairs: list[Pair]) -> float:
    """The share of pairs whose second text is the nearest to the first of CANDIDATES. Chance would find a hundredth."""
    right, groups = 0, len(pairs) // CANDIDATES
    for at in range(groups):
        first, second = zip(*pairs[at * CANDIDATES : (at + 1) * CANDIDATES], strict=True)
        cosines = model(to_ids(list(first), model.shape.length)) @ model(to_ids(list(second), model.shape.length)).t()
        right += int((cosines.argmax(1) == torch.arange(CANDIDATES)).sum())
    return right / (groups * CANDIDATES)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sentence encoder and write its files.")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    out: Path = arguments.out
    torch.set_num_threads(1)  # the order of sums, and so every weight, depends on it
    pairs, held_out = (
        [pair for verse in verses if (pair := halves(verse, Shape().length))]
        for verses in read_verses(arguments.corpus)
    )
    rng = random.Random(SEED)
    remains = [(half, with_gaps(half, rng)) for half, _ in held_out]
    quality = {}
    for name, seed, steps, shape in (("model", SEED, STEPS, Shape()), ("decoy", DECOY_SEED, DECOY_STEPS, DECOY_SHAPE)):
        model = train(pairs, shape, steps, seed)
        ids = to_ids([b"In the beginning", b"God"], shape.length)
        export(model, (ids,), out / f"{name}.onnx", {"ids": {0: "batch"}}, {"embedding": {0: "batch"}})
        quality[name] = {
            f"heldOutWithGapsFoundAmong{CANDIDATES}": round(found(model, remains), 4),
            f"heldOutOtherHalfFoundAmong{CANDIDATES}": round(found(model, held_out), 4),
        }
        print(name, sum(p.numel() for p in model.parameters()), "parameters", quality[name], flush=True)
    (out / "quality.json").write_text(json.dumps(quality["model"]) + "\n")
    texts = [half.decode() for pair in held_out[: SAMPLES // 2] for half in pair]
    (out / "sentences.json").write_text(json.dumps(texts, indent=0, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
