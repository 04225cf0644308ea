"""dlcli prune"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import DataDir, Device, RunName, RunsDir, one_of, split_option, with_format
from dlcli.cli.evaluate import Require, tell
from dlcli.cli.output import Column, Format, byte_size, emit, say, write
from dlcli.cli.training import Measuring, command_line, show
from dlcli.config.ranges import check_range
from dlcli.core.errors import CheckError, ConfigError
from dlcli.core.options import convert

if TYPE_CHECKING:
    from dlcli.analysis.prune.prune import Pruned, Wish
    from dlcli.evaluation.measure import Evaluation
    from dlcli.evaluation.rules import Rule
    from dlcli.runs.run import Run
    from dlcli.training.session import Session


@with_format
def prune(
    run: RunName,
    amount: Annotated[
        str | None,
        typer.Option(
            "--amount",
            metavar="X",
            help="The share that is removed, of the weights, or with --structured of the channels and heads.",
        ),
    ] = None,
    flops: Annotated[
        str | None,
        typer.Option(
            "--flops",
            metavar="X",
            help="With --structured, instead of --amount: the share of the FLOPs that may be left.",
        ),
    ] = None,
    structured: Annotated[
        bool,
        typer.Option("--structured", help="Remove channels and heads, so that the network becomes smaller and faster."),
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="magnitude|gradient",
            help="What is removed first: small weights, or those without which the loss changes least.",
            callback=one_of("--by", "magnitude", "gradient"),
        ),
    ] = "magnitude",
    epochs: Annotated[
        str, typer.Option("--epochs", metavar="N", help="Epochs for which the new run is trained; 0 for none.")
    ] = "3",
    rounds: Annotated[
        str,
        typer.Option("--rounds", metavar="K", help="Prune and train K times in a row, each time a part, each a run."),
    ] = "1",
    lr: Annotated[
        str | None,
        typer.Option("--lr", metavar="X", help="Learning rate; by default that of the run."),
    ] = None,
    split: Annotated[
        str | None, split_option("Which split of the data to measure on; by default val, if there is one.")
    ] = None,
    require: Require = None,
    name: Annotated[str | None, typer.Option("--name", help="A name for the new run.")] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    *,
    format: Format,
) -> None:
    """Make a trained run smaller, as a new run that is trained on.

    With --structured, channels and heads are removed: the network is narrower,
    and its answers are proved to be those of the whole network with the same
    channels masked, before it is kept. Without it, single weights become zero
    and stay zero, which saves no time.

    Prints size, FLOPs, latency and metrics before, after and after training.
    """
    wish, count = _wish(amount, flops, structured, by, epochs, rounds, lr)
    from dlcli.evaluation.rules import parse_rules
    from dlcli.runs.given_names import check_free
    from dlcli.runs.names import find_one

    rules = parse_rules(require or [])
    found = find_one(run, runs_dir)
    if name is not None:
        check_free(name, runs_dir)
    from dlcli.analysis.prune.prune import prune as prune_run
    from dlcli.analysis.prune.prune import told

    chosen = split or ("val" if found.config().val_fraction else "test")
    rules = [replace(rule, metric=rule.metric.removeprefix(f"{chosen}/")) for rule in rules]
    stages: list[dict[str, Any]] = []
    report = None
    for number in range(1, count + 1):
        pruned = prune_run(
            found, replace(wish, round=number, rounds=count), split=chosen, runs_dir=runs_dir, device=device,
            data_dir=data_dir, check=Measuring(chosen, rules).check,
        )  # fmt: skip
        last = number == count
        found, report = _made(
            pruned, wish, stages, split=chosen, runs_dir=runs_dir, name=name if last else None, format=format,
            quiet=quiet, lines=told(pruned),
        )  # fmt: skip
    assert report is not None
    _finish(stages, pruned, report, rules, format=format)


def _wish(
    amount: str | None, flops: str | None, structured: bool, by: str, epochs: str, rounds: str, lr: str | None
) -> "tuple[Wish, int]":
    """What is asked for in each round, and how many there are. ConfigError for what does not go together."""
    if (amount is None) == (flops is None):
        both = "exclude each other: give one of them"
        raise ConfigError(
            f"--amount {amount} and --flops {flops} {both}"
            if amount
            else "give --amount 0.5, the share that is removed"
        )
    if flops is not None and not structured:
        raise ConfigError(f"--flops {flops} needs --structured: without it no FLOPs are saved")
    count, length = convert(rounds, int, name="--rounds"), convert(epochs, int, name="--epochs")
    check_range(count, ">= 1", name="--rounds")
    check_range(length, ">= 0", name="--epochs")
    share = None if amount is None else convert(amount, float, name="--amount")
    left = None if flops is None else convert(flops, float, name="--flops")
    rate = None if lr is None else convert(lr, float, name="--lr")
    check_range(share, "(0, 1)", name="--amount")
    check_range(left, "(0, 1)", name="--flops")
    check_range(rate, "> 0", name="--lr")
    if not length and (rate is not None or count > 1):
        option = f"--lr {lr}" if rate is not None else f"--rounds {rounds}"
        raise ConfigError(f"{option} is for the training, and --epochs 0 leaves it out: leave out one of them")
    from dlcli.analysis.prune.prune import Wish

    if count > 1:
        share = None if share is None else 1 - (1 - share) ** (1 / count)
        left = None if left is None else left ** (1 / count)
    return Wish(structured, by, share, left, length, rate), count


def _made(
    pruned: "Pruned", wish: "Wish", stages: list[dict[str, Any]], *, split: str, runs_dir: str, name: str | None,
    format: Format, quiet: bool, lines: list[str],
) -> "tuple[Run, Evaluation]":  # fmt: skip
    """Train the new run, or write it as it is, and add to the stages of the table."""
    from dlcli.analysis.prune.prune import opened, written
    from dlcli.evaluation.measure import evaluate

    made: list[Any] = []

    def finished(session: "Session") -> None:
        made.append(session.run)

    if wish.epochs:
        head = f"{pruned.record['kind']} pruning of {pruned.parent}, by {wish.by}"

        def opening(session: "Session") -> list[str]:
            run = session.run
            return [f"run {run.number} in {run.path}", head, *lines, *_rounds(pruned, run.number, wish)]

        show(
            lambda: opened(pruned, runs_dir=runs_dir, name=name, command=command_line()),
            lines=opening, format=format, quiet=quiet, print_=None, closing=finished,
        )  # fmt: skip
        assert made, "without a signal a training comes to its end"
    else:
        made.append(written(pruned, runs_dir=runs_dir, name=name, command=command_line()))
        say(f"run {made[0].number} in {made[0].path}")
        for line in lines:
            say(line)
    run = made[0]
    report = evaluate(run, split=split, device=pruned.built.config.device, loaded=pruned.built.dataset)
    number, figures = run.number, pruned.figures
    if not stages:
        stages.append(_stage(pruned.parent.number, "before", figures["before"], pruned, before=True))
    stages.append(_stage(number, "cut", figures["cut"], pruned))
    if wish.epochs:
        stages.append(_stage(number, "trained", figures["cut"] | {"metrics": report.metrics}, pruned))
    return run, report


def _rounds(pruned: "Pruned", number: int, wish: "Wish") -> list[str]:
    """Which round this is, and how to go on with the others if it is interrupted."""
    record = pruned.record
    left = record["rounds"] - record["round"]
    lines = [f"round {record['round']} of {record['rounds']}"] if record["rounds"] > 1 else []
    if left:
        option = "amount" if record["flops"] is None else "flops"
        share = record["flops"] ** left if option == "flops" else 1 - (1 - record["amount"]) ** left
        words = f"--{option} {share:.4g}{' --structured' * (record['kind'] == 'structured')} --rounds {left}"
        words += f" --epochs {wish.epochs}"
        words += "" if wish.by == "magnitude" else f" --by {wish.by}"
        lines.append(f"after an interruption: dlcli resume {number}, and then dlcli prune {number} {words}")
    return lines


def _stage(
    number: int, stage: str, figures: dict[str, Any], pruned: "Pruned", *, before: bool = False
) -> dict[str, Any]:
    times = {f"seconds_{each.batch}": each.before if before else each.after for each in pruned.latencies}
    split, monitor = pruned.record["split"], pruned.built.monitor
    metrics = figures["metrics"]
    shown = {f"{split}/{name}": metrics.get(name) for name in dict.fromkeys((monitor, "loss"))}
    sizes = {name: value for name, value in figures.items() if name != "metrics"}
    return {"run": number, "stage": stage, **sizes, **times, **shown}


def _finish(
    stages: list[dict[str, Any]], pruned: "Pruned", report: "Evaluation", rules: "list[Rule]", *, format: Format
) -> None:
    from dlcli.evaluation.rules import check_rules

    verdicts = check_rules(report.metrics, rules)
    if format is Format.table:
        if pruned.removed:
            rows = [row | {"layers": ", ".join(row["layers"])} for row in pruned.removed]
            columns = [Column("layers", "layers", cut=24), Column("before", "channels", right=True)]
            emit(rows, [*columns, Column("after", "left", right=True)], format=format)
            write("\n")
        for each in pruned.latencies:
            say(
                f"latency of a batch of {each.batch:,}, in {each.rounds} turns: {each.ratio:.2f} of that before "
                f"(quartiles {each.low:.2f} to {each.high:.2f})"
            )
    document = {
        "run": report.run.number,
        "path": str(report.run),
        **pruned.record,
        "stages": stages,
        "metrics": report.metrics,
        "latency": [each.as_dict() for each in pruned.latencies],
        **({"require": [verdict.as_dict() for verdict in verdicts]} if verdicts else {}),
    }
    emit(stages, _columns(stages), format=format, document=document)
    if failed := tell(verdicts, format=format):
        raise CheckError("; ".join(failed))


def _columns(stages: list[dict[str, Any]]) -> list[Column]:
    columns = [
        Column("run", "run", right=True),
        Column("stage", "stage"),
        Column("parameters", "parameters", lambda value: f"{value:,}", right=True),
        Column("flops", "FLOPs", lambda value: f"{value:,}", right=True),
        Column("file_bytes", "file", byte_size, right=True, drop=4),
        Column("compressed_bytes", "compressed", byte_size, right=True, drop=5),
    ]
    if "zeros" in stages[0]:
        columns.append(Column("zeros", "zeros", lambda share: f"{share:.1%}", right=True))
    for key in stages[0]:
        if key.startswith("seconds_"):
            batch = key.removeprefix("seconds_")
            columns.append(Column(key, f"ms of {batch}", lambda seconds: f"{seconds * 1e3:.3g}", right=True, drop=3))
        elif "/" in key:
            columns.append(Column(key, key, right=True))
    return columns
