"""What `dlcli explain` shows of rows and texts: what each column or token adds to the answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlcli.cli.explain_files import check_output, write_explanation
from dlcli.cli.output import Column, Format, emit, say
from dlcli.core.wording import number, text

if TYPE_CHECKING:
    from dlcli.analysis.explain.parts import Parts
    from dlcli.analysis.explain.subject import Subject

_MOST_BARS = 60  # of a text


def show_parts(
    subject: "Subject",
    found: "Sequence[Parts]",
    *,
    of: str,
    checkpoint: str,
    output: str | None,
    force: bool,
    format: Format,
) -> None:
    """A row for each column or token of each sample. of: `columns` or `tokens`."""
    from dlcli.analysis.explain.parts import parts_document

    name = "column" if of == "columns" else "place"
    value = "value" if of == "columns" else "token"
    rows = [
        {"input": each.sample.name, name: part.name, value: part.value, "attribution": part.attribution}
        for each in found
        for part in each.parts
    ]
    columns = [
        Column("input", "input", cut=24), Column(name, name, right=of == "tokens"),
        Column(value, value, lambda cell: repr(cell) if of == "tokens" else _cell(cell)),
        Column("attribution", "attribution", right=True),
    ]  # fmt: skip
    emit(rows, columns, format=format, document=parts_document(subject, found, checkpoint=checkpoint, of=of))
    for line in _remarks(subject, found, of):
        say(line)
    if output is not None:
        check_output(output, [], force=force)
        write_explanation(_picture(subject, found, of), output, images={}, force=force)


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else text(value)


def _remarks(subject: "Subject", found: "Sequence[Parts]", of: str) -> list[str]:
    told = []
    against = "the mean training row" if of == "columns" else "vectors of zeros"
    for each in found:
        a = each.attributions
        told.append(
            f"{each.sample.name}: {_answered(each)}; the attributions sum to {number(a.total)}, and its "
            f"{subject.score_name} and that of {against} differ by {number(a.difference)}"
        )
    return told


def _answered(each: "Parts") -> str:
    values = each.answer.values
    if "class" not in values:
        return f"answer {_cell(values['value'])}"
    other = each.answer.explained
    explained = "" if other == values["class"] else f", explained is {other!r}"
    return f"answer {values['class']!r} with probability {number(float(values['probability']))}{explained}"


def _picture(subject: "Subject", found: "Sequence[Parts]", of: str) -> Any:
    from dlcli.plots.picture import Contributions, Picture

    panels, notes = [], []
    for each in found:
        parts = list(each.parts)
        if of == "columns":
            parts.sort(key=lambda part: -abs(part.attribution))
        if len(parts) > _MOST_BARS:
            kept = sorted(range(len(parts)), key=lambda k: -abs(parts[k].attribution))[:_MOST_BARS]
            notes.append(f"of {len(parts):,} {of} of {each.sample.name} the {_MOST_BARS} that matter most are drawn")
            parts = [parts[k] for k in sorted(kept)]
        names = [
            f"{part.name} = {_cell(part.value)}" if of == "columns" else f"{part.name} {part.value!r}" for part in parts
        ]
        title = f"{each.sample.name}: {_answered(each)}"
        panels.append(Contributions(title, names, [part.attribution for part in parts]))
    return Picture(f"explanation of {subject.run}", panels, notes)
