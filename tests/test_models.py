"""Every registered model on every kind of data: shape, gradients, a round trip through safetensors, or a refusal."""

import math
from pathlib import Path
from typing import Any

import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dlcli.config.own_code import load
from dlcli.config.registry import MODELS
from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.tasks.choose import choose_task

SPECS = {
    "mnist": DataSpec("multiclass", "image", (1, 28, 28), 10),
    "digits": DataSpec("multiclass", "image", (1, 8, 8), 10),
    "cifar": DataSpec("multiclass", "image", (3, 32, 32), 10),
    "odd": DataSpec("multiclass", "image", (1, 13, 9), 7),
    "wide": DataSpec("multiclass", "image", (2, 29, 40), 5),
    "image-binary": DataSpec("binary", "image", (1, 8, 8), 1),
    "image-regression": DataSpec("regression", "image", (1, 8, 8), 1),
    "classes": DataSpec("multiclass", "features", (13,), 3),
    "binary": DataSpec("binary", "features", (30,), 1),
    "regression": DataSpec("regression", "features", (10,), 1),
    "recall": DataSpec("multiclass", "tokens", (9,), 8, vocabulary=48),
    "text": DataSpec("next-token", "tokens", (12,), 30, vocabulary=30),
    "texts": DataSpec("binary", "tokens", (12,), 1, vocabulary=30, padding=True),
}
IMAGES = {"mnist", "digits", "cifar", "odd", "wide", "image-binary", "image-regression"}
FITS = {
    "linear": {"image-regression", "regression"},
    "logistic": (IMAGES - {"image-regression"}) | {"classes", "binary"},
    "mlp": IMAGES | {"classes", "binary", "regression"},
    "tabular": {"classes", "binary", "regression"},
    "lenet": IMAGES,
    "cnn": IMAGES,
    "simple-cnn": IMAGES,
    "airbench": IMAGES,
    "rnn": {"text", "texts"},
    "ngrams": {"recall", "texts"},
    "attention": (IMAGES - {"image-regression"}) | {"recall", "text", "texts"},
}
FITTING = [(model, data) for model in MODELS for data in SPECS if data in FITS[model]]
OTHERS = [(model, data) for model in MODELS for data in SPECS if data not in FITS[model]]


