"""Train the tree ensemble, and the other one that the testnet's liar runs instead of it. Deterministic, seconds.

The wine data (UCI, S. Aeberhard and M. Forina, 1992, CC BY 4.0), as scikit-learn ships them: 178 wines of three
growers, thirteen measurements each. A third is held out; forty of those become `rows.json`, so that nothing at run time
needs scikit-learn.

    python -m models.wine.train
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from skl2onnx import to_onnx
from sklearn.datasets import load_wine
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

SEED, TREES = 1, 60
DECOY_SEED, DECOY_TREES = 2, 8
SAMPLES = 40

Rows = npt.NDArray[np.float32]


def train(rows: Rows, labels: npt.NDArray[np.int64], seed: int, trees: int) -> GradientBoostingClassifier:
    """`trees` for each of the three classes, each on half of the rows and some of the features."""
    model = GradientBoostingClassifier(
        n_estimators=trees, max_depth=3, learning_rate=0.1, subsample=0.5, max_features=4, random_state=seed
    )
    return model.fit(rows, labels)


def export(model: GradientBoostingClassifier, example: Rows, path: Path) -> None:
    """One TreeEnsembleClassifier, float32 features [batch, 13] in, float32 scores [batch, 3] out.

    The scores are the sums over the trees, before any softmax: it would hide small changes behind probabilities near 1.
    The label is left out, it follows from the scores.
    """
    options = {id(model): {"zipmap": False, "raw_scores": True}}
    proto = to_onnx(model, example[:1], target_opset={"": 17, "ai.onnx.ml": 3}, options=options)
    graph, (trees, copy) = proto.graph, proto.graph.node
    if [trees.op_type, copy.op_type] != ["TreeEnsembleClassifier", "Identity"]:
        raise SystemExit("skl2onnx made another graph than this script knows how to trim")
    del graph.output[0], graph.node[1]  # the label, and the copy of the scores under another name
    # skl2onnx makes up a random name and orders the operator sets at random: every run would have another CID.
    graph.name = "wine"
    operators = sorted(proto.opset_import, key=lambda operators: operators.domain)
    del proto.opset_import[:]
    proto.opset_import.extend(operators)
    graph.input[0].name = trees.input[0] = "features"
    graph.output[0].name = trees.output[1] = "scores"
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def write_rows(rows: Rows, labels: npt.NDArray[np.int64], path: Path) -> None:
    lines = [
        json.dumps({"label": int(label), "features": [round(float(value), 4) for value in row]})
        for row, label in zip(rows[:SAMPLES], labels[:SAMPLES], strict=True)
    ]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the wine classifier and write its files.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out: Path = parser.parse_args().out
    features, growers = load_wine(return_X_y=True)
    rows, held_out, labels, held_out_labels = train_test_split(
        features.astype(np.float32), growers, test_size=1 / 3, random_state=0, stratify=growers
    )
    quality = {}
    for name, seed, trees in (("model", SEED, TREES), ("decoy", DECOY_SEED, DECOY_TREES)):
        model = train(rows, labels, seed, trees)
        export(model, held_out, out / f"{name}.onnx")
        quality[name] = model.score(held_out, held_out_labels)
        print(f"{name}: {quality[name]:.4f} of {len(held_out)} held-out wines right")
    write_rows(held_out, held_out_labels, out / "rows.json")
    (out / "quality.json").write_text(json.dumps({"heldOutAccuracy": round(quality["model"], 4)}) + "\n")


if __name__ == "__main__":
    main()
