"""The encoding of a table in the graph: fills, parts of dates, normal scores and one-hot features, without Python.

It repeats what data/tables/encoding.py does with numpy, in operations that torch.export and ONNX have. N rows, C
columns of a group, M numbers.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.data.tables.columns import DATE_PARTS
from dlcli.data.tables.encoding import Column, Encoding
from dlcli.export.columns import groups_of, missing_code, other_code

_DAY = 86_400.0


class Features(nn.Module):
    """One input for each group of columns, see columns.py -> float32 (N, F): the features, in their order."""

    order: Tensor

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        groups = {group.name: group.columns for group in groups_of(encoding)}
        self.names = tuple(groups)
        numbers, dates = groups.get("numbers", ()), groups.get("dates", ())
        self.numbers = Filled(numbers, parts=1) if numbers else None
        self.dates = Filled(dates, parts=len(DATE_PARTS)) if dates else None
        self.categories = OneHot(groups["categories"]) if "categories" in groups else None
        knots = [each for column in (*numbers, *dates) for each in column.knots]
        self.scores = NormalScores(knots) if knots else None
        made = [f"{c.name}\n{place}" for c in (*numbers, *dates) for place in range(c.numbers)]
        made += [f"{c.name}\n{len(c.features) - 1}" for c in (*numbers, *dates) if c.missing]
        made += [f"{c.name}\n{place}" for c in groups.get("categories", ()) for place in range(len(c.features))]
        wanted = [f"{c.name}\n{place}" for c in encoding.columns for place in range(len(c.features))]
        at = {name: place for place, name in enumerate(made)}
        self.register_buffer("order", torch.tensor([at[name] for name in wanted]), persistent=False)

    def forward(self, *groups: Tensor) -> Tensor:
        given = dict(zip(self.names, groups, strict=True))
        filled = [each(given[name]) for name, each in (("numbers", self.numbers), ("dates", self.dates)) if each]
        parts = []
        if filled:
            values = torch.cat([values for values, _ in filled], 1)
            parts.append(values.float() if self.scores is None else self.scores(values).float())
            parts += [empty.float() for _, empty in filled]
        if self.categories is not None:
            parts.append(self.categories(given["categories"]))
        return torch.cat(parts, 1).index_select(1, self.order)


class Filled(nn.Module):
    """Numbers or dates (N, C), NaN where they are missing -> float64 (N, M), the values or the parts of the dates,
    filled where they are missing; and bool (N, D), where they are, of the D columns that have a feature for it.

    parts: how many numbers a date has; 1 if they are no dates.
    """

    fills: Tensor
    source: Tensor
    part: Tensor
    telling: Tensor

    def __init__(self, columns: Sequence[Column], *, parts: int) -> None:
        super().__init__()
        self.dates = DateParts() if parts > 1 else None
        places = [DATE_PARTS.index(part) for c in columns for part in c.parts] if self.dates else [0] * len(columns)
        source = [at for at, column in enumerate(columns) for _ in range(column.numbers)]
        part = [at * parts + place for at, place in zip(source, places, strict=True)]
        fills = [value for column in columns for value in column.fills]
        telling = [at for at, column in enumerate(columns) if column.missing]
        self.register_buffer("fills", torch.tensor(fills, dtype=torch.float64), persistent=False)
        for name, value in (("source", source), ("part", part), ("telling", telling)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        empty, x = x.isnan(), x.double()
        values = x if self.dates is None else self.dates(x).flatten(1).index_select(1, self.part)
        return torch.where(empty.index_select(1, self.source), self.fills, values), empty.index_select(1, self.telling)


class DateParts(nn.Module):
    """float64 (N, C) seconds since 1970 -> float64 (N, C, 12), DATE_PARTS of each; those of NaN are as of 0.

    Years begin in March, so that the day that is not in every year is the last one (Hinnant, chrono-Compatible
    Low-Level Date Algorithms, civil_from_days). The quotients are of whole numbers, so that their floors are exact.

    Sine and cosine are looked up: those of another library may differ in the last bit, and then a value is no longer
    equal to its quantile.
    """

    months: Tensor
    weekdays: Tensor
    minutes: Tensor

    def __init__(self) -> None:
        super().__init__()
        turns = {
            "months": [month / 12 for month in range(12)],
            "weekdays": [day / 7 for day in range(7)],
            "minutes": [(minute // 60 + minute % 60 / 60) / 24 for minute in range(1440)],
        }
        for name, each in turns.items():
            table = [(math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)) for turn in each]
            self.register_buffer(name, torch.tensor(table, dtype=torch.float64), persistent=False)

    def forward(self, seconds: Tensor) -> Tensor:
        there = torch.where(seconds.isnan(), 0.0, seconds)
        day = (there / _DAY).floor()
        within = there - day * _DAY
        since = day + 719_468  # 0000-03-01
        era = (since / 146_097).floor()
        left = since - era * 146_097
        year = ((left - (left / 1460).floor() + (left / 36_524).floor() - (left / 146_096).floor()) / 365).floor()
        left = left - (365 * year + (year / 4).floor() - (year / 100).floor())
        shifted = ((5 * left + 2) / 153).floor()  # months since March
        month = torch.where(shifted < 10, shifted + 3, shifted - 9)
        weekday = (day + 3) - ((day + 3) / 7).floor() * 7  # 1970-01-01 was a Thursday, and Monday is 0
        date = (
            year + era * 400 + torch.where(month <= 2, 1.0, 0.0), month, left - ((153 * shifted + 2) / 5).floor() + 1,
            weekday, (within / 3600).floor(), there / _DAY,
        )  # fmt: skip
        places = ((self.months, month - 1), (self.weekdays, weekday), (self.minutes, (within / 60).floor()))
        return torch.cat([torch.stack(date, 2), *(F.embedding(place.long(), table) for table, place in places)], 2)


class OneHot(nn.Module):
    """int64 (N, C) codes -> float32: the features of categories and yes/no columns. A code that a column does not have
    is taken as that of another value."""

    source: Tensor
    code: Tensor
    known: Tensor
    fill: Tensor
    last: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        features = [(at, *feature) for at, column in enumerate(columns) for feature in _features(column)]
        source, code, known, fill = zip(*features, strict=True)
        for name, value in (("source", source), ("code", code), ("known", known)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.int64), persistent=False)
        self.register_buffer("fill", torch.tensor(fill, dtype=torch.float32), persistent=False)
        last = [missing_code(column) for column in columns]
        self.register_buffer("last", torch.tensor(last, dtype=torch.int64), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        codes = torch.where((codes < 0) | (codes > self.last), self.last - 1, codes).index_select(1, self.source)
        return torch.where(codes < self.known, (codes == self.code).float(), self.fill)


def _features(column: Column) -> list[tuple[int, int, float]]:
    """Of each feature, the code for which it is 1, the first code for which it is filled, and its fill."""
    last = missing_code(column)
    if column.kind == "yes/no":
        found = [(1, 2, column.fills[0])]
    else:
        found = [(code, last + 1, 0.0) for code in range(len(column.levels))]
        found += [(other_code(column), last + 1, 0.0)] * column.rare
    return found + [(last, last + 1, 0.0)] * column.missing


class NormalScores(nn.Module):
    """float64 (N, M) -> float64 (N, M): the normal score of each value's quantile, interpolated between the knots.

    knots: of each number, at least two that do not fall. Those before a value are counted by bisection, in the same
    number of steps for every value: a graph has no loop that ends early.
    """

    knots: Tensor
    first: Tensor
    last: Tensor

    def __init__(self, knots: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.score = NormalScore()
        self.bits = max(map(len, knots)).bit_length()
        width = 2**self.bits - 1
        padded = [[*each, *[math.inf] * (width - len(each))] for each in knots]
        self.register_buffer("knots", torch.tensor(padded, dtype=torch.float64).view(-1, 1), persistent=False)
        self.register_buffer("first", torch.arange(len(knots)) * width, persistent=False)
        self.register_buffer("last", torch.tensor([len(each) - 1 for each in knots]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """A value that several knots share has a quantile from that of the first to that of the last: the middle."""
        below = (self._count(x, equal=True) - 1).clamp(min=0).minimum(self.last)
        above = self._count(x, equal=False).minimum(self.last)
        next_one, one_before = (below + 1).minimum(self.last), (above - 1).clamp(min=0)
        upper = below + _share(x - self._knot(below), self._knot(next_one) - self._knot(below))
        lower = above - _share(self._knot(above) - x, self._knot(above) - self._knot(one_before))
        scores: Tensor = self.score((lower + upper) / 2 / self.last)
        return scores

    def _count(self, x: Tensor, *, equal: bool) -> Tensor:
        """How many knots are less than the value, or equal to it."""
        count = torch.zeros_like(x, dtype=torch.int64)
        for bit in reversed(range(self.bits)):
            knot = self._knot(count + (2**bit - 1))
            count = torch.where(knot <= x if equal else knot < x, count + 2**bit, count)
        return count

    def _knot(self, place: Tensor) -> Tensor:
        return F.embedding(self.first + place, self.knots)[..., 0]


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, from 0 to 1; 0 of nothing."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 0.0).clamp(0, 1)


class NormalScore(nn.Module):
    """The inverse of the standard normal distribution for float64, from that of 1e-7 to that of 1 - 1e-7 (Wichura 1988,
    AS 241: PPND16 without its outer tails). ONNX has no such operator.

    Its numbers are tensors, because numbers in the code are rounded to float32 on their way to ONNX.
    """

    near: Tensor
    far: Tensor
    bounds: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("near", _NEAR), ("far", _FAR), ("bounds", (_OUTER, 1 - _OUTER, 0.180625, 1.6, 0.425))):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64), persistent=False)

    def forward(self, probability: Tensor) -> Tensor:
        least, most, quarter, shift, outside = self.bounds.unbind()
        p = probability.maximum(least).minimum(most)
        q = p - 0.5
        central = q * _ratio(quarter - q * q, self.near)
        tail = _ratio((-torch.where(q < 0, p, 1 - p).log()).sqrt() - shift, self.far)
        return torch.where(q.abs() <= outside, central, torch.where(q < 0, -tail, tail))


def _ratio(x: Tensor, of: Tensor) -> Tensor:
    """Of two polynomials, (2, K) coefficients from those of the highest power."""
    (first, *above), (beginning, *below) = (each.unbind() for each in of.unbind())
    numerator: Tensor = first
    denominator: Tensor = beginning
    for a, b in zip(above, below, strict=True):
        numerator, denominator = numerator * x + a, denominator * x + b
    return numerator / denominator


_OUTER = 1e-7
_NEAR = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_FAR = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip
