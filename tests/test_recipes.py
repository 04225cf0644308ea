"""Every recipe reaches its stated result. `make recipes` trains all of them and prints the results."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlcli import TrainConfig, train
from dlcli.config.recipe import recipes
from dlcli.config.toml import read_file
from dlcli.data.batches import full
from dlcli.evaluation.rules import check_rules, parse_rules
from dlcli.experiment.load import load_data
from dlcli.experiment.restore import restore
from dlcli.runs.run import Run
from tests.conftest import DATA_DIR, Dlcli

# Of data of these kinds, the file is in own/ of the data folder; weights are in own/weights.
_OWN = ("table:", "texts:", "images:")


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_says_what_it_is_and_what_it_must_reach(name: str) -> None:
    recipe = recipes()[name]
    assert sorted(recipe) == ["reaches", "require", "settings", "split", "summary"]
    assert recipe["summary"] and recipe["reaches"]
    made = TrainConfig.from_flat(read_file(f"recipe:{name}"))
    names = dict.fromkeys(("loss", "accuracy", "auc", "mse", "rmse", "r2", "bits_per_char"), 0.0)
    assert check_rules(names, parse_rules(recipe["require"]))
    fast = f"{made.data.removesuffix('-mnist')}-fast"  # the shortest time to an accuracy, with any model
    data = made.data
    if data.startswith(_OWN):
        data = Path(data).name.partition(".")[0].removesuffix("_data")
    assert name in (f"{made.model}-{data}", fast) or name.startswith(f"{made.model}-{data}-")


def test_the_recipe_of_cifar10_trains_on_any_jpeg_files(dlcli: Dlcli, tmp_path: Path) -> None:
    """Its own data is an archive beside it; a folder in its place, two steps."""
    noise = np.random.default_rng(0)
    for name in ("cat", "ship"):
        for split, count in (("train", 24), ("test", 4)):
            folder = tmp_path / "small" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    words = ("--config", "recipe:airbench-cifar10-jpeg")
    missing = dlcli("train", *words, check=3)
    assert "cifar10-jpeg.zip" in missing.stderr
    words += ("--data", "images:small", "--steps", "2", "--batch-size", "16", "--quiet")
    dlcli("train", *words)
    made = json.loads((tmp_path / "runs" / "1" / "run.json").read_text())
    config = json.loads((tmp_path / "runs" / "1" / "config.json").read_text())
    settings = recipes()["airbench-cifar10-jpeg"]["settings"]
    assert config["model"] == {"name": "airbench", "channels": settings["model.channels"]}
    assert config["augment"] == settings["augment"]
    assert made["status"] == "finished" and made["step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_reaches_it(name: str, dlcli: Dlcli, tmp_path: Path) -> None:
    recipe = recipes()[name]
    settings = recipe["settings"]
    if settings["data"].startswith(_OWN):
        data = (settings["data"].partition(":")[2], settings.get("data.test"))
        weights = f"weights/{settings['weights']}" if settings.get("weights") else None
        for file in (*data, weights):
            if file and not Path(DATA_DIR, "own", file).exists():
                pytest.skip(f"DLCLI_DATA_DIR ({DATA_DIR or 'not set'}) has no own/{file}")
            if file:
                (tmp_path / Path(file).name).symlink_to(Path(DATA_DIR, "own", file))
    downloaded = recipe["settings"]["data"] in ("mnist", "fashion-mnist")
    if downloaded and not DATA_DIR:
        pytest.skip(f"{recipe['settings']['data']} is downloaded: DLCLI_DATA_DIR is not set")
    folder = ["--data-dir", DATA_DIR] if downloaded else []
    result = json.loads(dlcli("train", "--config", f"recipe:{name}", *folder, "--quiet", "--json").stdout)
    rules = [word for rule in recipe["require"] for word in ("--require", rule)]
    report = json.loads(dlcli("eval", "1", "--split", recipe["split"], *rules, "--json").stdout)
    values = ", ".join(f"{k} {v:.6g}" for k, v in report["metrics"].items() if v is not None)
    print(f"\n{name}: {recipe['split']} {values} ({result['seconds']:.1f} s)")
    assert all(rule["holds"] for rule in report["require"])


def test_the_line_is_found(tmp_path: Path) -> None:
    """Slope within 0.05 of 1, mean squared error within 2 % of that of least squares on the same rows."""
    run_config = TrainConfig.from_flat(read_file("recipe:linear-line"))
    list(train(run_config, runs_dir=tmp_path))
    restored = restore(Run(tmp_path, 1), role="last")
    slope, intercept = (p.item() for p in restored.model.parameters())
    assert slope == pytest.approx(1.0, abs=0.05)
    data = load_data(run_config, device="cpu")
    whole = full(data.train)
    x, y = whole.x.double().numpy(), whole.y.double().numpy()
    (w, b), *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
    least = np.mean((x[:, 0] * w + b - y) ** 2)
    assert np.mean((x[:, 0] * slope + intercept - y) ** 2) <= 1.02 * least
