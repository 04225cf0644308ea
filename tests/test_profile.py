"""dlcli profile: times by phase, module and operator, counted work, the limit of the machine, and no run is made."""

import hashlib
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from dlcli import DataSpec, TrainConfig, train
from dlcli.analysis.profile import limit, trying
from dlcli.analysis.profile import profile as profiling
from dlcli.analysis.profile.bound import find_bound
from dlcli.analysis.profile.counting import Work
from dlcli.analysis.profile.ledger import Owner
from dlcli.analysis.profile.limit import Limit, measure_limit, reached
from dlcli.analysis.profile.steps import typical
from dlcli.cli.main import app
from dlcli.data.images.encoded import Encoded
from dlcli.experiment.build import build

LIMIT = Limit(1e11, {1 << 20: 1e11, 1 << 28: 1e10}, 5e-6, "fp32", 2)
B = 64
SIZES = ((64, 128), (128, 64), (64, 10))  # of the layers of mlp on digits


class _Asleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        time.sleep(ctx.seconds)
        return gradient, None


class _Slow(nn.Module):
    def __init__(self, *, forward: float = 0.0, backward: float = 0.0) -> None:
        super().__init__()
        self.seconds = forward, backward

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds[0])
        return _Asleep.apply(x, self.seconds[1])  # type: ignore[no-any-return]