def build(model: str, spec: DataSpec, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return load(MODELS[model].target)(spec, **options)


def some_input(spec: DataSpec, batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if spec.kind == "tokens":
        return torch.randint(spec.vocabulary, (batch, *spec.input_shape), generator=generator)
    return torch.randn(batch, *spec.input_shape, generator=generator)


def some_target(spec: DataSpec, batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if spec.task == "regression":
        return torch.randn(batch, generator=generator)
    shape = (batch, *spec.input_shape) if spec.task == "next-token" else (batch,)
    return torch.randint(max(2, spec.outputs), shape, generator=generator)


@pytest.mark.parametrize(("name", "data"), FITTING)
def test_output_has_the_shape_that_the_task_wants_and_every_parameter_gets_a_gradient(name: str, data: str) -> None:
    spec = SPECS[data]
    model = build(name, spec)
    output = model(some_input(spec))
    steps = spec.input_shape if spec.task == "next-token" else ()
    assert output.shape == (5, *steps, spec.outputs)
    assert output.isfinite().all()

    choose_task(spec).loss(output, some_target(spec)).backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name == "whitening.patches.weight":  # of airbench: is not trained
            assert not parameter.requires_grad
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # Softmax does not change if all keys are shifted, so the bias of the key has no influence.
        assert parameter.grad.any() or parameter_name.endswith("key.bias"), parameter_name


@pytest.mark.parametrize(("name", "data"), FITTING)
def test_weights_survive_safetensors(name: str, data: str, tmp_path: Path) -> None:
    spec = SPECS[data]
    model, x = build(name, spec).eval(), some_input(spec)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    torch.manual_seed(99)
    other = load(MODELS[name].target)(spec).eval()
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_one_sample_is_answered_as_in_a_batch(name: str) -> None:
    spec = SPECS[sorted(FITS[name])[0]]
    model, x = build(name, spec).eval(), some_input(spec)
    torch.testing.assert_close(torch.cat([model(row[None]) for row in x]), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "data"), OTHERS)
def test_data_that_does_not_suit_a_model_is_refused(name: str, data: str) -> None:
    with pytest.raises(ConfigError, match=f"^model {name} "):
        build(name, SPECS[data])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "linear", "binary",
            "model linear is for regression on features or images, but the data is features of 30 for binary: "
            "choose --data diabetes, or model logistic",
        ),
        (
            "logistic", "regression",
            "model logistic is for classes of features or images, but the data is features of 10 for regression: "
            "choose --data breast-cancer, or model linear",
        ),
        (
            "mlp", "text",
            "model mlp is for features or images, but the data is tokens of 12: choose rnn, attention or ngrams",
        ),
        (
            "tabular", "digits",
            "model tabular is for features, but the data is image of 1x8x8: choose --data table:FILE, or model mlp",
        ),
        (
            "cnn", "recall",
            "model cnn is for images, but the data is tokens of 9: choose --data digits, or model mlp",
        ),
        (
            "rnn", "recall",
            "model rnn is for texts, their next token or their class, but the data is tokens of 9 for multiclass: "
            "choose --data pydocs, or another model",
        ),
        (
            "attention", "regression",
            "model attention is for classes of tokens or images, or for next tokens, but the data is "
            "features of 10 for regression: choose --data recall, or model mlp",
        ),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_choose(name: str, data: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, SPECS[data])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("mlp", "digits", {"hidden": (8, 0)}, "model.hidden = (8, 0) must be at least 1"),
        ("cnn", "digits", {"hidden": 0}, "model.hidden = 0 must be at least 1"),
        ("cnn", "digits", {"channels": (4, 0)}, "model.channels = (4, 0) must be at least 1"),
        ("simple-cnn", "digits", {"channels": 0}, "model.channels = 0 must be at least 1"),
        ("airbench", "digits", {"channels": (4, 0)}, "model.channels = (4, 0) must be at least 1"),
        ("tabular", "binary", {"width": 0}, "model.width = 0 must be at least 1"),
        ("tabular", "binary", {"frequencies": 0}, "model.frequencies = 0 must be at least 1"),
        ("tabular", "binary", {"highest": 0.05}, "model.highest = 0.05 must be above 0.05, the lowest frequency"),
        ("rnn", "text", {"embedding": 0}, "model.embedding = 0 must be at least 1"),
        ("attention", "recall", {"heads": 7}, "model.heads = 7 must divide model.width = 64"),
        ("attention", "recall", {"layers": 0}, "model.layers = 0 must be at least 1"),
        ("attention", "recall", {"width": 0}, "model.width = 0 must be at least 1"),
        ("rnn", "text", {"layers": 0}, "model.layers = 0 must be at least 1"),
        (
            "cnn", "digits", {"channels": (4, 4, 4, 4)},
            "model cnn needs images of at least 16 pixels, but the data is image of 1x8x8",
        ),
    ],
)  # fmt: skip
def test_sizes_that_make_no_network_are_refused(name: str, data: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, SPECS[data], **options)
    assert str(caught.value) == message


_SUITED = {"rnn": "text", "tabular": "classes"}


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
@pytest.mark.parametrize("name", ["mlp", "tabular", "lenet", "cnn", "rnn", "attention"])
def test_dropout_out_of_range_is_refused(name: str, dropout: float) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, SPECS[_SUITED.get(name, "digits")], dropout=dropout)
    assert str(caught.value) == f"model.dropout = {dropout} is out of range: it must be in [0, 1)"


@pytest.mark.parametrize("name", ["mlp", "tabular", "lenet", "cnn", "rnn", "attention"])
def test_dropout_works_in_training_only(name: str) -> None:
    spec = SPECS[_SUITED.get(name, "digits")]
    model, x = build(name, spec, dropout=0.5), some_input(spec)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


