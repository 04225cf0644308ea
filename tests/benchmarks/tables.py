"""How good the models are on real tables, beside scikit-learn's on the same rows: whole trainings, several seeds."""

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.report import markdown, run

TITLE = "Tables"
ROUNDS = 5
ABOUT = """
Mean and standard deviation of what is reached on the test part of real tables: that of the authors for adult, another
random fifth for each seed for housing, five stratified folds for titanic. `tabular` is trained by its recipe, `mlp` and
the linear model of dlcli by the same recipe but for the model. dlcli holds a tenth of the training rows out, to choose
the best epoch. scikit-learn gets all training rows: missing numbers as the median, categories as one-hot, standardised;
for the boosting as they are. The files lie in `own/` of `DLCLI_DATA_DIR`; without them there are no rows.
"""

_ADULT = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip


@dataclass(frozen=True)
class _Set:
    """baseline: dlcli's linear model. drop: columns that scikit-learn does not get, as dlcli leaves them out."""

    name: str
    target: str
    baseline: str
    metrics: tuple[str, ...]
    drop: tuple[str, ...] = ()

    @property
    def is_regression(self) -> bool:
        return self.baseline == "linear"


SETS = (
    _Set("adult", "income", "logistic", ("accuracy", "auc")),
    _Set("housing", "median_house_value", "linear", ("rmse",)),
    _Set("titanic", "Survived", "logistic", ("accuracy", "auc"), ("PassengerId", "Name", "Ticket", "Cabin")),
)
_PEERS = ("MLP", "boosting", "linear")
_MLP = {"optimizer": "adamw", "weight_decay": 0.0003, "schedule": "cosine"}  # as tabular has it by default
_LINEAR = {**_MLP, "lr": 0.02, "epochs": 15}


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    folder = Path(os.environ.get("DLCLI_DATA_DIR") or "nowhere") / "own"
    for about in SETS:
        if only not in about.name or not folder.is_dir():
            continue
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(rounds):
            train, test = _parts(folder, about, seed)
            for name, figures in _figures(about, train, test, seed):
                found.setdefault(name, []).append(figures)
                print(f"{about.name} {seed} {name}: {figures}", file=sys.stderr)
            guard.probe()
        yield {"name": about.name, "metrics": about.metrics, "noise": guard.take(), "runs": found}


def _parts(folder: Path, about: _Set, seed: int) -> tuple[Any, Any]:
    """The rows for training and for testing, as pandas reads them."""
    import pandas as pd
    from sklearn.model_selection import StratifiedKFold, train_test_split

    if about.name == "adult":
        how: dict[str, Any] = {"header": None, "names": _ADULT, "skipinitialspace": True, "na_values": "?"}
        train, test = (pd.read_csv(folder / f"adult.{part}.csv", **how) for part in ("train", "test"))
        return train, test.assign(income=test["income"].str.removesuffix("."))
    frame = pd.read_csv(folder / f"{about.name}.csv")
    if about.is_regression:
        train, test = train_test_split(frame, test_size=0.2, random_state=seed)
        return train, test
    folds = StratifiedKFold(5, shuffle=True, random_state=seed // 5).split(frame, frame[about.target])
    train_rows, test_rows = list(folds)[seed % 5]
    return frame.iloc[train_rows], frame.iloc[test_rows]


def _figures(about: _Set, train: Any, test: Any, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory() as folder:
        for part, rows in (("train", train), ("test", test)):
            rows.to_csv(f"{folder}/{about.name}.{part}.csv", index=False, header=about.name != "adult")
        for model in ("tabular", "mlp", about.baseline):
            yield f"dlcli {model}", _trained(about, folder, model, seed)
    for peer in _PEERS:
        yield f"scikit-learn {peer}", _peer(about, train, test, peer, seed)


def _trained(about: _Set, folder: str, model: str, seed: int) -> dict[str, float]:
    from dlcli import TrainConfig, evaluate, train
    from dlcli.config.layers import stack
    from dlcli.config.toml import read_file

    here = {"data": f"table:{folder}/{about.name}.train.csv", "data.test": f"{folder}/{about.name}.test.csv"}
    chosen = {"model": model, **{"mlp": _MLP, about.baseline: _LINEAR}.get(model, {})}
    config = TrainConfig.from_flat(stack(read_file(f"recipe:tabular-{about.name}"), chosen, here, {"seed": seed}))
    for _ in train(config, runs_dir=f"{folder}/{model}"):
        pass
    metrics = evaluate(f"{folder}/{model}/1", split="test").metrics
    return {name: float(metrics[name]) for name in about.metrics}


def _peer(about: _Set, train: Any, test: Any, name: str, seed: int) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, roc_auc_score, root_mean_squared_error

    x, y = train.drop(columns=[about.target, *about.drop]), train[about.target]
    other_x, other_y = test.drop(columns=[about.target, *about.drop]), test[about.target]
    mean, scale = (y.mean(), y.std()) if about.is_regression else (0, 1)
    model = _estimator(name, seed, about.is_regression, list(x.select_dtypes(exclude="number").columns))
    model.fit(x, (y - mean) / scale if about.is_regression else y)
    if about.is_regression:
        return {"rmse": float(root_mean_squared_error(other_y, model.predict(other_x) * scale + mean))}
    second = model.predict_proba(other_x)[:, 1]
    accuracy = accuracy_score(other_y, model.classes_[(second > 0.5).astype(int)])
    return {"accuracy": float(accuracy), "auc": float(roc_auc_score(other_y == model.classes_[1], second))}


def _estimator(name: str, seed: int, is_regression: bool, categories: list[str]) -> Any:
    from sklearn import compose, ensemble, impute, linear_model, neural_network, pipeline, preprocessing

    if name == "boosting":
        boosting = (
            ensemble.HistGradientBoostingRegressor if is_regression else ensemble.HistGradientBoostingClassifier
        )(random_state=seed, early_stopping=True, categorical_features="from_dtype", max_iter=500, learning_rate=0.05)
        as_categories = preprocessing.FunctionTransformer(lambda x: x.astype(dict.fromkeys(categories, "category")))
        return pipeline.make_pipeline(as_categories, boosting)
    features = compose.make_column_transformer(
        (preprocessing.OneHotEncoder(handle_unknown="ignore"), categories),
        remainder=pipeline.make_pipeline(
            impute.SimpleImputer(strategy="median", add_indicator=True), preprocessing.StandardScaler()
        ),
        sparse_threshold=0,
    )
    if name == "linear":
        last = linear_model.Ridge() if is_regression else linear_model.LogisticRegression(max_iter=2000)
    else:
        mlp = neural_network.MLPRegressor if is_regression else neural_network.MLPClassifier
        last = mlp(hidden_layer_sizes=(128, 64), early_stopping=True, random_state=seed)
    return pipeline.make_pipeline(features, last)


def table(rows: list[dict[str, Any]]) -> str:
    parts = []
    for row in rows:
        lines = []
        for name, runs in row["runs"].items():
            values = [[run[metric] for run in runs] for metric in row["metrics"]]
            lines.append([name, str(len(runs)), *(_spread(each) for each in values)])
        parts.append(markdown([row["name"], "runs", *row["metrics"]], lines))
    return "\n".join(parts)


def _spread(values: list[float]) -> str:
    digits = ",.0f" if max(values) > 10 else ".4f"
    spread = f" ± {statistics.stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{digits}}{spread}"


if __name__ == "__main__":
    run(sys.modules[__name__])
