"""`dlcli explain` of images: maps against captum's and against what the methods are defined as, and what is told."""

import copy
import csv
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from dlcli.analysis.explain.images import Method, choose_method
from dlcli.analysis.explain.inputs import Sample
from dlcli.analysis.explain.maps import coarse_gradcam, compute, random_map
from dlcli.analysis.explain.removal import areas, removal_scores
from dlcli.analysis.explain.subject import Subject, answer_of
from dlcli.cli.main import app
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.restore import restore
from dlcli.runs.run import Run
from dlcli.tasks.binary import Binary
from dlcli.tasks.choose import choose_task
from tests.conftest import Dlcli


def explain(root: Path, *words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["explain", *words, "--runs-dir", str(root)])
    assert done.exit_code == code, done.output
    return done


def document(root: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(explain(root, *words, "--json").stdout)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on digits, 8x8: 1 a cnn, 2 an mlp, 3 an mlp of iris, 4 attention."""
    root = tmp_path_factory.mktemp("explain") / "runs"
    for words in (
        ["cnn", "--set", "model.channels=8,16", "--set", "model.hidden=32", "--epochs", "4"],
        ["mlp", "--set", "model.hidden=32", "--epochs", "3"],
        ["mlp", "--data", "iris", "--epochs", "1"],
        ["attention", "--data", "digits", "--set", "model.width=16", "--epochs", "1"],
    ):
        words = ["train", *words, "--device", "cpu", "--quiet", "--runs-dir", str(root)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    return root


def subject_of(model: nn.Module, spec: DataSpec, about: Preprocessing | None = None) -> Subject:
    """An untrained model of one's own, as if restored."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Subject(
        Run(Path("runs"), 1), "mine:Net", model.eval(), choose_task(spec), about or Preprocessing(spec),
        torch.device("cpu"),
    )  # fmt: skip


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))


SPEC = DataSpec("multiclass", "image", (3, 32, 32), 5)


# Against captum


def captum() -> Any:
    return pytest.importorskip("captum.attr", reason="captum is not installed: pip install 'dlcli[dev]'")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_gradcam_and_gradients_are_captums(name: str) -> None:
    """captum gets a model without in-place ReLU, whose hooks it would break."""
    theirs = captum()
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=5).eval()
    x = image(3, 64, 64)
    subject = subject_of(model, SPEC)
    layer = choose_method(subject, Sample("a", x), method="gradcam", layer=None).layer
    assert layer is not None
    ours = coarse_gradcam(subject, x.to(memory_format=torch.channels_last), 3, layer)
    slope = compute(subject, x, 3, method="gradient", layer=None).values
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    found = (
        theirs.LayerGradCam(model, model.get_submodule(layer)).attribute(x, target=3, relu_attributions=True).detach()
    )
    assert found.abs().max() > 0
    torch.testing.assert_close(ours.float(), found[0, 0], rtol=1e-4, atol=float(found.max()) * 1e-4)
    saliency = theirs.Saliency(model).attribute(x.clone().requires_grad_(), target=3)
    torch.testing.assert_close(slope.float(), saliency[0].amax(0), rtol=1e-3, atol=float(saliency.max()) * 1e-4)


def test_integrated_gradients_and_occlusion_are_captums(root: Path) -> None:
    theirs = captum()
    restored = restore(Run(root, 1))
    subject, model = Subject.of(restored), restored.model
    x = restored.preprocessing.apply(torch.randint(0, 256, (1, 1, 8, 8), generator=torch.Generator().manual_seed(1)))
    ours = compute(subject, x, 7, method="integrated", layer=None)
    black = restored.preprocessing.blank(torch.device("cpu")).expand_as(x)
    found = theirs.IntegratedGradients(model).attribute(x, black, target=7, n_steps=400)
    torch.testing.assert_close(ours.values, found[0, 0].double(), rtol=0.02, atol=0.01 * float(found.abs().max()))
    assert ours.facts["attributions"] == pytest.approx(float(found.sum()), rel=0.011)
    with torch.no_grad():
        difference = float(model(x)[0, 7] - model(black)[0, 7])
    assert ours.facts["difference"] == pytest.approx(difference, rel=1e-5)
    assert abs(float(ours.values.sum()) - difference) <= 0.01 * abs(difference)
    covered = compute(subject, x, 7, method="occlusion", layer=None)
    patches = theirs.Occlusion(model).attribute(x, (1, 1, 1), target=7, strides=(1, 1, 1), baselines=float(x.mean()))
    torch.testing.assert_close(covered.values, patches[0, 0].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(20, 24), (17, 31)])
