"""Options are keyword-only arguments: read from a signature, checked, converted."""

from typing import Any, Literal

import pytest

from dlcli.core import options
from dlcli.core.errors import ConfigError


class Model:
    def __init__(
        self,
        spec: str,
        *,
        hidden: tuple[int, ...] = (128, 64),
        dropout: float = 0.0,
        activation: Literal["relu", "tanh"] = "relu",
        causal: bool = False,
        limit: int | None = None,
    ) -> None: ...


def loader(folder: str, *, path: str, length: int = 128) -> None: ...


def unannotated(spec, *, width=32, rate=0.5, name="a", flag=False): ...


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("3", int, 3),
        ("-3", int, -3),
        ("1_000", int, 1000),
        (3.0, int, 3),
        ("0.5", float, 0.5),
        ("1e-3", float, 0.001),
        (2, float, 2.0),
        ("true", bool, True),
        ("False", bool, False),
        ("yes", bool, True),
        ("no", bool, False),
        ("0", bool, False),
        (True, bool, True),
        ("text", str, "text"),
        ("tanh", Literal["relu", "tanh"], "tanh"),
        ("full", int | Literal["full"], "full"),
        ("32", int | Literal["full"], 32),
        (None, float | None, None),
        ("0.1", float | None, 0.1),
        ("none", float | None, None),
        ("none", str | None, "none"),
        ("256", tuple[int, ...], (256,)),
        ("256,128", tuple[int, ...], (256, 128)),
        ("[256, 128]", tuple[int, ...], (256, 128)),
        ("(256, 128,)", tuple[int, ...], (256, 128)),
        ("", tuple[int, ...], ()),
        ([256, 128], tuple[int, ...], (256, 128)),
        (256, tuple[int, ...], (256,)),
        ("shift=2, flip", tuple[str, ...], ("shift=2", "flip")),
    ],
)
def test_values_are_converted_to_the_annotation(value: Any, annotation: Any, expected: Any) -> None:
    converted = options.convert(value, annotation, name="x")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("3.5", int, "x = '3.5' is not a whole number"),
        (3.5, int, "x = 3.5 is not a whole number"),
        (float("inf"), int, "x = inf is not a whole number"),
        (True, int, "x = True is not a whole number"),
        (True, float, "x = True is not a number"),
        ("fast", float, "x = 'fast' is not a number"),
        ([1], float, "x = [1] is not a number"),
        (None, float, "x = None is not a number"),
        ("maybe", bool, "x = 'maybe' is not true or false"),
        (2, bool, "x = 2 is not true or false"),
        (5, str, "x = 5 is not text"),
        ("sigmoid", Literal["relu", "tanh"], "x = 'sigmoid' is not one of relu, tanh"),
        ("half", int | Literal["full"], "x = 'half' is not a whole number or one of full"),
        ("a", float | None, "x = 'a' is not a number"),
        ("1,b", tuple[int, ...], "x = '1,b' is not a list of whole numbers"),
        ([1.5], tuple[int, ...], "x = [1.5] is not a list of whole numbers"),
    ],
)
def test_a_wrong_value_is_refused_with_name_value_and_kind(value: Any, annotation: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        options.convert(value, annotation, name="x")
    assert str(caught.value) == message


def test_a_whole_number_beyond_any_float_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^x = 10{400} is not a number$"):
        options.convert(10**400, float, name="x")


def test_defaults_are_the_keyword_only_arguments_in_order() -> None:
    assert list(options.defaults(Model).items()) == [
        ("hidden", (128, 64)),
        ("dropout", 0.0),
        ("activation", "relu"),
        ("causal", False),
        ("limit", None),
    ]
    assert list(options.defaults(loader)) == ["path", "length"]


def test_resolve_spells_out_every_option_of_a_class() -> None:
    resolved = options.resolve(Model, {"hidden": "256", "causal": "yes", "limit": "7"}, where="model")
    assert resolved == {"hidden": (256,), "dropout": 0.0, "activation": "relu", "causal": True, "limit": 7}


def test_resolve_spells_out_every_option_of_a_function() -> None:
    assert options.resolve(loader, {"path": "a.txt"}, where="data") == {"path": "a.txt", "length": 128}


def test_an_option_without_annotation_takes_the_type_of_its_default() -> None:
    resolved = options.resolve(unannotated, {"width": "64", "flag": "true"}, where="model")
    assert resolved == {"width": 64, "rate": 0.5, "name": "a", "flag": True}


@pytest.mark.parametrize(
    ("function", "values", "where", "message"),
    [
        (Model, {"hiden": 3}, "model", "unknown setting model.hiden: did you mean hidden?"),
        (
            Model,
            {"zzz": 3},
            "model",
            "unknown setting model.zzz: known are hidden, dropout, activation, causal, limit",
        ),
        (
            Model,
            {"spec": 3},
            "model",
            "unknown setting model.spec: known are hidden, dropout, activation, causal, limit",
        ),
        (lambda x: None, {"a": 1}, "data", "unknown setting data.a: there are none"),
        (loader, {}, "data", "data.path must be given: --set data.path=VALUE"),
        (loader, {"path": "a", "length": "long"}, "data", "data.length = 'long' is not a whole number"),
    ],
)
def test_resolve_refuses(function: Any, values: dict[str, Any], where: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        options.resolve(function, values, where=where)
    assert str(caught.value) == message
