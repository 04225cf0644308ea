"""The models of torchvision: the list against torchvision's registry, and the models that are built of it."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from dlcli.config.registry import MODELS
from dlcli.config.schemes import model_entry
from dlcli.core import options
from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.core.zoo import zoo
from dlcli.models.blocks import first_convolution
from dlcli.models.parts import stages
from dlcli.models.zoo import builder
from tests.conftest import Dlcli
from tests.make_zoo import CSV, rows

# One of each family, with the size for which it is built here.
FAMILIES = {
    "squeezenet1_1": 32, "mnasnet0_5": 32, "mobilenet_v3_small": 32, "mobilenet_v2": 32, "shufflenet_v2_x0_5": 32,
    "regnet_x_400mf": 32, "resnet18": 32, "efficientnet_b0": 32, "googlenet": 32, "densenet121": 32,
}  # fmt: skip
LARGE_FAMILIES = {
    "alexnet": 63, "convnext_tiny": 32, "inception_v3": 75, "maxvit_t": 224, "swin_t": 32, "swin_v2_t": 32, "vgg11": 32,
    "vit_b_32": 32,
}  # fmt: skip


def images(size: int, *, channels: int = 3, outputs: int = 5) -> DataSpec:
    return DataSpec("multiclass", "image", (channels, size, size), outputs)


def built(name: str, spec: DataSpec, **chosen: Any) -> nn.Module:
    make = builder(name)
    torch.manual_seed(0)
    return make(spec, **options.resolve(make, chosen, where="model"))


# The list


def test_the_list_is_that_of_torchvision() -> None:
    """`python -m tests.make_zoo` makes it equal."""
    with open(CSV, encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert listed == [{name: str(value) for name, value in row.items()} for row in rows()]
    assert list(zoo()) == torchvision.models.list_models(module=torchvision.models)
    assert len(zoo()) >= 80


def test_no_name_of_the_zoo_is_one_of_ours() -> None:
    assert not MODELS.keys() & zoo().keys()


def test_the_table_of_the_zoo(dlcli: Dlcli) -> None:
    lines = dlcli("models", "--zoo").stdout.splitlines()
    assert lines[0].split("  ")[0] == "model" and len(lines) == len(zoo()) + 1
    assert next(line for line in lines if line.startswith("resnet18 ")).split() == (
        "resnet18 11,689,512 1.81 224 69.8 IMAGENET1K_V1 45 not stated".split()
    )
    found = {row["model"]: row for row in json.loads(dlcli("models", "--zoo", "--json").stdout)}
    assert found["vit_h_14"] == {
        "model": "vit_h_14", "parameters": 633470440, "gflops": 1016.717, "size": 518, "accuracy": 88.552,
        "entry": "IMAGENET1K_SWAG_E2E_V1", "megabytes": 2416.643, "licence": "CC BY-NC 4.0",
    }  # fmt: skip
    done = dlcli("models", "resnet18", "--zoo", check=2)
    assert done.stderr == "error: --zoo lists all of torchvision: leave resnet18 or --zoo out\n"


def test_a_model_of_the_zoo_in_detail(dlcli: Dlcli) -> None:
    assert dlcli("models", "resnet50").stdout.startswith(
        "resnet50\n"
        "what          value\n"
        "what it is    resnet50 of torchvision, designed for images of 224 pixels\n"
        "takes         images\n"
        "parameters    25,557,032 with 1000 classes\n"
        "default data  digits\n"
        "images        224 pixels; at least 1\n"
        "\n"
        "options, as in --set model.stem=VALUE\n"
        "option                    type                    default\n"
        "model.stem                one of standard, small  standard\n"
        "model.zero_init_residual  true or false           no\n"
        "\n"
        "published weights, for --pretrained ENTRY\n"
        "entry          accuracy  pixels  resized to  interpolation  MB  licence\n"
        "IMAGENET1K_V2      80.9     224         232  bilinear       98  not stated\n"
        "IMAGENET1K_V1      76.1     224         256  bilinear       98  not stated\n"
        "\n"
    )


@pytest.mark.slow
def test_a_zoo_may_be_named(dlcli: Dlcli) -> None:
    assert model_entry("torchvision:resnet18").target == model_entry("resnet18").target == "dlcli.models.zoo:resnet18"
    assert model_entry("timm:resnet18").target == "dlcli.models.timm_zoo:resnet18"
    done = dlcli("train", "torchvision:resnet1", check=2)
    assert done.stderr == (
        f"error: torchvision {torchvision.__version__} has no model 'resnet1': did you mean resnet18 or resnet152 or "
        "resnet101?\n"
    )
    assert dlcli("train", "torchvision:zebra", check=2).stderr.endswith(
        "has no model 'zebra': `dlcli models --zoo` lists those that it has\n"
    )


def test_timm_is_an_extra(dlcli: Dlcli) -> None:
    try:
        import timm  # noqa: F401
    except ImportError:
        done = dlcli("train", "timm:resnet18", check=2)
        assert done.stderr == "error: model timm:resnet18 needs timm: pip install 'dlcli[timm]'\n"
    else:
        done = dlcli("train", "timm:resnet1", check=2)
        assert "has no model 'resnet1': did you mean resnet1" in done.stderr


# The models


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_of_each_family_is_built_for_the_data(name: str, size: int, channels: int) -> None:
    check_built(name, size, channels)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), LARGE_FAMILIES.items())
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_of_each_large_family_is_built_for_the_data(name: str, size: int, channels: int) -> None:
    check_built(name, size, channels)


def check_built(name: str, size: int, channels: int) -> None:
    """One step of training and one evaluation, in channels-last memory and in mixed precision too."""
    model = built(name, images(size, channels=channels)).to(memory_format=torch.channels_last)
    head = getattr(model, "head", None)
    if isinstance(head, tuple):
        assert model.get_submodule(head[0]) is [module for module in model.modules() if own_parameters(module)][-1]
    else:
        assert name.startswith("swin") and head is list(model.modules())[-1]
    x = torch.rand(2, channels, size, size).contiguous(memory_format=torch.channels_last)
    answer = model.train()(x)
    assert answer.shape == (2, 5)
    answer.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(x).shape == (2, 5)
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    again = built(name, images(size, channels=channels)).eval()
    again.load_state_dict(saved)  # without the metadata that torch.save would keep
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)  # another layout, other sums


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnasnet0_5"])
def test_a_training_is_resumed_exactly(name: str, dlcli: Dlcli, tmp_path: Path) -> None:
    check_resumed(name, dlcli, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mnasnet0_5"])
def test_a_training_of_each_family_is_resumed_exactly(name: str, dlcli: Dlcli, tmp_path: Path) -> None:
    check_resumed(name, dlcli, tmp_path)


def newest(checkpoints: Path) -> Path:
    return max(checkpoints.glob("last-*"), key=lambda path: int(path.name.removeprefix("last-")))


def check_resumed(name: str, dlcli: Dlcli, tmp_path: Path) -> None:
    """In mixed precision and with an average of the weights: as a training that never stopped, bit for bit."""
    photographs(tmp_path)
    words = (name, "--data", "images:photos", "--image-size", "32", "--precision", "bf16", "--ema", "0.5", "--quiet",
             "--device", "cpu", "--batch-size", "4", "--threads", "1", "--lr", "0.0001")  # fmt: skip
    dlcli("train", *words, "--epochs", "2")
    dlcli("train", *words, "--epochs", "1")
    assert "exact: yes" in (tmp_path / "runs/2/log.txt").read_text() + dlcli("resume", "2", "--epochs", "2").stderr
    one, other = (load_file(newest(tmp_path / f"runs/{n}/checkpoints") / "model.safetensors") for n in (1, 2))
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
    if name != "mnasnet0_5":  # after so few steps, the statistics of its normalisation are still of no use
        predicted = json.loads(dlcli("predict", "2", "photos/ants/0.png", "--json").stdout)
        assert predicted[0]["class"] in ("ants", "bees")


def photographs(folder: Path) -> None:
    """Twelve photographs of two classes, of 40x50 pixels."""
    drawn = np.random.default_rng(0)
    for number in range(12):
        path = folder / "photos" / ("ants", "bees")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), (FAMILIES | LARGE_FAMILIES).items())
def test_a_model_of_each_family_is_exported(name: str, size: int, dlcli: Dlcli, tmp_path: Path) -> None:
    """The export itself compares the answers of the file with those of the run."""
    photographs(tmp_path)
    dlcli(
        "train",
        name,
        "--data",
        "images:photos",
        "--image-size",
        str(size),
        "--steps",
        "1",
        "--device",
        "cpu",
        "--quiet",
    )
    for format in ("onnx", "pt2"):
        dlcli("export", "1", "--format", format)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_gradients_of_the_zoo(name: str, dlcli: Dlcli) -> None:
    assert f"{name} (32 pixels)" in dlcli("gradcheck", name).stdout


def own_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo())
def test_every_model_has_the_parameters_of_the_list(name: str) -> None:
    known = zoo()[name]
    size = max(known.size // known.multiple * known.multiple, known.least)
    # RegNet computes its widths with tensors, which need their values.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = built(name, images(size, outputs=1000))
    count = sum(p.numel() for p in model.parameters())
    if name in ("googlenet", "inception_v3"):  # the list counts GoogLeNet without its auxiliary heads, Inception with
        reference = torchvision.models.get_model_builder(name)
        with torch.device("meta"):
            count = sum(
                p.numel() for p in reference(aux_logits=name == "inception_v3", init_weights=False).parameters()
            )
    if not name.startswith("vit_"):  # whose positions belong to one size
        assert count == known.parameters


def test_torchvisions_own_module_with_its_names() -> None:
    """So weights can be exchanged with torchvision, in both directions."""
    ours, theirs = built("resnet18", images(224, outputs=1000)), torchvision.models.resnet18()
    assert type(ours) is type(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_a_grey_image_gives_what_its_copy_in_three_channels_gives(name: str) -> None:
    grey, colour = built(name, images(32, channels=1)).eval(), built(name, images(32)).eval()
    weights = colour.state_dict()
    found = first_convolution(colour)
    assert found is not None
    first = f"{found[0]}.weight"
    grey.load_state_dict(weights | {first: weights[first].sum(1, keepdim=True)})
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.expand(2, 3, 32, 32)), rtol=1e-4, atol=1e-5)


def test_the_small_stem_keeps_the_resolution() -> None:
    """He et al. 2016, section 4.2: 3x3, stride 1, no pooling. Four stages then leave 4 of 32 pixels."""
    small, standard = built("resnet18", images(32), stem="small"), built("resnet18", images(32))
    seen: dict[str, Tensor] = {}
    for name, model in (("small", small), ("standard", standard)):
        model.layer4.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))  # type: ignore[operator, union-attr]
        model(torch.rand(2, 3, 32, 32))
    assert seen["small"].shape == (2, 512, 4, 4) and seen["standard"].shape == (2, 512, 1, 1)
    assert small.conv1.weight.shape == (64, 3, 3, 3)  # type: ignore[union-attr]


def test_options_reach_the_model() -> None:
    dropped = built("mobilenet_v2", images(32), width_mult=0.5, dropout=0.7)
    theirs = torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.5)
    assert [p.shape for p in dropped.parameters()] == [p.shape for p in theirs.parameters()]
    assert dropped.get_submodule("classifier.0").p == 0.7
    assert built("efficientnet_b0", images(32)).get_submodule("classifier.0").p == 0.2
    assert built("efficientnet_b0", images(32), dropout="0.6").get_submodule("classifier.0").p == 0.6


@pytest.mark.parametrize(
    ("name", "spec", "chosen", "message"),
    [
        ("vgg11", images(31), {}, "model vgg11 needs images of at least 32 pixels, but the data is image of 3x31x31"),
        (
            "vit_b_16", images(40), {},
            "model vit_b_16 needs square images whose size is a multiple of 16 pixels, but the data is image of "
            "3x40x40: take --image-size 32",
        ),
        (
            "resnet18", DataSpec("regression", "features", (5,), 1), {},
            "model resnet18 is for images, but the data is features of 5: choose --data digits, or model mlp",
        ),
        ("mobilenet_v2", images(32), {"dropout": 1.0}, "model.dropout = 1.0 is out of range: it must be in [0, 1)"),
        (
            "mobilenet_v2", images(32), {"width_mult": 0.0},
            "model.width_mult = 0.0 is out of range: it must be in (0, 16]",
        ),
        ("resnet18", images(32), {"stem": "tiny"}, "model.stem = 'tiny' is not one of standard, small"),
        ("resnet18", images(32), {"dropout": 0.1}, "unknown setting model.dropout: known are stem, zero_init_residual"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_told(name: str, spec: DataSpec, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(name, spec, **chosen)
    assert str(caught.value) == message


@pytest.mark.slow
def test_a_wrong_size_is_told_before_the_images_are_read(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()  # without images, which would be told if it were read
    for model, size, told in (
        ("vit_b_16", "100", "needs square images whose size is a multiple of 16 pixels, but data.size = 100: take "
         "--image-size 96"),
        ("maxvit_t", "230", "needs square images whose size is a multiple of 224 pixels"),
        ("vgg11", "31", "needs images of at least 32 pixels, but data.size = 31"),
    ):  # fmt: skip
        done = dlcli("train", model, "--data", f"images:{tmp_path}/photos", "--image-size", size, check=2)
        assert done.stderr.startswith(f"error: model {model} {told}")
    words = ("--data", f"images:{tmp_path}/photos", "--image-size", "8", "--set", "model.stem=small")
    small = dlcli("train", "resnet18", *words, check=3)
    assert "photos" in small.stderr


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        (
            "vit_b_16", 32,
            ("conv_proj", *(f"encoder.layers.encoder_layer_{n}" for n in range(12)), "encoder.ln", "heads"),
        ),
        ("swin_t", 32, (*(f"features.{n}" for n in range(8)), "norm", "head")),
        ("regnet_y_400mf", 32, ("stem", *(f"trunk_output.block{n}" for n in range(1, 5)), "fc")),
    ],
)  # fmt: skip
def test_each_block_is_a_stage(name: str, size: int, expected: tuple[str, ...]) -> None:
    assert stages(built(name, images(size))) == expected


@pytest.mark.parametrize(("name", "size"), {"vgg11": 31, "squeezenet1_1": 16, "densenet121": 28}.items())
def test_the_least_size_is_the_least(name: str, size: int) -> None:
    assert zoo()[name].least == size + 1
    reference = torchvision.models.get_model_builder(name)(num_classes=5)
    with pytest.raises(RuntimeError):
        reference(torch.zeros(2, 3, size, size))