def test_occlusion_with_patches_that_overlap_and_reach_over_the_edge(size: tuple[int, int]) -> None:
    theirs = captum()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)).eval()
    x = image(1, *size)
    ours = compute(
        subject_of(model, DataSpec("multiclass", "image", (1, *size), 2)), x, 1, method="occlusion", layer=None
    )
    high, wide = (max(1, round(length / 8)) for length in size)
    found = theirs.Occlusion(model).attribute(
        x, (1, high, wide), target=1, strides=(1, max(1, high // 2), max(1, wide // 2)), baselines=float(x.mean())
    )
    torch.testing.assert_close(ours.values, found[0, 0].double(), rtol=1e-4, atol=1e-6)


# Without captum


class Net(nn.Module):
    """Two convolutions with a ReLU in place after the first, which the input also passes, if `on_input`."""

    def __init__(self, *, inplace: bool, on_input: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.on_input = nn.ReLU(inplace=inplace), on_input
        self.output = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        if self.on_input:
            x.mul_(2)
        x = self.relu(self.first(x))
        x = self.relu(self.second(x).add_(x))
        return self.output(x.mean((2, 3)))


@pytest.mark.parametrize("layer", ["first", "second"])
@pytest.mark.parametrize("method", ["gradient", "integrated", "gradcam", "occlusion"])
def test_what_is_done_in_place_changes_nothing(method: str, layer: str) -> None:
    torch.manual_seed(3)
    plain = Net(inplace=False)
    other = Net(inplace=True)
    other.load_state_dict(plain.state_dict())
    x = image(3, 16, 16) - 0.3
    before = x.clone()
    maps = [compute(subject_of(net, SPEC), x, 2, method=method, layer=layer).values for net in (plain, other)]
    last = compute(subject_of(other, SPEC), x.to(memory_format=torch.channels_last), 2, method=method, layer=layer)
    assert torch.equal(*maps) and maps[0].abs().sum() > 0
    torch.testing.assert_close(last.values, maps[0])
    assert torch.equal(x, before)


def test_a_model_that_changes_its_input_in_place() -> None:
    torch.manual_seed(3)
    subject, x = (
        subject_of(Net(inplace=True, on_input=True), SPEC),
        image(3, 16, 16).contiguous(memory_format=torch.channels_last),
    )
    before = x.clone()
    for method in ("gradient", "integrated", "gradcam", "occlusion"):
        assert compute(subject, x, 1, method=method, layer="second").values.abs().sum() > 0
    assert torch.equal(x, before)


def test_gradcam_is_the_weighted_sum_of_the_activations() -> None:
    """Selvaraju et al. 2017, equations 1 and 2, by derivatives of a network that is written out."""
    torch.manual_seed(0)
    net = Net(inplace=True)
    x = image(3, 16, 16) - 0.5
    found = compute(subject_of(net, SPEC), x, 4, method="gradcam", layer="second").values
    first = F.relu(net.first(x)).detach()
    activation = net.second(first).detach().requires_grad_()
    score = net.output(F.relu(activation + first).mean((2, 3)))[0, 4]
    (slope,) = torch.autograd.grad(score, activation)
    expected = (slope.mean((2, 3), keepdim=True) * activation).sum(1)[0].relu()
    torch.testing.assert_close(found.float(), expected.detach())


def test_binary_classes_have_opposite_scores_and_a_regression_its_own_units() -> None:
    torch.manual_seed(0)
    spec = DataSpec("binary", "image", (3, 16, 16), 1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 1))
    subject, x = subject_of(net, spec, Preprocessing(spec, class_names=("no", "yes"))), image(3, 16, 16)
    no, yes = (compute(subject, x, k, method="integrated", layer=None) for k in (0, 1))
    assert torch.equal(no.values, -yes.values) and isinstance(subject.task, Binary)
    logit = float(net(x))
    assert answer_of(subject, x, 0).score == pytest.approx(-logit)
    assert answer_of(subject, x, None).values["class"] == ("yes" if logit > 0 else "no")
    spec = DataSpec("regression", "image", (3, 16, 16), 1)
    about = Preprocessing(spec, target_mean=100.0, target_std=20.0)
    from dlcli.tasks.regression import Regression

    own = Subject(Run(Path("runs"), 1), "mine:Net", net, Regression(mean=100.0, std=20.0), about, torch.device("cpu"))
    found = compute(own, x, 0, method="integrated", layer=None)
    black = float(net(torch.zeros_like(x)))
    assert found.facts["difference"] == pytest.approx(20 * (logit - black), rel=1e-5)
    assert removal_scores(own, x, 0, found) is None
    assert answer_of(own, x, None).values == {"value": pytest.approx(100 + 20 * logit)}


def test_deletion_and_insertion_of_a_model_that_looks_at_one_corner() -> None:
    """The logit falls as soon as the corner is gone, and rises as soon as it is there."""

    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x[:, :, :4, :4].mean((1, 2, 3))
            return torch.stack([0 * bright, 40 * (bright - 0.6)], 1)

    spec = DataSpec("multiclass", "image", (1, 16, 16), 2)
    x = torch.zeros(1, 1, 16, 16)
    x[:, :, :4, :4] = 1
    subject = subject_of(Corner(), spec)
    right = torch.zeros(16, 16, dtype=torch.float64)
    right[:4, :4] = 1
    whole, empty = 16.0, 40 * (16 / 256 - 0.6)
    ties = random_map(x, (4, 4), torch.Generator().manual_seed(0))
    deletion, insertion = areas(subject, x, 1, right, ties=ties)
    assert deletion < empty + 0.1 * (whole - empty) and insertion > whole - 1.5
    assert areas(subject, x, 1, -right, ties=ties)[0] > whole - 1.5
    flat = removal_scores(subject, torch.ones(1, 1, 16, 16), 1, compute(subject, x, 1, method="gradient", layer=None))
    assert flat is not None and flat.emptied > 0.99  # an empty image is of this class, too
    for method in ("gradient", "integrated", "occlusion"):
        scores = removal_scores(subject, x, 1, compute(subject, x, 1, method=method, layer=None))
        assert scores is not None and scores.beats_random and scores.emptied < 0.01, method
    noise = random_map(x, (4, 4), torch.Generator().manual_seed(0))
    assert noise.shape == (16, 16) and len(noise.unique()) > 16


def by_hand(model: nn.Module, x: np.ndarray, number: int, ranked: list[int], fill: np.ndarray, delete: bool) -> float:
    """The area under the logit, pixel after pixel, without anything of ours."""
    height, width = x.shape[1:]
    logits = []
    for step in range(21):
        image = x.copy() if delete else fill.copy()
        for place in ranked[: int(np.rint(step * height * width / 20))]:
            row, column = divmod(place, width)
            image[:, row, column] = (fill if delete else x)[:, row, column]
        with torch.no_grad():
            logits.append(float(model(torch.from_numpy(image)[None])[0, number]))
    return sum((a + b) / 2 for a, b in pairwise(logits)) / 20


def test_deletion_and_insertion_are_those_of_a_loop_over_pixels() -> None:
    """Of the logit, whatever its probability; what is equal in the map goes in the order of `ties`."""
    from scipy.ndimage import gaussian_filter

    net, generator = Net(inplace=False), torch.Generator().manual_seed(3)
    x = image(3, 16, 16) - 0.5
    values = torch.rand(16, 16, generator=generator, dtype=torch.float64)
    values[:, 6:] = 0.0  # as Grad-CAM cuts off
    ties = torch.rand(16, 16, generator=generator, dtype=torch.float64)
    ranked = sorted(range(256), key=lambda k: (float(values.flatten()[k]), float(ties.flatten()[k])), reverse=True)
    pixels = x[0].numpy()
    grey = np.broadcast_to(pixels.mean((1, 2), keepdims=True), pixels.shape).astype(np.float32)
    soft = np.stack([gaussian_filter(each, 1.0, mode="nearest", truncate=2.0) for each in pixels])
    deletion, insertion = areas(subject_of(net, SPEC), x, 4, values, ties=ties)
    assert deletion == pytest.approx(by_hand(net, pixels, 4, ranked, grey, delete=True), abs=1e-4)
    assert insertion == pytest.approx(by_hand(net, pixels, 4, ranked, soft, delete=False), abs=1e-4)
    certain = copy.deepcopy(net)
    with torch.no_grad():
        certain.output.bias[4] += 1000.0  # its probability is 1, whatever the image is
    raised = areas(subject_of(certain, SPEC), x, 4, values, ties=ties)
    assert raised == pytest.approx((deletion + 1000, insertion + 1000), abs=1e-2)


# The command


def test_the_table_says_what_the_model_says_and_how_good_the_maps_are(root: Path) -> None:
    done = explain(root, "1", "--samples", "0,5,7", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["input"] for row in rows] == ["test:0", "test:5", "test:7"]
    subject = Subject.of(restore(Run(root, 1)))
    for row in rows:
        assert row["class"] == row["explained"] and 0 < float(row["probability"]) <= 1
        assert row["beats_random"] == str(
            float(row["deletion"]) < float(row["random_deletion"])
            and float(row["insertion"]) > float(row["random_insertion"])
        )
    wins = sum(row["beats_random"] == "True" for row in rows)
    assert done.stderr.splitlines()[0] == f"gradcam at convolutions.1, of the logit of {subject.run}'s best checkpoint"
    assert f", by both in {wins}\n" in done.stderr
    found = document(root, "1", "--samples", "0,5,7")["inputs"]
    subject = Subject.of(restore(Run(root, 1)))
    for each in found:
        assert 0 <= each["emptied"] <= 1
    left = sum(each["emptied"] > 0.5 for each in found)
    assert (f"the class of {left} of 3 images stays when all their pixels" in done.stderr) == (left > 0)
    assert "val:3" in explain(root, "1", "--samples", "3", "--split", "val", "--md").stdout


def test_the_document_has_the_maps_and_is_the_same_again(root: Path) -> None:
    words = ("1", "--samples", "4,9", "--method", "integrated")
    found = document(root, *words)
    assert (found["method"], found["layer"], found["score"]) == ("integrated", None, "logit")
    for each in found["inputs"]:
        values = np.array(each["map"])
        assert values.shape == (8, 8) and values.sum() == pytest.approx(each["attributions"])
        assert each["completeness_error"] <= 0.01
        assert each["attributions"] == pytest.approx(each["difference"], rel=0.011)
    assert document(root, *words) == found
    alone = document(root, "1", "--samples", "9", "--method", "integrated")
    assert alone["inputs"] == found["inputs"][1:]
    told = explain(root, *words).stderr
    assert "completeness: the attributions sum to " in told and ", the worst of all\n" in told


def test_the_default_method_follows_from_the_model(root: Path) -> None:
    assert document(root, "1", "--samples", "0")["method"] == "gradcam"
    assert document(root, "2", "--samples", "0")["method"] == "integrated"
    assert document(root, "4", "--samples", "0")["method"] == "integrated"
    named = document(root, "1", "--samples", "0", "--layer", "convolutions.0")
    assert (named["method"], named["layer"]) == ("gradcam", "convolutions.0")


def test_another_class(root: Path) -> None:
    own = document(root, "2", "--samples", "0", "--method", "integrated")["inputs"][0]
    name = "3" if own["class"] != "3" else "8"
    found = document(root, "2", "--samples", "0", "--class", name, "--method", "integrated")["inputs"][0]
    assert found["explained"] == name and found["class"] == own["class"] and found["map"] != own["map"]


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_a_transformer_of_images_has_no_convolution_but_layers(name: str) -> None:
    spec = DataSpec("multiclass", "image", (3, 32, 32), 5)
    torch.manual_seed(0)
    if name == "vit_b_16":
        model: nn.Module = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=5)
    else:
        model = torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5)
    subject, sample = subject_of(model, spec), Sample("a", image(3, 32, 32))
    assert choose_method(subject, sample, method=None, layer=None) == Method("integrated")
    from dlcli.core.errors import ConfigError

    with pytest.raises(ConfigError, match="needs a convolution, and runs/1 .mine:Net. has none"):
        choose_method(subject, sample, method="gradcam", layer=None)
    if name == "vit_b_16":
        assert choose_method(subject, sample, method=None, layer="conv_proj") == Method("gradcam", "conv_proj")


