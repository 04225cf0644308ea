"""The grammar of --over, the values that are drawn, and which settings a method tries."""

import math
from random import Random

import pytest
from scipy import stats

from dlcli.core.errors import ConfigError, RunError
from dlcli.runs.sweeps import TrialRun
from dlcli.runs.trials import best_trial, ranked, trials
from dlcli.sweeps.importance import importances
from dlcli.sweeps.listed import read_trials
from dlcli.sweeps.methods import Randomly, everything
from dlcli.sweeps.plan import from_document, make
from dlcli.sweeps.pruning import Pruner
from dlcli.sweeps.space import axis, grid, parse, size, told


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr=0.1,0.01", (0.1, 0.01)),
        ("lr=choice(0.1, 1e-2)", (0.1, 0.01)),
        ("batch-size=range(1,9,2)", (1, 3, 5, 7)),
        ("val-every=1", None),
        ("l1=range(0,1,0.25)", (0.0, 0.25, 0.5, 0.75)),
        ("batch_size=range(4,0,-2)", (4, 2)),
        ("optimizer=adam,sgd", ("adam", "sgd")),
        ("nesterov=yes,no", (True, False)),
        ('augment=none,"shift=2,flip"', (["none"], ["shift=2", "flip"])),
        ("model.hidden=64,128", ("64", "128")),
        ("patience=0,3", (0, 3)),
    ],
)
def test_values_are_typed_by_their_setting(text: str, values: tuple[object, ...] | None) -> None:
    if values is None:
        with pytest.raises(ConfigError, match="^unknown setting val_every: did you mean "):
            parse([text])
    else:
        assert parse([text])[0].values == values


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lr"], "--over lr is not of the form NAME=VALUES, such as lr=0.1,0.01"),
        (["lr="], "--over lr= is not of the form NAME=VALUES, such as lr=0.1,0.01"),
        (["lr=1", "lr=2"], "--over names lr twice: 1 and 2"),
        (["lr=1,1.0"], "--over lr=1,1.0 names a value twice"),
        (["lr=1,,2"], "--over lr=1,,2 has an empty value"),
        (["lr=a"], "lr = 'a' is not a number"),
        (["optimizer=adm"], "optimizer = 'adm' is not one of gd, sgd, adam, adamw, rmsprop"),
        (["lr=log(1,2)"], "--over lr=log(1,2): there is no log(): known are choice, range, uniform, loguniform, int, "
         "logint"),
        (["lr=uniform(1)"], "--over lr=uniform(1) is not of the form uniform(LOW,HIGH)"),
        (["lr=uniform(2,1)"], "--over lr=uniform(2,1) is empty: LOW must be below HIGH"),
        (["lr=loguniform(0,1)"], "--over lr=loguniform(0,1) goes through zero, where there is no logarithm: LOW must "
         "be above 0"),
        (["lr=uniform(1,inf)"], "--over lr=uniform(1,inf): inf is not a finite number"),
        (["lr=uniform(a,1)"], "--over lr=uniform(a,1): 'a' is not a number"),
        (["batch_size=int(1,2.5)"], "--over batch_size=int(1,2.5) needs whole numbers: take uniform(...)"),
        (["epochs=range(3,1)"], "--over epochs=range(3,1) is empty: END is not in the direction of STEP"),
        (["epochs=range(1,5,0)"], "--over epochs=range(1,5,0) is empty: END is not in the direction of STEP"),
        (["epochs=range(1,99999)"], "--over epochs=range(1,99999) has 99,998 values: take int() or uniform() instead"),
        (["optim.lr=1"], "unknown setting optim.lr: only model. and data. have options of their own"),
        (["seed=1,2"], "--over seed: it is no setting to choose: train each with several seeds by --seeds N"),
        (["data=digits,mnist"], "--over data: results on different data cannot be compared: make a sweep for each"),
        (["monitor=loss,accuracy"], "--over monitor: results in different metrics cannot be compared"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_told(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(texts)
    assert str(raised.value) == message


def test_draws_have_the_distributions_that_they_say() -> None:
    random, count = Random(0), 4000
    low, high = 1e-4, 1e-1
    for text, reference in (
        (f"loguniform({low},{high})", stats.loguniform(low, high)),
        ("uniform(2,5)", stats.uniform(2, 3)),
    ):
        one = axis("lr", text)
        drawn = [one.draw(random) for _ in range(count)]
        assert stats.kstest(drawn, reference.cdf).pvalue > 0.01, text
    one = axis("batch_size", "int(3,7)")
    drawn = [one.draw(random) for _ in range(count)]
    assert stats.chisquare([drawn.count(value) for value in range(3, 8)]).pvalue > 0.01
    one = axis("batch_size", "logint(1,8)")
    drawn = [one.draw(random) for _ in range(count)]
    shares = [math.log((value + 0.5) / (value - 0.5)) / math.log(8.5 / 0.5) for value in range(1, 9)]
    assert stats.chisquare([drawn.count(v) for v in range(1, 9)], [count * share for share in shares]).pvalue > 0.01


def test_a_drawn_number_can_be_typed_again() -> None:
    random = Random(1)
    for text in ("loguniform(1e-5,1e-1)", "uniform(0.99,0.999)", "uniform(-1,1)"):
        for value in (axis("weight_decay" if "-1" not in text else "lr", text).draw(random) for _ in range(50)):
            digits = f"{value:.10f}".rstrip("0").lstrip("-0.").lstrip("0")
            assert len(digits) <= 7 and float(repr(value)) == value


def test_a_grid_is_every_combination_the_last_fastest() -> None:
    axes = parse(["lr=0.1,0.01", "optimizer=adam,sgd"])
    assert [told(one) for one in grid(axes)] == [
        "lr=0.1 optimizer=adam", "lr=0.1 optimizer=sgd", "lr=0.01 optimizer=adam", "lr=0.01 optimizer=sgd",
    ]  # fmt: skip
    assert size(axes) == 4 and size([*axes, axis("l1", "uniform(0,1)")]) is None
    assert everything(axes).suggest(5) is None


def test_random_trials_depend_on_the_seed_and_their_number_only() -> None:
    axes = parse(["lr=loguniform(1e-4,1)", "optimizer=adam,sgd"])
    whole, later = Randomly(axes, seed=3), Randomly(axes, seed=3)
    first = [whole.suggest(number) for number in range(1, 9)]
    assert [later.suggest(number) for number in (5, 6, 7, 8)] == first[4:]
    assert Randomly(axes, seed=4).suggest(1) != first[0]


def test_of_finitely_many_settings_each_is_drawn_once() -> None:
    method = Randomly(parse(["lr=0.1,0.01,0.001", "optimizer=adam,sgd"]), seed=0)
    drawn = [method.suggest(number) for number in range(1, 8)]
    assert drawn[6] is None and len({repr(one) for one in drawn[:6]}) == 6


@pytest.mark.parametrize(
    ("given", "method", "trials"),
    [
        ({"over": ["lr=0.1,0.01"]}, "grid", None),
        ({"over": ["lr=0.1,0.01,0.2"], "trials": 2}, "random", 2),
        ({"over": ["lr=0.1,0.01,0.2"], "trials": 3}, "grid", None),
        ({"over": ["lr=uniform(0.1,1)"], "method": "random"}, "random", 20),
        ({"over": [], "seeds": 3}, "list", None),
    ],
)
def test_the_method_follows_from_the_space(given: dict[str, object], method: str, trials: int | None) -> None:
    plan = _plan(**given)
    assert (plan.method, plan.trials) == (method, trials)
    assert from_document(plan.as_document(), file="sweep.json") == plan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"over": []}, "--over is missing: name a setting and its values, as in --over lr=0.1,0.01"),
        ({"over": ["lr=1,2"], "method": "gird"}, "--method gird: did you mean grid?"),
        ({"over": ["lr=1,2"], "prune": "hyperband"}, "--prune hyperband: known are off, median, asha"),
        ({"over": ["lr=uniform(0.1,1)"], "method": "grid"},
         "--method grid needs single values, and lr is a range: take --method random"),
        ({"over": ["lr=1,2,3"], "method": "grid", "trials": 2},
         "--method grid tries all 3 combinations, and --trials is 2: leave it out, or take --method random"),
        ({"over": ["batch_size=range(1,40)", "epochs=range(1,11)"]},
         "there are 390 combinations: --trials 390 tries all of them, a smaller number some at random"),
        ({"over": ["lr=1,2"], "listed": [{}]}, "--trials-from lists all trials: leave out --over and --method"),
        ({"over": ["lr=-1,2"]}, "lr = -1.0 is out of range: it must be > 0"),
        ({"over": ["lr=1,2"], "base": {}}, "no model is given: name one, as in `dlcli train cnn`"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_told(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _plan(**given)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr\n", "--trials-from {file} holds no trials: a header of settings, then a row for each is needed"),
        ("lr,lr\n1,2\n", "--trials-from {file} has a column twice: lr, lr"),
        ("lr,l1\n1\n", "--trials-from {file}, line 2: 1 cells instead of 2"),
        ("lr\n1\na\n", "--trials-from {file}, line 3: lr = 'a' is not a number"),
        ("seed\n1\n", "--trials-from {file}, line 2: --over seed: it is no setting to choose: train each with several "
         "seeds by --seeds N"),
    ],
)  # fmt: skip
def test_a_list_of_trials_that_cannot_be_read_is_told(content: str, message: str, tmp_path) -> None:
    (file := tmp_path / "trials.csv").write_text(content)
    with pytest.raises(ConfigError) as raised:
        read_trials(str(file))
    assert str(raised.value) == message.format(file=file)


