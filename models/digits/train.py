"""Train the digit classifier, and the other model that the testnet's liar runs instead of it.

Real handwritten digits: scikit-learn's copy of the UCI set "Optical Recognition of Handwritten Digits" (1,797 images of
8 × 8). A fifth is held out; forty of those become `samples.json`, so that nothing at run time needs scikit-learn.

    python -m models.digits.train
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from models.export import export as onnx_export

SEED, EPOCHS = 1, 60
# The liar's: other random weights, trained a tenth as long. The same shapes and often the same label, other scores.
DECOY_SEED, DECOY_EPOCHS = 2, 6
SAMPLES = 40


class Residual(nn.Module):
    """Two 3 × 3 convolutions with batch norm, added to their input; 1 × 1 where the number of channels changes."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(y)) + self.skip(x))


class Classifier(nn.Module):
    """A small ResNet: (batch, 1, 8, 8) intensities from 0 to 1 in, (batch, 10) scores out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.fine = Residual(16, 16)  # on 8 × 8
        self.coarse = Residual(16, 32)  # on 4 × 4
        self.scores = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fine(functional.relu(self.stem_norm(self.stem(x))))
        x = self.coarse(functional.max_pool2d(x, 2))
        # A mean, not a pooling layer: ONNX Runtime averages in float64 only so, and attesters have to.
        scores: Tensor = self.scores(functional.dropout(x.mean((2, 3)), 0.1, self.training))
        return scores


def shifted(images: Tensor) -> Tensor:
    """A batch moved by up to one pixel in each direction: people do not write in the middle."""
    down, right = (int(torch.randint(-1, 2, ())) for _ in range(2))
    return functional.pad(images, (1 + right, 1 - right, 1 + down, 1 - down))[:, :, 1:-1, 1:-1]


def train(images: Tensor, labels: Tensor, seed: int, epochs: int) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier()
    batches = len(images) // 64 + 1
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).tensor_split(batches):
            optimizer.zero_grad()
            functional.cross_entropy(model(shifted(images[chosen])), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(1) == labels).float().mean().item()


def export(model: Classifier, example: Tensor, path: Path) -> None:
    """float32, with a free batch: the card fixes it to one, calibration runs others. Batch norms become part of the
    convolutions before them."""
    free = {0: "batch"}
    onnx_export(model, (example,), path, {"image": free}, {"scores": free})


def write_samples(images: Tensor, labels: Tensor, path: Path) -> None:
    """Pixels as the integers from 0 to 16 that the set has; the model takes them divided by 16."""
    rows = [
        {"label": int(label), "pixels": (image * 16).round().int().flatten().tolist()}
        for image, label in zip(images[:SAMPLES], labels[:SAMPLES], strict=True)
    ]
    path.write_text("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digit classifier and write its files.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)  # the order of sums, and so every weight, depends on it
    pixels, digits = load_digits(return_X_y=True)
    split = train_test_split(
        (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8), digits, test_size=0.2, random_state=0, stratify=digits
    )
    images, held_out, labels, held_out_labels = map(torch.tensor, split)
    quality = {}
    for name, seed, epochs in (("model", SEED, EPOCHS), ("decoy", DECOY_SEED, DECOY_EPOCHS)):
        model = train(images, labels, seed, epochs)
        export(model, held_out[:2], out / f"{name}.onnx")
        quality[name] = accuracy(model, held_out, held_out_labels)
        print(f"{name}: {quality[name]:.4f} of {len(held_out)} held-out images right")
    write_samples(held_out, held_out_labels, out / "samples.json")
    (out / "quality.json").write_text(json.dumps({"heldOutAccuracy": round(quality["model"], 4)}) + "\n")


if __name__ == "__main__":
    main()
