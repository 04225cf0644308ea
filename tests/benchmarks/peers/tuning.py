"""Learning rates for a small network, tried by Ray Tune or by Hydra's joblib launcher as their documentation says."""

import json
import sys
from pathlib import Path


def accuracy(lr: float) -> float:
    """The better validation accuracy of two epochs: what a trial of `dlcli train mlp --data digits --epochs 2` does,
    without a run that is kept."""
    import torch
    import torch.nn.functional as F
    from sklearn.datasets import load_digits
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x, y = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    (x, held_x), (y, held_y) = (t.split([len(t) - len(t) // 10, len(t) // 10]) for t in (x, y))
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    best = 0.0
    for _ in range(2):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            best = max(best, float((model(held_x).argmax(1) == held_y).float().mean()))
    return best


def with_ray(rates: list[float], folder: str) -> None:
    from ray import tune

    def trial(config: dict[str, float]) -> None:
        tune.report({"accuracy": accuracy(config["lr"])})

    found = tune.Tuner(
        trial,
        param_space={"lr": tune.grid_search(rates)},
        run_config=tune.RunConfig(storage_path=str(Path(folder).absolute())),
    ).fit()
    if found.num_errors:
        raise RuntimeError(f"{found.num_errors} trials failed")
    print(found.get_best_result("accuracy", "max").metrics["accuracy"])


def with_hydra(rates: list[float], folder: str) -> None:
    import hydra
    from omegaconf import DictConfig

    @hydra.main(version_base=None, config_path=None)
    def trial(config: DictConfig) -> float:
        return accuracy(config.lr)

    sys.argv = [
        sys.argv[0], "--multirun", f"+lr={','.join(map(repr, rates))}", "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={folder}",
    ]  # fmt: skip
    trial()


if __name__ == "__main__":
    {"ray": with_ray, "hydra": with_hydra}[sys.argv[1]](json.loads(sys.argv[2]), sys.argv[3])
