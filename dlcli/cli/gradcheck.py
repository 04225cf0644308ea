"""dlcli gradcheck"""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import with_format
from dlcli.cli.output import Column, Format, duration, emit, plain, power, say, write
from dlcli.config.environment import read_environment
from dlcli.core.errors import CheckError, ConfigError

if TYPE_CHECKING:
    from dlcli.gradcheck.report import Report, TargetReport
    from dlcli.gradcheck.selftest import SelfTest


@with_format
def gradcheck(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET...", help="A built-in model, layer or loss; all; or your own package.module:Name."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="SHAPE", help="Shape of an argument: 2,3,8,8, int:2,7:0..50, bool:2,7. May be repeated."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="NAME", help="The data set for which your own model is built, instead of --input."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An argument for the constructor of your own module. May be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of inputs, weights and probes.")] = 0,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Probe every coordinate of every parameter and input.")
    ] = False,
    order: Annotated[
        int, typer.Option("--order", min=1, max=2, help="1 checks first derivatives; 2 checks double backward as well.")
    ] = 1,
    forward_mode: Annotated[
        bool, typer.Option("--forward-mode", help="Check forward-mode derivatives as well.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="Compare the backward of this device as well, in the model's own dtype: cpu, cuda, cuda:N or mps.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Also fail if a tensor is undecided or a parameter unused.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Plant bugs in real models, and count how many are found.")
    ] = False,
    *,
    format: Format,
) -> None:
    """Compare a model's derivatives with numeric ones, and name the wrong module.

    The comparison is made tensor by tensor, in float64 on the CPU. The exit
    code is 7 if a derivative is wrong.
    """
    if self_test:
        given = {
            "a target": targets, "--input": inputs, "--data": data, "--set": settings, "--device": device,
            "--exhaustive": exhaustive, "--forward-mode": forward_mode, "--strict": strict, "--order": order != 1,
        }  # fmt: skip
        for name, value in given.items():
            if value:
                raise ConfigError(f"--self-test plants its own bugs in its own models: leave {name} out")
        _self_test(seed, format)
        return
    from dlcli.compute.devices import choose_device
    from dlcli.gradcheck import targets as names
    from dlcli.gradcheck.check import Settings, check_case
    from dlcli.gradcheck.numeric import TOLERANCE
    from dlcli.gradcheck.probing import Effort
    from dlcli.gradcheck.report import Report

    chosen = None if device is None else choose_device(device)
    cases = names.cases(
        targets or [], inputs=inputs or [], settings=settings or [],
        data=data, data_dir=read_environment().get("data_dir"),
    )  # fmt: skip
    how = Settings(
        seed=seed, effort=Effort(exhaustive=exhaustive), order=order, forward_mode=forward_mode, device=chosen
    )  # fmt: skip
    start = time.perf_counter()
    found = []
    for case in cases:
        found.append(check_case(case, settings=how))
        if format is Format.table:
            _print_target(found[-1], whole="all" not in (targets or []))
    report = Report(seed, strict, TOLERANCE, tuple(found))
    if format is Format.json:
        emit([], [], format=format, document=report.as_dict())
    elif format is not Format.table:
        rows = [{"target": target.target, **row} for target in found for row in _rows(target)]
        emit(rows, [Column("target", "target"), *_COLUMNS], format=format)
    if len(found) > 1 and format is Format.table:
        _print_summary(report)
    if format is Format.table:
        _tell(_last_line(report))
    say(f"{len(found)} target{'s' * (len(found) != 1)}, {duration(time.perf_counter() - start)}")
    if not report.passed:
        raise CheckError(_failure(report))


def _tell(line: str) -> None:
    """Print a line of the report to stdout, like the tables."""
    write(plain(line) + "\n")


_COLUMNS = [
    Column("tensor", "tensor", fixed=True),
    Column("shape", "shape", lambda shape: "x".join(map(str, shape)) or "scalar", drop=4),
    Column("gradient_norm", "|gradient|", power, right=True, drop=3),
    Column("max_absolute_error", "max abs error", power, right=True, drop=2),
    Column("max_relative_error", "max rel error", power, right=True),
    Column("probes", "probes", right=True, drop=5),
    Column("kinks", "kinks", right=True, drop=6),
    Column("verdict", "verdict", fixed=True),
    Column("reason", "why"),
]


def _rows(target: "TargetReport", *, short: bool = False) -> list[dict[str, Any]]:
    """One row per tensor. short: leave out module inputs and outputs that passed."""
    rows = []
    for row in target.rows:
        if short and row.kind.startswith("module") and row.verdict in ("pass", "unused"):
            continue
        values = row.as_dict()
        if row.kind in ("second order", "forward mode", "device"):
            values["tensor"] = f"{row.tensor} ({row.kind})"
        if row.verdict in ("wrong", "detached", "non-finite") and not row.reason and row.worst is not None:
            values["reason"] = f"at {row.worst}"
        rows.append(values)
    return rows


