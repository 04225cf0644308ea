"""Every registered model, and one of every family of torchvision's, can be explained."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dlcli.analysis.explain.images import choose_method
from dlcli.analysis.explain.inputs import Sample
from dlcli.analysis.explain.maps import METHODS, compute
from dlcli.analysis.explain.rows import explain_rows
from dlcli.analysis.explain.subject import Subject
from dlcli.analysis.explain.texts import explain_texts
from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.runs.run import Run
from dlcli.tasks.choose import choose_task
from tests.test_models import FITTING, SPECS, build
from tests.test_zoo import FAMILIES, LARGE_FAMILIES, built, images


def subject_of(name: str, model: nn.Module, spec: DataSpec) -> Subject:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Subject(
        Run(Path("runs"), 1), name, model.eval(), choose_task(spec), Preprocessing(spec), torch.device("cpu")
    )


def drawn(spec: DataSpec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if spec.kind == "tokens":
        return torch.randint(2 if spec.padding else 0, spec.vocabulary, (1, *spec.input_shape), generator=generator)
    return torch.randn(1, *spec.input_shape, generator=generator)


@pytest.mark.parametrize(("name", "data"), FITTING)
def test_every_model_is_explained(name: str, data: str) -> None:
    spec = SPECS[data]
    torch.manual_seed(0)
    subject, x = subject_of(name, build(name, spec), spec), drawn(spec)
    sample = Sample("a", x)
    if spec.kind == "image":
        chosen = choose_method(subject, sample, method=None, layer=None)
        assert chosen.name == ("gradcam" if "cnn" in name or name in ("lenet", "airbench") else "integrated")
        for method in METHODS:
            if method == "gradcam" and chosen.name != "gradcam":
                continue
            found = compute(subject, x, 1, method=method, layer=chosen.layer).values
            assert found.shape == spec.input_shape[1:] and bool(torch.isfinite(found).all())
            assert method == "gradcam" or found.abs().sum() > 0
        return
    if spec.kind == "features":
        (parts,) = explain_rows(subject, [sample], torch.zeros_like(x[0]), class_name=None)
    else:
        (parts,) = explain_texts(subject, [sample], class_name=None)
    assert len(parts.parts) == spec.input_shape[0]
    a = parts.attributions
    assert sum(part.attribution for part in parts.parts) == pytest.approx(a.total, rel=1e-4, abs=1e-6)
    assert a.total == pytest.approx(a.difference, rel=0.05, abs=1e-4)


def see_inside(name: str, size: int) -> None:
    spec = images(size)
    subject, x = subject_of(name, built(name, spec), spec), drawn(spec)
    chosen = choose_method(subject, Sample("a", x), method=None, layer=None)
    if chosen.name == "integrated":
        assert name.startswith(("swin", "vit"))
        with pytest.raises(ConfigError, match="needs a convolution"):
            choose_method(subject, Sample("a", x), method="gradcam", layer=None)
    else:
        assert compute(subject, x, 1, method="gradcam", layer=chosen.layer).values.shape == (size, size)
    assert compute(subject, x, 1, method="gradient", layer=None).values.sum() > 0


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
def test_every_family_of_torchvision(name: str, size: int) -> None:
    see_inside(name, max(size, 64))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), LARGE_FAMILIES.items())
def test_the_large_families_of_torchvision(name: str, size: int) -> None:
    see_inside(name, max(size, 64) if name != "alexnet" else 127)
