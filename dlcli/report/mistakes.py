"""The worst mistakes on the test split, with the samples as far as they can be shown."""

from collections.abc import Sequence
from typing import Any

from dlcli.core.errors import DlcliError
from dlcli.plots.answers import Answers, answers, is_stored, task_of
from dlcli.plots.draw import SUITABLE
from dlcli.plots.errors import tiles, worst
from dlcli.report.blocks import Block, Cell, Images, Section, Table, Text
from dlcli.report.facts import Facts
from dlcli.report.samples import Samples

_MOST = 24
_LONGEST = 300  # characters of a cell


def mistakes(one: Facts, samples: Samples) -> Section:
    """Of the answers that `dlcli eval` stored of the best checkpoint. Nothing if there are none. They hold samples,
    which may be of persons: they are not for a model card."""
    return Section("Worst mistakes", _mistakes(one, samples), in_card=False)


def _mistakes(one: Facts, samples: Samples) -> list[Block]:
    try:
        if task_of(one.run) not in SUITABLE or not is_stored(one.run, "test"):
            return []
        found = answers(one.run, "test")
    except DlcliError as error:
        return [Text(f"The stored answers cannot be used: {error}.")]
    places = worst(found)
    if not places:
        return [Text("There are none on the test split.")]
    what = "samples that are not answered exactly" if found.confidence is None else "wrong answers"
    which = f"the worst {min(_MOST, len(places))} of {len(places):,} {what} on the test split"
    return _shown(one, found, places[:_MOST], which, samples)


def _shown(one: Facts, found: Answers, places: Sequence[int], which: str, samples: Samples) -> list[Block]:
    cells: dict[str, list[str]] = {}
    why: list[Block] = []
    try:
        images = samples.images(one, found, places)
        if images is not None:
            return [Images(which, tiles(found, places, images))]
        cells = samples.cells(one, "test", [int(found.index[k]) for k in places])
    except DlcliError as error:
        why.append(Text(f"The samples themselves are not shown: {error}."))
    header = ["row of the data", "target", "answer", *([] if found.confidence is None else ["probability"]), *cells]
    rows = [[*_answer(found, k), *(_cut(column[place]) for column in cells.values())] for place, k in enumerate(places)]
    return [*why, Table(which, header, rows)]


def _answer(found: Answers, k: int) -> list[Any]:
    row = Cell(str(found.index[k]), int(found.index[k]))
    if found.confidence is None:
        return [row, float(found.target[k]), float(found.predicted[k])]
    target, answer = (found.names[int(of[k])] for of in (found.target, found.predicted))
    return [row, target, answer, float(found.confidence[k])]


def _cut(cell: str) -> str:
    return cell if len(cell) <= _LONGEST else f"{cell[: _LONGEST - 1]}…"
