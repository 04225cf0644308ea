"""The cost of a model, compared with torch's own counter and with values by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlcli import TrainConfig, evaluate, train
from dlcli.compute import cost
from dlcli.compute.cost import choose_eval_batch_size, measure_cost
from dlcli.config.registry import MODELS
from dlcli.data.kinds import sample_input
from dlcli.experiment.build import build
from dlcli.runs.run import Run

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", MODELS)
def test_the_work_of_a_model_is_what_torch_counts(name: str) -> None:
    """Compared with torch's own counter; it does not support recurrent layers, so these are counted by hand."""
    config = TrainConfig(model=name, device="cpu")
    built = build(config)
    x = sample_input(built.dataset.spec, 3)
    found = measure_cost(built.model, x).flops
    assert found == 3 * built.cost.flops
    assert built.cost.chain == (built.dataset.spec.input_shape[0] if name == "rnn" else 1)
    if name == "rnn":
        steps, vocabulary = built.dataset.spec.input_shape[0], built.dataset.spec.vocabulary
        gru = 2 * 3 * steps * 3 * (64 * 256 + 256 * 256)
        assert found == gru + 2 * 3 * steps * 256 * vocabulary
        return
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        built.model.eval()(x)
    assert found == counter.get_total_flops()


def test_the_memory_of_a_model_is_that_of_its_layers() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(256, 2))
    found = measure_cost(model, torch.zeros(1, 1, 8, 8))
    assert found.bytes == 4 * (256 + 256 + 2), "Flatten gives a view"
    assert found.largest == 4 * 256
    assert measure_cost(nn.Linear(100, 2), torch.zeros(1, 100)).largest == 400, "the input"
    assert model.training and not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("device", "largest", "expected"),
    [
        ("cpu", 32 * 28 * 28 * 4, 64), ("cpu", 6 * 28 * 28 * 4, 256), ("cpu", 28 * 28 * 4, 512),
        ("cpu", 8_000_000, 1), ("cpu", 8_000_001, 1), ("cpu", 10**10, 1), ("cpu", 0, 512),
        ("cuda", 32 * 28 * 28 * 4, 512), ("cuda", 10**6, 256),
    ],
)  # fmt: skip
def test_a_batch_of_an_evaluation_fits_into_the_cache(device: str, largest: int, expected: int) -> None:
    assert choose_eval_batch_size("auto", device=torch.device(device), largest=largest) == expected
    assert choose_eval_batch_size(7, device=torch.device(device), largest=largest) == 7


def test_training_and_evaluation_take_the_same_batches(tmp_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = nn.Linear.forward

    def spy(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled() and self.in_features == 64:
            seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", spy)
    monkeypatch.setattr(cost, "_MOST_SAMPLES", 128)
    for number, (setting, size) in enumerate((("auto", 128), (50, 50)), start=1):
        seen.clear()
        config = TrainConfig(model="logistic", data="digits", epochs=1, device="cpu", eval_batch_size=setting)
        list(train(config, runs_dir=tmp_path))
        assert max(seen) == size
        seen.clear()
        evaluate(Run(tmp_path, number))
        assert max(seen) == size