def test_files_are_written_and_not_replaced(root: Path, tmp_path: Path) -> None:
    photo, out = tmp_path / "my photo.png", tmp_path / "a" / "out"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(photo)
    done = explain(root, "1", str(photo), "-o", str(out))
    assert "01-my-photo.png" in {file.name for file in out.iterdir()} >= {"explanation.svg", "explanation.html"}
    assert f"files in {out}, explanation.svg, explanation.html" in done.stderr
    pixels = np.asarray(Image.open(out / "01-my-photo.png"))
    assert pixels.shape[2] == 3 and len(pixels) >= 80
    assert (out / "explanation.svg").read_text().count("<image ") == 2
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    again = explain(root, "1", str(photo), "-o", str(out), code=2).stderr
    assert again == (
        f"error: --output {out} holds explanation.svg: add --force to replace it, or choose another folder\n"
    )
    explain(root, "1", str(photo), "-o", str(out), "--force")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    told = explain(root, "1", str(photo), "-o", str(photo), code=2).stderr
    assert told == f"error: --output {photo} is a file: name a folder\n"
    told = explain(root, "1", str(photo), "-o", str(photo / "b"), code=6).stderr
    assert told == f"error: cannot write {photo / 'b'}: {photo} is not a folder that you may write to\n"


def test_a_map_is_orange_where_it_speaks_for_the_class_and_blue_where_against_it() -> None:
    from dlcli.plots.attribution import overlay, shades

    spec = DataSpec("multiclass", "image", (1, 2, 2), 2)
    values = torch.tensor([[1.0, -1.0], [0.0, 0.5]], dtype=torch.float64)
    found = overlay(torch.full((1, 1, 2, 2), 100.0), values, Preprocessing(spec))
    assert found[0, 0].tolist() == [202, 95, 10] and found[0, 1].tolist() == [10, 113, 170]
    assert found[1, 0].tolist() == [100, 100, 100]
    assert shades(values) == [[1.0, 1.0], [0.0, 0.5]]