def test_a_list_of_trials_has_a_column_for_each_setting(tmp_path) -> None:
    (file := tmp_path / "trials.csv").write_text('\ufefftrial,lr,augment\n1,0.5,"shift=1,flip"\n2,,flip\n\n', "utf-8")
    assert read_trials(str(file)) == [{"lr": 0.5, "augment": ["shift=1", "flip"]}, {"augment": ["flip"]}]


def test_asha_lets_one_of_three_go_on_from_each_rung() -> None:
    pruner = Pruner("asha")
    stopped = {}
    for number, loss in enumerate((5.0, 4.0, 3.0, 2.0, 6.0, 1.0)):
        pruner.note((number, 0), 0.4, loss)
        stopped[number] = pruner.stops((number, 0))
    # At a third of the training: the first two have nobody to be compared with, and the third is the best.
    assert {number: why is None for number, why in stopped.items()} == {
        0: True, 1: True, 2: True, 3: True, 4: False, 5: True,
    }  # fmt: skip
    assert stopped[4] == "number 5 of 5 at 4% of the training"
    random, seen, other = Random(0), list[float](), Pruner("asha")
    for number in range(60):  # at one rung: the best third of what was seen until then goes on
        seen.append(random.random())
        other.note((number, 0), 0.4, seen[-1])
        goes_on = len(seen) < 3 or sorted(seen).index(seen[-1]) < math.ceil(len(seen) / 3)
        assert (other.stops((number, 0)) is None) == goes_on, number
    pruner.note((0, 0), 0.5, 5.0)  # between two rungs nothing is decided
    assert pruner.stops((0, 0)) is None
    pruner.note((0, 0), 1.0, 5.0)  # nor at the end
    assert pruner.stops((0, 0)) is None


