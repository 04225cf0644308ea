"""Which tensor of a file belongs to which of a model: by name, without a prefix, at last by order and shape."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]

# What programs put before the names of a model: DataParallel, torch.compile, Lightning, detectors, feature extractors.
_PREFIX = re.compile(r"^(module|_orig_mod|model|backbone|features)\.")

# Names in published files of torchvision that its models no longer have, and their names now.
_OLD_NAMES = (
    (re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)"), r"\1\2"),
    (re.compile(r"(.*\.mlp)\.linear_1\.(.*)"), r"\1.0.\2"),
    (re.compile(r"(.*\.mlp)\.linear_2\.(.*)"), r"\1.3.\2"),
)

# Counts that old files do not have.
_COUNTS = "num_batches_tracked"

BY_ORDER = "in order and by shape, since the names differ"


@dataclass(frozen=True)
class Matched:
    """pairs: name in the model -> name in the file, of the same or another shape. how: in words."""

    pairs: Mapping[str, str]
    how: str


def match(own: Mapping[str, Shape], found: Mapping[str, Shape], *, head: Iterable[str] = ()) -> Matched:
    """The tensors of a model with those of a file that belong to them. Both are in the order of the model.

    Equal names come first, then names that are equal without their prefixes, such as `module.`, where only one of each
    is. If fewer than half of the values are found so, and the shapes of the whole file are those of the model, one
    after the other, from its start or without its `head` (names), they are taken in this order.
    """
    pairs = {name: name for name in own if name in found}
    prefixes = _by_plain_name(own, found, pairs)
    if 2 * _same(own, found, pairs) < _values(own, own):
        ordered = _in_order(own, found) or _in_order({n: s for n, s in own.items() if n not in set(head)}, found)
        if ordered and _same(own, found, ordered) > _same(own, found, pairs):
            return Matched(ordered, BY_ORDER)
    told = f", without {' and '.join(sorted(prefixes))}" if prefixes else ""
    return Matched({name: pairs[name] for name in own if name in pairs}, f"by name{told}")


def _by_plain_name(own: Mapping[str, Shape], found: Mapping[str, Shape], pairs: dict[str, str]) -> set[str]:
    """Add to `pairs` the names that are equal without their prefixes; the prefixes."""
    taken = set(pairs.values())
    ours = {name: _plain(name) for name in own if name not in pairs}
    theirs = {name: _plain(name) for name in found if name not in taken}
    counts = Counter(ours.values()), Counter(theirs.values())
    by_plain = {plain: name for name, plain in theirs.items()}
    prefixes = set()
    for name, plain in ours.items():
        if counts[0][plain] == counts[1][plain] == 1:
            pairs[name] = by_plain[plain]
            prefixes |= {text for text in (_prefix(name), _prefix(by_plain[plain])) if text}
    return prefixes


def _plain(name: str) -> str:
    name = name[len(_prefix(name)) :]
    for old, new in _OLD_NAMES:
        if old.fullmatch(name):
            return old.sub(new, name)
    return name


def _prefix(name: str) -> str:
    """`module.model.` of module.model.conv.weight."""
    rest = name
    while (begins := _PREFIX.match(rest)) is not None:
        rest = rest[begins.end() :]
    return name[: len(name) - len(rest)]


def _in_order(own: Mapping[str, Shape], found: Mapping[str, Shape]) -> dict[str, str]:
    """The pairs in order if all of the file are alike to the model's, from the first on; else none."""
    ours = [name for name in own if not name.endswith(_COUNTS)]
    theirs = [name for name in found if not name.endswith(_COUNTS)]
    if not 2 <= len(theirs) <= len(ours):
        return {}
    pairs = dict(zip(ours, theirs, strict=False))
    alike = all(own[a] == found[b] and _last(a) == _last(b) for a, b in pairs.items())
    counts = [[name for name in names if name.endswith(_COUNTS)] for names in (own, found)]
    if alike and len(counts[1]) <= len(counts[0]):
        pairs |= dict(zip(*counts, strict=False))
    return pairs if alike else {}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _same(own: Mapping[str, Shape], found: Mapping[str, Shape], pairs: Mapping[str, str]) -> int:
    """Values of the tensors whose shapes agree."""
    return _values(own, (a for a, b in pairs.items() if own[a] == found[b]))


def _values(shapes: Mapping[str, Shape], names: Iterable[str]) -> int:
    return sum(math.prod(shapes[name]) for name in names)