def test_a_terminal_shows_blocks(root: Path, dlcli: Dlcli) -> None:
    from dlcli.plots.attribution import attribution_sheet
    from dlcli.plots.characters import to_characters
    from dlcli.plots.picture import Picture

    values = torch.tensor([[0.0, 0.3], [0.6, 1.0]], dtype=torch.float64)
    about = Preprocessing(DataSpec("multiclass", "image", (1, 2, 2), 2))
    sheet = attribution_sheet("maps", [(["a.png", "answer 3"], torch.zeros(1, 1, 2, 2), values)], about)
    picture = Picture("explanation", [sheet])
    assert to_characters(picture) == "maps\na.png  answer 3\n  ░░\n▓▓██\n"
    assert to_characters(picture, ascii_only=True) == "maps\na.png  answer 3\n  ..\n**##\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["1"], 2, "name what to explain: files, or samples of the run's own data, as in --samples 0,5,7"),
        (["1", "--samples", "a"], 2,
         "--samples a must name samples by their places in the split, as in --samples 0,5,7"),
        (["1", "--samples", "1,1"], 2, "--samples 1,1 names a sample twice: once is enough"),
        (["1", "--samples", "99999"], 2, "--samples 99999 is not in the test split: its samples are 0 to 358"),
        (["1", "a.png", "--samples", "1"], 2, "--samples 1 takes the place of inputs: leave out one of them"),
        (["1", "a.png", "--split", "val"], 2, "--split val is for --samples: add it, or leave out --split"),
        (["1", "a.png", "--data", "mnist"], 2, "--data mnist is for --samples: add it, or leave out --data"),
        (["1", "a.png", "--force"], 2, "--force is for --output FOLDER: add it, or leave out --force"),
        (["1", "a.png"], 3, "a.png does not exist"),
        (["1", "--samples", "0", "--class", "x"], 2,
         "--class x is no class of {}/1: known are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (["1", "--samples", "0", "--method", "lime"], 2,
         "--method lime is not one of gradient, integrated, gradcam, occlusion"),
        (["1", "--samples", "0", "--layer", "convolution.1"], 2,
         "--layer convolution.1 is no layer of {}/1 (cnn): did you mean convolutions.1 or convolutions.0?"),
        (["1", "--samples", "0", "--layer", "hidden"], 2,
         "--layer hidden gives 32 for an image, and Grad-CAM needs channels x height x width: choose one of "
         "convolutions.0, convolutions.1"),
        (["1", "--samples", "0", "--layer", "hidden", "--method", "occlusion"], 2,
         "--layer hidden is for --method gradcam: leave it out, or choose that method"),
        (["2", "--samples", "0", "--method", "gradcam"], 2,
         "--method gradcam needs a convolution, and {}/2 (mlp) has none: choose --method gradient, integrated or "
         "occlusion"),
        (["3", "--samples", "0", "--check"], 2,
         "--check is for images, and {}/3 expects features of 4: leave it out"),
        (["3", "--samples", "0", "--method", "gradcam"], 2,
         "--method gradcam is for images, and {}/3 expects features of 4: leave it out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = explain(root, *words, code=code)
    assert done.stderr.splitlines()[-1] == f"error: {message.format(root)}"
    assert done.stdout == "" and not any(tmp_path.iterdir())


def test_an_image_of_another_shape_is_an_error_as_in_predict(root: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("1,2,3\n")
    assert explain(root, "1", str(rows), code=3).stderr == f"error: {rows}:1 has 3 values, but 64 are needed\n"


def test_weights_that_give_no_numbers_are_an_error(root: Path, tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] / 0

    from dlcli.core.errors import RunError

    with pytest.raises(RunError, match="gives values that are not finite"):
        answer_of(subject_of(Broken(), DataSpec("multiclass", "image", (1, 4, 4), 2)), image(1, 4, 4), None)


def test_a_run_that_was_copied_gives_the_same_bits(root: Path, tmp_path: Path) -> None:
    there = shutil.copytree(root, tmp_path / "runs")
    ours, theirs = (document(each, "1", "--samples", "2")["inputs"] for each in (root, there))
    assert ours == theirs


# The sanity check


def test_ranks_are_spearmans() -> None:
    from scipy.stats import spearmanr

    from dlcli.analysis.explain.sanity import rank_correlation

    first = torch.randint(0, 5, (6, 7), generator=torch.Generator().manual_seed(0)).double()
    second = first + torch.randint(0, 5, (6, 7), generator=torch.Generator().manual_seed(1))
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first.flatten(), second.flatten()).statistic)
    assert rank_correlation(first, torch.ones(6, 7)) is None


