"""Writes dlcli/core/zoo.csv from torchvision's registry: `python -m tests.make_zoo`."""

import csv
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torchvision.models

CSV = Path(__file__).parent.parent / "dlcli" / "core" / "zoo.csv"

_LICENCES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "CC BY-NC 4.0"}

# With `transform_input` these two convert their input from the published normalisation to this one. Ours are built
# without it, and are given the normalisation that they compute with.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")
_HALF = [0.5, 0.5, 0.5]


def rows() -> Iterator[dict[str, Any]]:
    """One for each entry of each model, its default entry first."""
    for name in torchvision.models.list_models(module=torchvision.models):
        entries = torchvision.models.get_model_weights(name)
        model_rows = [_row(name, e) for e in entries if not math.isnan(e.meta["_metrics"]["ImageNet-1K"]["acc@1"])]
        default = entries.DEFAULT.name
        least, multiple = _sizes(name, entries.DEFAULT.meta["min_size"][0])
        for row in sorted(model_rows, key=lambda row: row["entry"] != default):
            yield {**row, "least": least, "multiple": multiple}


def _row(name: str, entry: Any) -> dict[str, Any]:
    meta, transforms = entry.meta, entry.transforms()
    mean, std = (_HALF, _HALF) if name in _TRANSFORM_INPUT else (transforms.mean, transforms.std)
    licence = meta.get("license", "")
    return {
        "model": name,
        "entry": entry.name,
        "parameters": torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"],
        "gflops": meta["_ops"],
        "crop": transforms.crop_size[0],
        "resize": transforms.resize_size[0],
        "interpolation": transforms.interpolation.value,
        "mean": " ".join(map(str, mean)),
        "std": " ".join(map(str, std)),
        "accuracy": meta["_metrics"]["ImageNet-1K"]["acc@1"],
        "megabytes": meta["_file_size"],
        "licence": _LICENCES[licence] if licence else "",
    }


def _sizes(name: str, stated: int) -> tuple[int, int]:
    """The smallest square input that the model takes, and what the size must be a multiple of.

    stated: the `min_size` of the metadata. That of transformers is the size that they were trained with, but vision
    transformers are built for any multiple of their patch, and Swin's windows are padded.
    """
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        return patch, patch
    if name.startswith("swin_"):
        return 32, 1
    return (224, 224) if name == "maxvit_t" else (stated, 1)


def main() -> None:
    found = list(rows())
    order = ["model", "entry", "parameters", "gflops", "accuracy", "least", "multiple", "crop", "resize"]
    order += ["interpolation", "mean", "std", "megabytes", "licence"]
    with open(CSV, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, order, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    print(f"{len(found)} weights of {len({row['model'] for row in found})} models in {CSV}", file=sys.stderr)


if __name__ == "__main__":
    main()