class Sleepy(nn.Module):
    """Known to need 20 ms in the forward pass of one module, and 40 ms in the backward pass of another."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(inplace=True))
        self.forth = _Slow(forward=0.02)
        self.back = _Slow(backward=0.04)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.forth(self.first(x)))  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def known_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "measure_limit", lambda device, precision: LIMIT)


def profiled(*words: str, check: int = 0) -> Any:
    done = CliRunner().invoke(app, ["profile", *words, "--device", "cpu", "--json"])
    assert done.exit_code == check, done.output
    return json.loads(done.stdout if check == 0 else done.stderr)


@pytest.mark.usefixtures("known_limit")
def test_the_phases_of_a_step_and_what_it_asks_of_the_machine(tmp_path: Path) -> None:
    found = profiled("mlp", "--threads", "1", "--memory", "--steps", "4")
    assert [row["phase"] for row in found["rows"]] == ["data", "forward", "loss", "backward", "optimizer", "logging"]
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1)
    assert found["steps"] == 4 and found["samples_per_step"] == B
    assert found["samples_per_second"] == pytest.approx(B / found["seconds_per_step"])
    rows = {row["phase"]: row for row in found["rows"]}
    forward = sum(2 * B * a * b for a, b in SIZES)
    assert rows["forward"]["flops"] == forward
    assert rows["backward"]["flops"] == 2 * forward - 2 * B * 64 * 128  # no gradient of the images
    assert rows["loss"]["flops"] == rows["optimizer"]["flops"] == 0
    # The outputs of three layers, and of the activations between them.
    assert rows["forward"]["allocated"] == 4 * B * (2 * 128 + 2 * 64 + 10)
    assert rows["backward"]["peak"] >= rows["forward"]["allocated"]
    parameters = sum(a * b + b for a, b in SIZES)
    assert found["state_bytes"] == 3 * 4 * parameters  # with gradients and momentum
    assert not list(tmp_path.iterdir()), "no run, and nothing else"


@pytest.mark.usefixtures("known_limit")
def test_time_belongs_to_the_module_that_takes_it_in_both_passes() -> None:
    found = profiled(f"{__name__}:Sleepy", "--by", "module", "--steps", "4", "--data", "digits")
    rows = {row["module"]: row for row in found["rows"]}
    assert list(rows)[-1] == "outside modules" and rows["first.1"]["kind"] == "Linear"
    assert 0.02 <= rows["forth"]["forward"] < 0.035 and rows["forth"]["backward"] < 0.01
    assert 0.04 <= rows["back"]["backward"] < 0.06 and rows["back"]["forward"] < 0.01
    assert rows["first.1"]["seconds"] < 0.01
    assert rows["first.1"]["flops"] == 2 * (2 * B * 64 * 10)


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_the_modules_sum_to_the_whole_step_within_5_percent(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "measure_limit", lambda device, precision: LIMIT)
    built = build(TrainConfig(model, data="digits", threads=1, device="cpu"))
    found = profiling.profile(built, steps=6, warmup=2, by="module")
    whole = typical(found.watched.watched)  # of a clock of its own
    assert sum(row["seconds"] for row in found.rows) == pytest.approx(whole, rel=0.05)
    inside = sum(row["flops"] for row in found.rows if row["module"] != profiling.OUTSIDE)
    assert inside == found.work.flops > 2 * built.cost.flops * B


@pytest.mark.usefixtures("known_limit")
def test_the_operators_and_a_trace_whose_spans_are_nested(tmp_path: Path) -> None:
    found = profiled("mlp", "--threads", "1", "--by", "operator", "--steps", "3", "--memory", "--trace", "t.json")
    rows = {row["operator"]: row for row in found["rows"]}
    assert rows["aten::addmm"]["calls"] == 3 and rows["AddmmBackward0"]["calls"] == 3
    assert rows["aten::addmm"]["allocated"] == 4 * B * (128 + 64 + 10)
    assert list(rows)[-1] == "outside operators"
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1)
    assert {"phase", "torch.profiler"} == found["overhead"].keys()
    trace = json.loads((tmp_path / "t.json").read_text())
    assert trace["displayTimeUnit"] == "ms" and "host_name" not in trace
    spans = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            assert event["dur"] >= 0 and isinstance(event["name"], str)
            spans[event["pid"], event["tid"]].append((event["ts"], -event["dur"]))
    for of_thread in spans.values():
        ends: list[float] = []
        for start, minus in sorted(of_thread):
            while ends and ends[-1] <= start + 1e-3:
                ends.pop()
            assert not ends or start - minus <= ends[-1] + 1e-3
            ends.append(start - minus)
    names = {event["name"] for event in trace["traceEvents"]}
    assert {"data", "forward: mlp", "loss", "backward", "optimizer", "aten::addmm"} <= names
    assert profiled("mlp", "--trace", "t.json", check=2)["error"] == (
        "--trace t.json exists: add --force to replace it, or choose another file"
    )


@pytest.mark.usefixtures("known_limit")
def test_a_run_is_profiled_with_its_settings_and_is_not_changed(tmp_path: Path) -> None:
    config = TrainConfig("mlp", epochs=1, batch_size=32, optimizer="adam", device="cpu", threads=1)
    list(train(config, name="first"))

    def content() -> dict[str, str]:
        files = (f for f in tmp_path.rglob("*") if f.is_file())
        return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    before = content()
    assert profiled("1", "--steps", "2")["batch_size"] == 32
    assert profiled("first", "--steps", "2", "--batch-size", "16")["batch_size"] == 16
    assert content() == before


@pytest.mark.usefixtures("known_limit")
@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("mlp", "--by", "layer"), 2, "--by layer is not one of phase, module, operator"),
        (("mlp", "--by", "module", "--compile"), 2,
         "--by module cannot look into a model that is compiled: leave --compile out"),
        (("mlp", "--trace", "t.txt"), 2, "--trace t.txt must end in .json"),
        (("mlp", "--force"), 2, "--force is for --trace FILE.json: add it, or leave out --force"),
        (("7",), 4, "there is no run 7 in runs: see `dlcli runs`"),
        (("mlpp",), 2, "unknown model 'mlpp': did you mean mlp?"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_told_in_a_sentence(words: tuple[str, ...], code: int, error: str, tmp_path: Path) -> None:
    assert profiled(*words, check=code)["error"] == error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("work", "seconds", "by", "share"),
    [
        (Work(operators=1, each=[(10**9, 1000)]), {Owner("forward"): 0.02}, "arithmetic", 0.5),
        (Work(operators=1, each=[(0, 1 << 28)]), {Owner("forward"): 0.05}, "memory", (1 << 28) / 1e10 / 0.02),
        (Work(operators=1000, each=[(0, 4)] * 1000), {Owner("forward"): 0.01}, "dispatch", 1000 * 4 / 1e11 / 0.02),
        (Work(operators=1, each=[(10**9, 0)]), {Owner("data"): 0.02, Owner("forward"): 0.01}, "data", 0.5),
    ],
    ids=["arithmetic", "memory", "dispatch", "data"],
)
def test_what_bounds_a_step(work: Work, seconds: dict[Owner, float], by: str, share: float) -> None:
    found = find_bound(seconds, {Owner("forward"): work}, LIMIT, step=0.02)
    assert found.by == by
    assert found.share == pytest.approx(share)


def test_the_limit_is_what_three_rounds_reach() -> None:
    """A single fast round is luck; slow ones, of a busy machine, do not count; two fast ones are told as not steady."""
    assert reached([90.0, 100.0, 50.0, 99.0, 101.0, 60.0]) == (99.0, True)
    assert reached([90.0, 100.0, 50.0, 120.0, 99.0, 60.0]) == (99.0, False)
    assert reached([40.0, 100.0, 50.0]) == (40.0, False)


def test_the_rounds_take_turns_and_the_fastest_repetition_of_each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Any] = []
    speeds = {"cool": 3.0, "busy": 1.0}

    def product(side: int, device: torch.device, kind: torch.dtype) -> float:
        order.append((torch.get_num_threads(), side))
        machine = "busy" if len(order) <= 4 * 7 else "cool"  # in the first seven rounds
        return speeds[machine] * torch.get_num_threads() * side

    def copy(size: int, device: torch.device) -> float:
        return size / torch.get_num_threads()

    monkeypatch.setattr(limit, "_product", product)
    monkeypatch.setattr(limit, "_copy", copy)
    monkeypatch.setattr(limit, "usable_cores", lambda: 2)
    found = measure_limit(torch.device("cpu"), precision="fp32")
    assert order == [(threads, side) for threads in (1, 2) for side in (512, 1024)] * 10
    assert (found.flops, found.steady) == (3.0 * 2 * 1024, True)
    assert found.copies == {1 << 20: 1 << 20, 1 << 23: 1 << 23, 1 << 28: 1 << 28}


@pytest.mark.slow
def test_the_limit_is_what_a_product_and_a_copy_reach(tmp_path: Path) -> None:
    found = measure_limit(torch.device("cpu"), precision="fp32")
    a = torch.rand(1024, 1024)
    start = time.perf_counter()
    a @ a
    assert 2 * 1024**3 / (time.perf_counter() - start) < 1.1 * found.flops
    assert found.bandwidth > 1e8 and 1e-7 < found.operator < 1e-3


@pytest.mark.usefixtures("known_limit")
def test_a_table_says_how_far_from_the_limit_a_model_is_and_what_to_try() -> None:
    done = CliRunner().invoke(app, ["profile", "mlp", "--steps", "2", "--device", "cpu"])
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert done.stdout.startswith("mlp on digits: batch size 64, fp32; cpu, 1 thread\n")
    assert lines["of the limit"].startswith("mlp: ") and "% of what this processor can do (" in lines["of the limit"]
    assert lines["limit"].strip() == "100.0 GFLOP/s in a matrix product (fp32), 10.0 GB/s in a copy on 2 cores"
    assert lines["bound by"].strip().split(" ")[0] in ("data", "dispatch", "memory", "arithmetic")


@pytest.mark.usefixtures("known_limit")
def test_other_settings_take_turns_and_what_cannot_be_tried_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    original = trying._Contender.rate

    def noted(self: Any) -> float:
        config = self.built.config
        order.append((config.threads, config.batch_size, config.precision))
        return original(self)

    monkeypatch.setattr(trying._Contender, "rate", noted)
    monkeypatch.setattr(trying, "usable_cores", lambda: 1)
    monkeypatch.setattr(trying, "_SECONDS", 0.0)
    words = ("mlp", "--threads", "1", "--steps", "2", "--batch-size", "500", "--set", "compile=no", "--try")
    no_compiler = trying.choices

    def without_compilation(built: Any) -> Any:
        return [c for c in no_compiler(built) if c.name != "--compile"]

    monkeypatch.setattr(trying, "choices", without_compilation)
    rows = {row["setting"]: row for row in profiled(*words)["tried"]}
    one, two, bf16 = (1, 500, "fp32"), (1, 1000, "fp32"), (1, 500, "bf16")
    assert order == [one, two, bf16, one, *[one, two, bf16, one] * 5]  # each is built, then they take turns
    assert list(rows) == [
        "as it is", "--threads", "--batch-size 1000", "channels-last", "--workers", "--precision bf16",
        "as it is, again",
    ]  # fmt: skip
    assert rows["--threads"]["reason"] == "there is one core"
    assert rows["channels-last"]["reason"] == "images and weights are stored so already"
    assert rows["as it is"]["ratio"] == 1
    for name in ("--batch-size 1000", "--precision bf16"):
        row = rows[name]
        assert row["reason"] is None and row["low"] <= row["ratio"] <= row["high"]
        assert row["verdict"] in ("helps", "hurts", "no difference")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("known_limit")
def test_other_numbers_of_workers_are_tried_where_images_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its own processes, and the same images in the same order."""
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(20):
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trying, "usable_cores", lambda: 2)
    monkeypatch.setattr(trying, "_SECONDS", 0.0)
    seen: dict[int, list[list[str]]] = defaultdict(list)
    take = Encoded.take

    def noted(self: Encoded, indices: Tensor) -> Tensor:
        found = take(self, indices)
        assert len(self._pool[0]._processes) <= self.workers
        seen[self.workers].append([self.names[k] for k in indices.tolist()])
        return found

    monkeypatch.setattr(Encoded, "take", noted)
    original = trying.choices

    def of_workers(built: Any) -> Any:
        return [choice for choice in original(built) if choice.name.startswith("--workers")]

    monkeypatch.setattr(trying, "choices", of_workers)
    words = ("mlp", "--data", "images:photos", "--storage", "files", "--workers", "2", "--batch-size", "8")
    tried = profiled(*words, "--steps", "2", "--threads", "1", "--try")["tried"]
    assert [row["setting"] for row in tried] == ["as it is", "--workers 1", "--workers 4", "as it is, again"]
    assert all(row["ratio"] > 0 for row in tried)
    assert seen[1] == seen[4] and len(seen[1]) > 10
    assert {name for each in seen[1] for name in each} <= {name for each in seen[2] for name in each}


