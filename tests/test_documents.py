"""Checks of documents, and their error messages."""

import pytest

from dlcli.core import documents
from dlcli.core.documents import COUNT, FLAG, NUMBER, NUMBERS, TABLE, TEXT, TIME, WHOLE, Kind, check, list_of, optional


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (TEXT, ["", "a"], [None, 1, [], b"a"]),
        (FLAG, [True, False], [0, 1, None, "true"]),
        (TABLE, [{}, {"a": 1}], [[], None, "a"]),
        (NUMBER, [0, -1.5, 2**60], [True, None, "1", float("nan"), float("inf"), [1]]),
        (NUMBERS, [{}, {"a": 1}], [{"a": None}, [1], None]),
        (WHOLE, [0, 5], [-1, 1.0, True, None, "1"]),
        (COUNT, [1, 5], [0, 1.0, True]),
        (
            TIME,
            ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00+02:00"],
            ["2026-01-31", "2026-01-31T12:00:00", "x", 5, None],
        ),
        (optional(WHOLE), [None, 0], [-1, "x"]),
        (list_of(COUNT), [[], [1, 2]], [[0], [1, None], {}, "12", None]),
    ],
    ids=lambda value: value.words if isinstance(value, Kind) else "",
)
def test_kinds(kind: Kind, right: list[object], wrong: list[object]) -> None:
    assert all(kind.holds(value) for value in right)
    assert not any(kind.holds(value) for value in wrong)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "it is not a table"),
        (None, "it is not a table"),
        ({"a": 1}, "it has no b"),
        ({"a": -1, "b": "x"}, "a = -1 is not a whole number of at least 0"),
        ({"a": 1, "b": 7}, "b = 7 is not text, or null"),
        ({"a": "x" * 1000, "b": ""}, "a = '" + "x" * 79 + "... is not a whole number of at least 0"),
    ],
)
def test_the_first_fault_is_named(document: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(document, {"a": WHOLE, "b": optional(TEXT)}, needed=True)
    assert str(caught.value) == message


def test_what_need_not_be_there_may_be_missing_and_what_is_unknown_is_left() -> None:
    check({"other": object()}, {"a": WHOLE})
    check({"a": 1, "b": None, "c": 5}, {"a": WHOLE, "b": optional(TEXT)}, needed=True)


def test_the_best_evaluation_has_its_kinds() -> None:
    best = {"metric": "val/accuracy", "value": 0.5, "higher_is_better": True, "epoch": 1, "step": 2}
    check(best, documents.BEST, needed=True)
    with pytest.raises(ValueError, match="^value = 'x' is not a finite number, or null$"):
        check(best | {"value": "x"}, documents.BEST)