def test_the_check_tells_the_correlation_of_each_stage(root: Path) -> None:
    words = ("1", "--samples", "0,1,2,3", "--method", "gradient", "--check")
    found = document(root, *words)["check"]
    assert [stage["stage"] for stage in found["stages"]] == ["output", "hidden", "convolutions"]
    assert found["holds"] and 0 <= found["stages"][-1]["rank_correlation"] <= found["least_change"] == 0.7
    done = explain(root, *words)
    assert done.stderr.endswith("the check holds: the maps change with the weights\n")
    assert f"  output: {found['stages'][0]['rank_correlation']:.4f}\n" in done.stderr
    plain = document(root, *words[:-1])
    assert "check" not in plain and plain["inputs"] == document(root, *words)["inputs"]  # the model is as it was


OWN = """
import torch
from torch import nn


class Bright(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, spec.outputs))

    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True) * self.weight
"""


def test_a_map_that_does_not_depend_on_the_weights_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maps are the image itself, times a number."""
    (tmp_path / "bright_net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    words = ["train", "bright_net:Bright", "--data", "digits", "--epochs", "1", "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    words = ["1", "--samples", "0,1", "--method", "integrated", "--check"]
    done = explain(tmp_path / "runs", *words, "-o", str(out), code=7)
    assert done.stderr.splitlines()[-1].startswith(
        "error: the maps of integrated do not depend on the weights: with random ones their rank correlation with the "
    )
    assert (out / "explanation.svg").exists() and done.stdout.count("\n") == 3
    flat = explain(tmp_path / "runs", *words[:3], "--method", "gradient", "--check", code=7)
    assert flat.stderr.endswith(
        "error: --check has nothing to compare: the maps are flat, or the model has no weights\n"
    )