# The model of tables


def test_tabular_against_its_formula() -> None:
    spec = DataSpec("multiclass", "features", (5,), 3, flags=(1, 4))
    model = build("tabular", spec, width=6, blocks=2, embedding=3, frequencies=4, highest=7.0).double().eval()
    x = some_input(spec).double()
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    parts = []
    for at, number in enumerate((0, 2, 3)):
        frequencies = weights["embedding.frequencies"][at, 0]
        assert ((frequencies > 0.05) & (frequencies < 7)).all()
        angles = 2 * math.pi * x[:, number, None] * frequencies
        waves = torch.cat((torch.cos(angles), torch.sin(angles)), 1)
        parts.append(F.relu(waves @ weights["embedding.weight"][at] + weights["embedding.bias"][at]))
    hidden = F.relu(F.linear(torch.cat((*parts, x[:, [1, 4]]), 1), *model.first.layers[0].parameters()))
    for block in model.blocks:
        hidden = hidden + F.relu(F.linear(hidden, *block.layers[0].parameters()))
    torch.testing.assert_close(model(x), F.linear(hidden, *model.output.parameters()))


def test_tabular_takes_features_that_are_all_numbers_or_all_flags() -> None:
    numbers = build("tabular", DataSpec("binary", "features", (4,), 1))
    assert numbers.first.layers[0].in_features == 4 * 16
    flags = build("tabular", DataSpec("binary", "features", (4,), 1, flags=(0, 1, 2, 3)))
    assert flags.first.layers[0].in_features == 4 and flags.embedding is None


# The convolutional models


def cnn_with_relu_first(model: nn.Module, x: Tensor) -> Tensor:
    for convolution in model.convolutions:
        x = F.max_pool2d(F.relu(convolution(x)), 2)
    return model.output(F.relu(model.hidden(x.flatten(1))))


def simple_cnn_with_relu_first(model: nn.Module, x: Tensor) -> Tensor:
    return model.output(F.max_pool2d(F.relu(model.convolution(x)), 2).flatten(1))


def lenet_with_relu_first(model: nn.Module, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(model.conv1(F.pad(x, (2, 2, 2, 2)))), 2)
    x = F.max_pool2d(F.relu(model.conv2(x)), 2)
    return model.fc3(F.relu(model.fc2(F.relu(model.fc1(x.flatten(1))))))


@pytest.mark.parametrize(
    ("name", "reference"),
    [("cnn", cnn_with_relu_first), ("simple-cnn", simple_cnn_with_relu_first), ("lenet", lenet_with_relu_first)],
)
def test_relu_after_pooling_is_relu_before_it_values_and_gradients(name: str, reference) -> None:
    spec = SPECS["mnist"]
    model, x = build(name, spec).double(), some_input(spec).double()
    target = some_target(spec)
    out, expected = model(x), reference(model, x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(F.cross_entropy(out, target), parameters)
    theirs = torch.autograd.grad(F.cross_entropy(expected, target), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("data", "flattened"),
    [("mnist", 64 * 7 * 7), ("digits", 64 * 2 * 2), ("cifar", 64 * 8 * 8), ("odd", 64 * 3 * 2)],
)
def test_the_flattened_size_of_cnn_follows_the_image(data: str, flattened: int) -> None:
    assert build("cnn", SPECS[data]).hidden.in_features == flattened


@pytest.mark.parametrize(("data", "flattened"), [("mnist", 16 * 196), ("digits", 16 * 16), ("odd", 16 * 6 * 4)])
def test_the_flattened_size_of_simple_cnn_follows_the_image(data: str, flattened: int) -> None:
    assert build("simple-cnn", SPECS[data]).output.in_features == flattened


@pytest.mark.parametrize(
    ("data", "flattened"),
    [("mnist", 400), ("digits", 400), ("cifar", 400), ("odd", 400), ("wide", 16 * 5 * 7)],
)
def test_the_flattened_size_of_lenet_follows_the_image(data: str, flattened: int) -> None:
    assert build("lenet", SPECS[data]).fc1.in_features == flattened


def lenet_on_32(model: nn.Module, x: Tensor) -> Tensor:
    """The same weights in a network for 32x32 images, which are not padded."""
    other = build("lenet", DataSpec("multiclass", "image", (x.shape[1], *x.shape[2:]), 10))
    other.load_state_dict(model.state_dict())
    return other(x)


def test_lenet_pads_28_to_32_with_zeros() -> None:
    model, x = build("lenet", SPECS["mnist"]), some_input(SPECS["mnist"])
    padded = torch.zeros(5, 1, 32, 32)
    padded[:, :, 2:30, 2:30] = x
    torch.testing.assert_close(model(x), lenet_on_32(model, padded))


def test_lenet_resizes_small_images() -> None:
    model, x = build("lenet", SPECS["digits"]), some_input(SPECS["digits"])
    resized = F.interpolate(x, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), lenet_on_32(model, resized))


def test_lenet_has_the_papers_layers() -> None:
    shapes = {name: tuple(p.shape) for name, p in build("lenet", SPECS["mnist"]).named_parameters()}
    assert shapes == {
        "conv1.weight": (6, 1, 5, 5), "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5), "conv2.bias": (16,),
        "fc1.weight": (120, 400), "fc1.bias": (120,),
        "fc2.weight": (84, 120), "fc2.bias": (84,),
        "fc3.weight": (10, 84), "fc3.bias": (10,),
    }  # fmt: skip


def test_airbench_against_its_formula() -> None:
    model = build("airbench", SPECS["cifar"], channels=(6, 30)).double()
    weights = dict(model.named_parameters())
    x = some_input(SPECS["cifar"], batch=7).double()

    def normalised(x: Tensor) -> Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    # The cosine transform of each 2x2 patch is that of scipy.
    patches = F.unfold(x, 2).transpose(1, 2).reshape(-1, 3, 2, 2).numpy()
    spectrum = torch.from_numpy(scipy.fft.dctn(patches, axes=(1, 2, 3), norm="ortho"))
    y = normalised(spectrum.reshape(7, 31, 31, 12).permute(0, 3, 1, 2))
    y = gelu(torch.cat([y, -y], 1))
    for number in range(2):
        y = F.max_pool2d(F.conv2d(y, weights[f"blocks.{number}.first.weight"], padding=1), 2)
        y = gelu(normalised(y))
        y = gelu(normalised(F.conv2d(y, weights[f"blocks.{number}.second.weight"], padding=1)))
    assert y.shape == (7, 30, 7, 7)
    expected = y.flatten(2).max(2).values @ weights["output.weight"].T / 9
    torch.testing.assert_close(model(x), expected)


def test_a_convolution_of_airbench_begins_as_the_identity() -> None:
    model = build("airbench", SPECS["cifar"], channels=(6, 30))
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(model.blocks[0].second(x), x)
    torch.testing.assert_close(model.blocks[1].first(x)[:, :6], x)  # and 24 more, drawn


def test_airbench_has_the_channels_of_its_source() -> None:
    model = build("airbench", SPECS["cifar"])
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 4]
    assert shapes == [
        (12, 3, 2, 2), (64, 24, 3, 3), (64, 64, 3, 3), (256, 64, 3, 3),
        (256, 256, 3, 3), (256, 256, 3, 3), (256, 256, 3, 3),
    ]  # fmt: skip


# Linear models and MLP