def test_a_difference_counts_only_beyond_the_noise() -> None:
    assert trying.verdict(1.2, 1.3, noise=(0.95, 1.1)) == "helps"
    assert trying.verdict(1.05, 1.3, noise=(0.95, 1.1)) == "no difference"
    assert trying.verdict(1.02, 1.03, noise=(1.0, 1.0)) == "no difference"
    assert trying.verdict(0.5, 0.8, noise=(0.9, 1.0)) == "hurts"
    assert trying.verdict(0.5, 0.95, noise=(0.9, 1.0)) == "no difference"


@pytest.mark.parametrize(
    ("settings", "name", "reason"),
    [
        ({"batch_size": "full"}, "--batch-size", "batch_size = full takes all samples at once"),
        ({"batch_size": 1000}, "--batch-size", "there are 1,294 training samples, less than twice a batch"),
        ({"precision": "bf16"}, "--precision bf16", "precision = bf16 already"),
        ({"compile": True}, "--compile", "it is in use already"),
        ({"data": "iris"}, "channels-last", "the data is not images"),
        ({}, "--workers", "no images are decoded during the training"),
    ],
    ids=str,
)
def test_what_cannot_be_tried(settings: dict[str, Any], name: str, reason: str) -> None:
    built = build(TrainConfig("mlp", **{"data": "digits", "device": "cpu", "threads": 1, **settings}))
    assert {c.name: c.reason for c in trying.choices(built)}[name] == reason