def test_the_median_rule_compares_with_what_others_had_reached_then() -> None:
    pruner = Pruner("median")
    for number in range(5):
        pruner.note((number, 0), 0.5, float(number))
        assert pruner.stops((number, 0)) is None  # fewer than five others
        pruner.note((number, 0), 1.0, 0.0)
    pruner.note((10, 0), 0.5, 2.5)
    assert pruner.stops((10, 0)) == "worse than the median of 5 others"
    pruner.note((11, 0), 0.5, 1.5)
    assert pruner.stops((11, 0)) is None
    pruner.note((12, 0), 0.5, None)  # undefined is the worst
    assert pruner.stops((12, 0)) is not None


def _plan(**given: object):
    asked = {"base": {"model": "mlp"}, "over": [], "method": None, "trials": None, "seeds": 1, "prune": "off"}
    return make(**(asked | {"confirm": 0} | given))


def test_importance_finds_the_setting_that_matters() -> None:
    random = Random(0)
    runs = []
    for number in range(1, 61):
        settings = {"lr": random.random(), "optimizer": random.choice(["adam", "sgd"]), "l1": random.random()}
        value = settings["lr"] ** 2 + 0.3 * (settings["optimizer"] == "adam") + 0.01 * random.random()
        runs.append(TrialRun(number, 0, settings, "finished", number, "val/loss", value, False))
    found = importances(trials(runs))
    assert [one.name for one in found.settings] == ["lr", "optimizer", "l1"]
    assert found.r2 > 0.8 and found.settings[2].mean < 0.05 and found.trials == 60
    with pytest.raises(RunError, match="^importances need 10 finished trials of several settings, and there are 9$"):
        importances(trials(runs[:9]))
    for run in runs:
        run.value = 1.0
    with pytest.raises(RunError, match="^all 60 finished trials have the same result: no setting matters$"):
        importances(trials(runs))


def test_the_mean_of_all_seeds_decides_and_an_unfinished_trial_does_not_count() -> None:
    def runs(trial: int, values: list[float], status: str = "finished") -> list[TrialRun]:
        return [TrialRun(trial, seed, {}, status, 1, "val/accuracy", v, True) for seed, v in enumerate(values)]

    found = [*runs(1, [0.9, 0.7]), *runs(2, [0.8, 0.85]), *runs(3, [1.0, 1.0], "pruned")]
    assert best_trial(found) == 2 and [one.number for one in ranked(trials(found))] == [2, 1, 3]
    found[2].status = "running"
    assert best_trial(found) == 1
    summary = trials(found)[0].value
    assert summary is not None and summary.mean == pytest.approx(0.8) and summary.std == pytest.approx(0.1 * 2**0.5)