def _print_target(target: "TargetReport", *, whole: bool) -> None:
    """Print the result for one target. whole: print its table even if it passed."""
    boundaries = [row for row in target.rows if row.kind.startswith("module")]
    passed = sum(row.verdict in ("pass", "unused") for row in boundaries)
    if whole or target.verdict != "pass":
        emit(
            _rows(target, short=True),
            _COLUMNS,
            format=Format.table,
            title=f"{target.target} ({target.class_name}, {target.parameters:,} parameters): {target.verdict}",
        )
        if boundaries:
            _tell(f"inputs and outputs of modules: {passed} of {len(boundaries)} pass")
    for finding in target.findings:
        _tell(f"{target.target}: {finding.text}")
    for note in target.notes:
        _tell(f"{target.target}: {note}")
    for opinion in target.opinions:
        if not opinion.agrees:
            _tell(f"{target.target}: {opinion.check} disagrees, it says: {opinion.text}")
    if whole and target.opinions and all(opinion.agrees for opinion in target.opinions):
        _tell(f"{', '.join(dict.fromkeys(o.check.partition(',')[0] for o in target.opinions))} agrees")


def _print_summary(report: "Report") -> None:
    emit(
        [
            {
                "target": target.target,
                "parameters": target.parameters,
                "tensors": len(target.rows),
                "max_relative_error": max((row.max_relative for row in target.rows), default=0.0),
                "probes": sum(row.probes for row in target.rows),
                "kinks": sum(row.kinks for row in target.rows),
                "smallest_caught": target.smallest_caught,
                "verdict": target.verdict,
            }
            for target in report.targets
        ],
        [
            Column("target", "target", fixed=True),
            Column("parameters", "parameters", right=True, drop=3),
            Column("tensors", "tensors", right=True, drop=4),
            Column("max_relative_error", "max rel error", power, right=True),
            Column("probes", "probes", right=True, drop=5),
            Column("kinks", "kinks", right=True, drop=6),
            Column("smallest_caught", "would catch", power, right=True, drop=2),
            Column("verdict", "verdict", fixed=True),
        ],
        format=Format.table,
    )


def _last_line(report: "Report") -> str:
    caught = report.smallest_caught
    told = (
        "no gradient was large enough to be judged"
        if caught is None
        else f"a relative error of {caught:.1e} would have been caught in any tensor"
    )
    return f"{report.verdict}: {told}; seed {report.seed}"


def _failure(report: "Report") -> str:
    sentences = []
    for target in report.targets:
        failing = target.verdict == "fail"
        if not failing and (not report.strict or target.clean):
            continue
        if target.blame is not None:
            sentences.append(f"{target.target}: {target.blame}")
        elif failing:
            texts = [f.text for f in target.findings if f.verdict == "fail"]
            wrong = [r.tensor for r in target.rows if r.verdict in ("wrong", "detached", "non-finite")]
            sentences.append(f"{target.target}: {'; '.join(texts) or 'wrong is ' + ', '.join(wrong)}")
        else:
            odd = [r.tensor for r in target.rows if r.verdict in ("undecided", "unused")]
            texts = [f.text for f in target.findings]
            sentences.append(f"{target.target}: undecided or unused: {', '.join(odd + texts)} (--strict)")
    return "; ".join(sentences)


def _self_test(seed: int, format: Format) -> None:
    from dlcli.gradcheck.selftest import self_test

    start = time.perf_counter()
    result = self_test(seed=seed)
    emit(
        [planted.as_dict() for planted in result.planted],
        [
            Column("mutation", "planted bug", fixed=True),
            Column("model", "model"),
            Column("module", "module"),
            Column("detected", "detected", _yes),
            Column("blamed", "blamed"),
            Column("localised", "localised", _yes),
        ],
        format=format,
        document=result.as_dict(),
    )
    line = _self_test_line(result)
    say(f"{line}; {duration(time.perf_counter() - start)}")
    if not result.passed:
        raise CheckError(f"the gradient check fails its own test: {line}")


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _self_test_line(result: "SelfTest") -> str:
    kinds, count = len({p.mutation for p in result.planted}), len(result.planted)
    alarms = f"false alarms in {', '.join(result.false_alarms)}" if result.false_alarms else "no false alarm"
    return (
        f"{kinds} kinds of bug, {count} planted: {result.detected} detected, {result.localised} attributed to "
        f"the right module; {alarms}; seed {result.seed}"
    )
