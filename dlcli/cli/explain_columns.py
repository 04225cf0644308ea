"""What `dlcli explain --columns` shows: how much each column matters, and how the answer depends on it."""

from typing import TYPE_CHECKING, Any

from dlcli.cli.explain_files import write_explanation
from dlcli.cli.output import Column, Format, emit, say
from dlcli.core.wording import text

if TYPE_CHECKING:
    from dlcli.analysis.explain.columns import Columns, Dependence
    from dlcli.analysis.explain.subject import Subject


def show_columns(
    subject: "Subject", found: "Columns", *, checkpoint: str, output: str | None, force: bool, format: Format
) -> None:
    """A row for each column: its importance, and the values at which the mean answer is lowest and highest."""
    by_name = {each.column: each for each in found.dependences}
    rows = [{**row, **_ends(by_name.get(row["column"]))} for row in found.importance.columns]
    columns = [
        Column("column", "column"), Column("importance", "importance", right=True), Column("std", "std", right=True),
        Column("lowest", "lowest answer", right=True), Column("at_lowest", "at", _value),
        Column("highest", "highest answer", right=True), Column("at_highest", "at ", _value),
    ]  # fmt: skip
    emit(rows, columns, format=format, document=found.as_dict(subject, checkpoint=checkpoint))
    say(f"importance: how much worse {found.importance.metric} becomes on {found.split} when a column is shuffled")
    if found.dependences:
        first = found.dependences[0]
        say(f"answer: the {first.answer}, its mean over {first.rows:,} rows of {found.split} that get this value")
    if output is not None:
        write_explanation(_picture(subject, found), output, images={}, force=force)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else text(value)


def _ends(found: "Dependence | None") -> dict[str, Any]:
    if found is None:
        return {}
    low, high = min(found.points, key=lambda p: p.mean), max(found.points, key=lambda p: p.mean)
    return {"lowest": low.mean, "at_lowest": low.value, "highest": high.mean, "at_highest": high.value}


def _picture(subject: "Subject", found: "Columns") -> Any:
    from dlcli.plots.picture import Contributions, Line, Panel, Picture

    ranked = [row for row in found.importance.columns if row["importance"] is not None]
    title = f"importance: how much worse {found.importance.metric} becomes, {subject.run}"
    panels: list[Any] = [Contributions(title, [row["column"] for row in ranked], [row["importance"] for row in ranked])]
    for number, each in enumerate(found.dependences, 1):
        numbers = [point for point in each.points if not isinstance(point.value, str)]
        words = [point for point in each.points if isinstance(point.value, str)]
        if numbers:
            line = Line(
                "mean, and a tenth of the rows below and above the band",
                [(float(point.value), point.mean) for point in numbers],
                style=number,
                band=[(float(point.value), point.low, point.high) for point in numbers],
            )
            panels.append(Panel(f"{each.answer} over {each.column}", each.column, each.answer, [line]))
        if words:
            title = f"{each.answer} with this {each.column}, {'the mean' if not numbers else 'where it is no number'}"
            panels.append(Contributions(title, [str(point.value) for point in words], [point.mean for point in words]))
    return Picture(f"columns of {subject.run}", panels)
