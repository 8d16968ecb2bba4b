"""Train the regressor, and the other model that the testnet's liar runs instead of it. Deterministic, seconds.

The diabetes data of Efron, Hastie, Johnstone and Tibshirani, "Least Angle Regression" (2004), as scikit-learn ships
them: 442 patients, ten features (centred and scaled), and a measure of the disease's progression a year later, from 25
to 346. A fifth is held out; forty of those become `rows.json`, so that nothing at run time needs scikit-learn.

    python -m models.diabetes.train
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from models.export import export

SEED, EPOCHS = 1, 60
DECOY_SEED, DECOY_EPOCHS = 2, 20  # other random weights, trained a third as long
SAMPLES = 40
FEATURE_SCALE = 21.0  # the features have a standard deviation of 1/21

Rows = npt.NDArray[np.float32]


class Regressor(nn.Module):
    """(batch, 10) features in; (batch, 1) progression and the (batch, 16) activations before it out.

    A single number carries little evidence of the model that made it: int8 weights may round to the same one. The last
    hidden layer, published beside it, cannot be met by chance.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.first = nn.Linear(10, 32)
        self.second = nn.Linear(32, 16)
        self.last = nn.Linear(16, 1)
        self.mean, self.deviation = mean, deviation

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.dropout(torch.tanh(self.first(features * FEATURE_SCALE)), 0.1, self.training)
        hidden = torch.tanh(self.second(x))
        return self.last(hidden) * self.deviation + self.mean, hidden


def train(rows: Tensor, progressions: Tensor, seed: int, epochs: int) -> Regressor:
    torch.manual_seed(seed)
    deviation, mean = (value.item() for value in torch.std_mean(progressions))
    model, batches = Regressor(mean, deviation), len(rows) // 32 + 1
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for chosen in torch.randperm(len(rows)).tensor_split(batches):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(rows[chosen])[0].squeeze(1), progressions[chosen])
            (loss / deviation**2).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def explained(predicted: Tensor, progressions: Tensor) -> float:
    """R²: the share of the variance that the prediction explains."""
    return 1 - ((predicted - progressions) ** 2).mean().item() / progressions.var(unbiased=False).item()


def write_rows(rows: Rows, progressions: Rows, path: Path) -> None:
    lines = [
        json.dumps({"progression": float(progression), "features": [round(float(value), 6) for value in row]})
        for row, progression in zip(rows[:SAMPLES], progressions[:SAMPLES], strict=True)
    ]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the diabetes regressor and write its files.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)  # the order of sums, and so every weight, depends on it
    features, targets = load_diabetes(return_X_y=True)
    split = train_test_split(
        features.round(6).astype(np.float32), targets.astype(np.float32), test_size=0.2, random_state=0
    )
    rows, held_out, progressions, held_out_progressions = map(torch.tensor, split)
    quality = {}
    for name, seed, epochs in (("model", SEED, EPOCHS), ("decoy", DECOY_SEED, DECOY_EPOCHS)):
        model = train(rows, progressions, seed, epochs)
        free = {0: "batch"}
        export(model, (held_out[:2],), out / f"{name}.onnx", {"features": free}, {"progression": free, "hidden": free})
        predicted = model(held_out)[0].squeeze(1).detach()
        error = (predicted - held_out_progressions).abs().mean().item()
        quality[name] = {
            "heldOutMeanAbsoluteError": round(error, 2),
            "heldOutR2": round(explained(predicted, held_out_progressions), 4),
        }
        print(name, quality[name])
    line = torch.tensor(LinearRegression().fit(split[0], split[2]).predict(split[1]))
    print(f"for comparison, a linear regression: R² {explained(line, held_out_progressions):.4f}")
    write_rows(split[1], split[3], out / "rows.json")
    (out / "quality.json").write_text(json.dumps(quality["model"]) + "\n")


if __name__ == "__main__":
    main()
