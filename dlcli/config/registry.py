"""MODELS and DATASETS: the built-in models and data sets by name, and where their code is. Nothing is imported here.

A name that is not registered but has the form `package.module:Name` is imported from the Python path or the
current folder, so a user's own model needs no plug-in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelEntry:
    """target: "module:attribute" of the nn.Module. data: its default data set. defaults: its own settings.

    data_options: options of a data set that suit the model, by its name in DATASETS.
    builds: whether the target is a function that returns the nn.Module.
    """

    target: str
    summary: str
    takes: str
    data: str = "digits"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    builds: bool = False


@dataclass(frozen=True)
class DataEntry:
    """target: "module:attribute" of the loader. defaults: settings that suit the data.

    size: training samples (before a validation split) + test samples of an official test set.
    file: what of the user's own it reads, named after a colon (`text:FILE`); empty for a data set of a fixed name.
    """

    target: str
    summary: str
    task: str
    shape: str
    size: str
    licence: str
    origin: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""


MODELS: dict[str, ModelEntry] = {
    "linear": ModelEntry(
        "dlcli.models.linear:Linear",
        "linear regression: y = Wx + b",
        "features or images; regression",
        data="make-regression",
        defaults={"optimizer": "gd", "lr": 0.01, "epochs": 1000, "eval_every": "50epochs"},
    ),
    "logistic": ModelEntry(
        "dlcli.models.logistic:Logistic",
        "logistic or, for k classes, softmax regression",
        "features or images; binary or classes",
        data="breast-cancer",
        defaults={"epochs": 50},
    ),
    "mlp": ModelEntry(
        "dlcli.models.mlp:MLP",
        "fully connected layers with activations between",
        "features or images; any task but next-token",
        defaults={"epochs": 20},
    ),
    "tabular": ModelEntry(
        "dlcli.models.tabular:Tabular",
        "embeddings of numbers and categories, residual blocks",
        "features; any task but next-token",
        data="breast-cancer",
        defaults={"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.0003, "schedule": "cosine", "epochs": 20},
        data_options={"table": {"scale": "quantile"}},
    ),
    "lenet": ModelEntry(
        "dlcli.models.lenet:LeNet",
        "LeNet-5 (LeCun et al. 1998), ReLU and max pooling",
        "images",
        defaults={"epochs": 20},
    ),
    "cnn": ModelEntry(
        "dlcli.models.cnn:CNN",
        "two convolutions with pooling, two linear layers",
        "images",
        defaults={"epochs": 20},
    ),
    "simple-cnn": ModelEntry(
        "dlcli.models.simple_cnn:SimpleCNN",
        "one convolution with pooling, one linear layer",
        "images",
        defaults={"optimizer": "adam", "epochs": 10, "batch_size": 32},
    ),
    "airbench": ModelEntry(
        "dlcli.models.airbench:Airbench",
        "six convolutions that train fast on small images (Jordan 2024)",
        "images",
        defaults={
            "lr": 0.4,
            "nesterov": True,
            "weight_decay": 0.0005,
            "schedule": "one-cycle",
            "batch_size": 128,
            "label_smoothing": 0.2,
            "epochs": 10,
        },
    ),
    "rnn": ModelEntry(
        "dlcli.models.rnn:RNN",
        "embedding, GRU, and a linear layer",
        "texts; next-token, binary or classes",
        data="pydocs",
        defaults={"optimizer": "adam", "lr": 0.005, "epochs": 5, "clip_norm": 1.0},
    ),
    "attention": ModelEntry(
        "dlcli.models.attention:Attention",
        "embedding, positions, multi-head self-attention",
        "tokens, texts, or images as a sequence of rows; binary, classes or next-token",
        data="recall",
        defaults={"optimizer": "adam", "lr": 0.003, "epochs": 5},
    ),
    "ngrams": ModelEntry(
        "dlcli.models.ngrams:NGrams",
        "sum of the vectors of hashed n-grams (fastText), one linear layer",
        "texts, tokens; binary or classes",
        data="recall",
        defaults={"lr": 0.3, "epochs": 10, "batch_size": 32, "schedule": "one-cycle"},
    ),
}

_SKLEARN = "bundled with scikit-learn"

_GENERATED = "generated from a seed"

DATASETS: dict[str, DataEntry] = {
    "digits": DataEntry(
        "dlcli.data.builtin:digits",
        "handwritten digits, 8x8 pixels",
        "classes (10)",
        "1x8x8",
        "1797",
        "CC BY 4.0",
        f"{_SKLEARN} (UCI, Alpaydin and Kaynak 1998)",
    ),
    "breast-cancer": DataEntry(
        "dlcli.data.builtin:breast_cancer",
        "breast tumours, malignant or benign",
        "binary",
        "30",
        "569",
        "CC BY 4.0",
        f"{_SKLEARN} (UCI, Wolberg et al. 1995)",
        {"batch_size": 32},
    ),
    "iris": DataEntry(
        "dlcli.data.builtin:iris",
        "iris flowers by leaf sizes",
        "classes (3)",
        "4",
        "150",
        "CC BY 4.0",
        f"{_SKLEARN} (UCI, Fisher 1936)",
        {"batch_size": 16},
    ),
    "wine": DataEntry(
        "dlcli.data.builtin:wine",
        "wines by chemical analysis",
        "classes (3)",
        "13",
        "178",
        "CC BY 4.0",
        f"{_SKLEARN} (UCI, Aeberhard and Forina 1991)",
        {"batch_size": 16},
    ),
    "diabetes": DataEntry(
        "dlcli.data.builtin:diabetes",
        "progression of diabetes after a year",
        "regression",
        "10",
        "442",
        "free with citation",
        f"{_SKLEARN} (Efron et al. 2004)",
        {"batch_size": 32},
    ),
    "line": DataEntry(
        "dlcli.data.synthetic:line",
        "y = x + 3 noise, x ~ 5 N(0, 1)",
        "regression",
        "1",
        "1000",
        "none needed",
        _GENERATED,
        {"normalize": False},
    ),
    "make-regression": DataEntry(
        "dlcli.data.synthetic:make_regression",
        "scikit-learn's make_regression: a linear function with noise",
        "regression",
        "1",
        "100",
        "none needed",
        _GENERATED,
        {"normalize": False},
    ),
    "random": DataEntry(
        "dlcli.data.synthetic:random",
        "noise with random labels: nothing can be learned from it",
        "classes (10)",
        "3",
        "1000",
        "none needed",
        _GENERATED,
    ),
    "recall": DataEntry(
        "dlcli.data.synthetic:recall",
        "key-value pairs and a query key: the class is the value of that key",
        "classes (8)",
        "9 tokens",
        "20000",
        "none needed",
        _GENERATED,
    ),
    "pydocs": DataEntry(
        "dlcli.data.text:pydocs",
        "characters of Python's own help topics",
        "next token",
        "128 tokens",
        "about 0.4 M characters",
        "PSF",
        "bundled with Python (pydoc_data.topics)",
    ),
    "text": DataEntry(
        "dlcli.data.text:text_file",
        "your own text, of a file, several, or a folder: --data text:FILE",
        "next token",
        "128 tokens",
        "the file",
        "yours",
        "your files",
        file="FILE",
    ),
    "texts": DataEntry(
        "dlcli.data.texts.labelled:texts",
        "your own texts with a class each: --data texts:FILE or texts:FOLDER",
        "binary or classes",
        "the longest text",
        "the texts",
        "yours",
        "your file (CSV, JSON lines) or folder",
        file="FILE",
    ),
    "images": DataEntry(
        "dlcli.data.images.folder:images",
        "image files of your own, a folder for each class: --data images:FOLDER",
        "classes",
        "3x64x64, or theirs",
        "the files",
        "yours",
        "your folder",
        file="FOLDER",
    ),
    "table": DataEntry(
        "dlcli.data.tables.table:table",
        "your own table: --data table:FILE --set data.target=COLUMN",
        "that of the target",
        "a row",
        "the file",
        "yours",
        "your file (CSV, JSON lines)",
        file="FILE",
    ),
    "arrays": DataEntry(
        "dlcli.data.arrays:arrays",
        "your own arrays: --data arrays:FILE",
        "that of y",
        "that of x",
        "the file",
        "yours",
        "your file (.npz, .safetensors, a folder of .npy)",
        file="FILE",
    ),
    "tinyshakespeare": DataEntry(
        "dlcli.data.text:tinyshakespeare",
        "40,000 lines of Shakespeare's plays",
        "next token",
        "128 tokens",
        "1.1 M characters",
        "public domain",
        "downloaded (Karpathy 2015)",
    ),
    "mnist": DataEntry(
        "dlcli.data.vision:mnist",
        "handwritten digits, 28x28 pixels",
        "classes (10)",
        "1x28x28",
        "60000 + 10000",
        "CC BY-SA 3.0",
        "downloaded (LeCun et al. 1998)",
        {"epochs": 5},
    ),
    "fashion-mnist": DataEntry(
        "dlcli.data.vision:fashion_mnist",
        "articles of clothing, 28x28 pixels",
        "classes (10)",
        "1x28x28",
        "60000 + 10000",
        "MIT",
        "downloaded (Xiao et al. 2017)",
        {"epochs": 5},
    ),
    "kmnist": DataEntry(
        "dlcli.data.vision:kmnist",
        "cursive Japanese characters, 28x28 pixels",
        "classes (10)",
        "1x28x28",
        "60000 + 10000",
        "CC BY-SA 4.0",
        "downloaded (Clanuwat et al. 2018)",
        {"epochs": 5},
    ),
    "cifar10": DataEntry(
        "dlcli.data.vision:cifar10",
        "small colour photographs of ten kinds of things",
        "classes (10)",
        "3x32x32",
        "50000 + 10000",
        "none stated",
        "downloaded (Krizhevsky 2009)",
        {"epochs": 10},
    ),
}