@pytest.mark.parametrize(("name", "data"), [("linear", "image-regression"), ("logistic", "digits")])
def test_linear_models_are_one_matrix(name: str, data: str) -> None:
    spec = SPECS[data]
    model, x = build(name, spec), some_input(spec)
    expected = x.flatten(1).double() @ model.linear.weight.double().T + model.linear.bias.double()
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_mlp_is_its_formula() -> None:
    spec = SPECS["classes"]
    model, x = build("mlp", spec, hidden=(6, 4), activation="tanh").double(), some_input(spec).double()
    (w1, b1), (w2, b2), (w3, b3) = [(m.weight, m.bias) for m in model.modules() if isinstance(m, nn.Linear)]
    assert (w1.shape, w2.shape, w3.shape) == ((6, 13), (4, 6), (3, 4))
    hidden = torch.tanh(torch.tanh(x @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(model(x), hidden @ w3.T + b3)


def test_mlp_without_activation_is_linear() -> None:
    spec = SPECS["classes"]
    model = build("mlp", spec, activation="none").double()
    a, b = some_input(spec).double(), torch.ones(5, 13, dtype=torch.float64)
    zero = model(torch.zeros_like(a))
    torch.testing.assert_close(model(a + b) - zero, model(a) - zero + model(b) - zero)


def test_mlp_without_hidden_layers_is_one_matrix() -> None:
    assert [tuple(p.shape) for p in build("mlp", SPECS["classes"], hidden=()).parameters()] == [(3, 13), (3,)]


# Sequences


@pytest.mark.parametrize("layers", [1, 2])
def test_rnn_step_by_step_is_the_whole_row(layers: int) -> None:
    spec = SPECS["text"]
    model, x = build("rnn", spec, hidden=16, layers=layers).double(), some_input(spec)
    state, steps = None, []
    for t in range(x.shape[1]):
        output, state = model.run(x[:, t : t + 1], state)
        steps.append(output)
    torch.testing.assert_close(torch.cat(steps, 1), model(x), rtol=1e-10, atol=1e-12)
    assert state.shape == (layers, 5, 16)


@pytest.mark.parametrize("mixing", ["attention", "mean"])
@pytest.mark.parametrize("name", ["rnn", "attention"])
def test_a_next_token_model_does_not_see_later_tokens(name: str, mixing: str) -> None:
    spec = SPECS["text"]
    options = {"layers": 2, "mixing": mixing} if name == "attention" else {}
    model, x = build(name, spec, **options).eval(), some_input(spec)
    changed = x.clone()
    changed[:, 7:] = (x[:, 7:] + 1) % spec.vocabulary
    before, after = model(x), model(changed)
    torch.testing.assert_close(after[:, :7], before[:, :7])
    assert (after[:, 7:] - before[:, 7:]).abs().amax(-1).min() > 1e-4


def test_attention_for_classes_sees_all_tokens_unless_causal_hides_them_from_earlier_steps() -> None:
    spec = SPECS["recall"]
    x = some_input(spec)
    changed = x.clone()
    changed[:, 0] = (x[:, 0] + 1) % spec.vocabulary
    for causal in (False, True):  # the answer comes from the last step, which sees all steps in both cases
        model = build("attention", spec, causal=causal)
        assert (model(x) - model(changed)).abs().max() > 1e-4
    two = build("attention", spec, layers=2)
    two_causal = build("attention", spec, layers=2, causal=True)
    two_causal.load_state_dict(two.state_dict())
    assert not torch.allclose(two(x), two_causal(x), atol=1e-5)


def test_positions_tell_attention_the_order() -> None:
    spec = SPECS["recall"]
    x = some_input(spec)
    swapped = x[:, [1, 0, *range(2, 9)]]
    for positions, order_matters in (("none", False), ("learned", True), ("sinusoidal", True)):
        model = build("attention", spec, positions=positions)
        assert torch.allclose(model(x), model(swapped), atol=1e-5) != order_matters


def test_sinusoidal_positions_are_no_weights() -> None:
    assert "positions" in build("attention", SPECS["recall"], positions="learned").state_dict()
    assert "positions" not in build("attention", SPECS["recall"], positions="sinusoidal").state_dict()


def test_attention_reads_an_image_as_a_row_a_step() -> None:
    spec = DataSpec("multiclass", "image", (2, 4, 3), 5)
    model, x = build("attention", spec, width=8, positions="none"), some_input(spec)
    seen: list[Tensor] = []
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(x)
    expected = torch.stack([torch.stack([torch.cat([im[0, r], im[1, r]]) for r in range(4)]) for im in x])
    assert torch.equal(seen[0], expected)
