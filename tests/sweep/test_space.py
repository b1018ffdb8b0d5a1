"""The override syntax as parameters, conditions, grids and override texts."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from gan_lab.errors import ConfigError
from gan_lab.sweep.space import Parameter, grid, holds, overrides_of, parse_space, text_of, value_of


def parameters_of(*texts: str, **more: Any) -> list[Parameter]:
    return parse_space(texts, **more)[1]


def problems_of(*texts: str, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_space(texts, **more)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss=vanilla,hinge", {"key": "loss", "values": ("vanilla", "hinge")}),
        ("loss=choice(vanilla,hinge)", {"key": "loss", "values": ("vanilla", "hinge")}),
        ("seed=3,1,2", {"key": "seed", "values": ("3", "1", "2")}),
        ("seed=sort(3,1,2)", {"key": "seed", "values": ("1", "2", "3")}),
        ("seed=sort(3,1,2,reverse=true)", {"key": "seed", "values": ("3", "2", "1")}),
        ("x=int(choice(1.0,2.5))", {"key": "x", "values": ("1", "2")}),
        ("x=null,true,1e-3,'a b'", {"key": "x", "values": ("null", "True", "0.001", "'a b'")}),
        ("x=[0.0,0.9],[0.5,0.999]", {"key": "x", "values": ("[0.0,0.9]", "[0.5,0.999]")}),
        ("++x.y=1,2", {"key": "x.y", "values": ("1", "2"), "prefix": "++"}),
        ("+x=1,2", {"key": "x", "values": ("1", "2"), "prefix": "+"}),
        ("optimizer@one=adam,ttur", {"key": "optimizer@one", "values": ("adam", "ttur")}),
        ("x=range(1,5)", {"key": "x", "low": 1, "high": 4, "step": 1, "integer": True}),
        ("x=range(4)", {"key": "x", "low": 0, "high": 3, "step": 1, "integer": True}),
        ("x=range(1,10,3)", {"key": "x", "low": 1, "high": 7, "step": 3, "integer": True}),
        ("x=range(10,0,-3)", {"key": "x", "low": 1, "high": 10, "step": -3, "integer": True}),
        ("x=sort(range(1,5),reverse=true)", {"key": "x", "low": 1, "high": 4, "step": -1, "integer": True}),
        ("x=range(0,1,0.1)", {"key": "x", "low": 0.0, "high": 0.9, "step": 0.1}),
        ("x=range(0.5,2)", {"key": "x", "low": 0.5, "high": 1.5, "step": 1.0}),
        ("x=float(range(1,4))", {"key": "x", "low": 1.0, "high": 3.0, "step": 1.0}),
        ("x=range(1,1.25)", {"key": "x", "low": 1.0, "high": 1.0, "step": 1.0}),
        ("x=interval(1,2)", {"key": "x", "low": 1.0, "high": 2.0}),
        ("x=interval(-1e-2,2)", {"key": "x", "low": -0.01, "high": 2.0}),
        ("x=tag(log,interval(1e-5,1e-3))", {"key": "x", "low": 1e-5, "high": 1e-3, "log": True}),
        ("x=int(interval(1,8))", {"key": "x", "low": 1, "high": 8, "integer": True}),
        ("x=int(tag(log,interval(1,8)))", {"key": "x", "low": 1, "high": 8, "integer": True, "log": True}),
        ("x=tag(log,int(interval(1,8)))", {"key": "x", "low": 1, "high": 8, "integer": True, "log": True}),
    ],
)
def test_syntax(text: str, expected: dict[str, Any]) -> None:
    fixed, (parameter,) = parse_space([text])
    assert fixed == []
    assert parameter == Parameter(**expected)
    for name in ("low", "high", "step"):
        assert type(getattr(parameter, name)) is type(expected.get(name))


@pytest.mark.parametrize("text", ["seed=1", "loss=hinge", "optimizer.betas=[0.0,0.9]", "~penalty", "+x='a,b'", "x="])
def test_one_value_is_no_parameter(text: str) -> None:
    assert parse_space([text]) == ([text], [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("loss=glob(*)", "loss=glob(*): glob() is not understood; name the values: loss=a,b,c"),
        ("x=interval(2,1)", "x=interval(2,1): the first end must be below the second"),
        ("x=interval(1,1)", "x=interval(1,1): the first end must be below the second"),
        ("x=tag(log,interval(0,1))", "x=tag(log,interval(0,1)): on a log scale the ends must be above 0"),
        ("x=tag(lgo,interval(1,2))", "x=tag(lgo,interval(1,2)): unknown tag lgo; the only one is log, of intervals"),
        ("x=tag(log,range(1,9))", "x=tag(log,range(1,9)): tag(log, ...) is for intervals: x=tag(log,interval(a,b))"),
        ("x=tag(log,choice(1,9))", "x=tag(log,choice(1,9)): tag(log, ...) is for intervals: x=tag(log,interval(a,b))"),
        ("x=range(5,1)", "x=range(5,1): the range is empty"),
        ("x=range(1,5,-1)", "x=range(1,5,-1): the range is empty"),
        ("x=range(1,5,0)", "x=range(1,5,0): the step must not be 0"),
        ("seed=1,2,1", "seed=1,2,1 names 1 twice"),
        (
            "hydra.sweep.dir=a,b",
            "hydra.sweep.dir=a,b: settings of Hydra are those of the whole sweep; give one value",
        ),
        ("hydra/launcher=a,b", "hydra/launcher=a,b: settings of Hydra are those of the whole sweep; give one value"),
        ("seed", "seed: expected key=value"),
    ],
)
def test_nonsense(text: str, problem: str) -> None:
    assert problems_of(text) == [problem]


def test_everything_wrong_is_said_at_once() -> None:
    problems = problems_of("x=range(5,1)", "loss=a,b", "y=interval(2,1)", params={"z": "1,1"}, when={"loss": "los=1"})
    assert [problem.split(":")[0].split(" ")[0] for problem in problems] == [
        "z=1,1",
        "x=range(5,1)",
        "y=interval(2,1)",
        "when.loss=los=1",
    ]


# ---------------------------------------------------------------------- params and the command line


def test_params_are_the_same_syntax() -> None:
    params = {"optimizer.lr": "tag(log,interval(1e-5,1e-3))", "seed": 3, "penalty": None, "debug": True, "x": [1, 2]}
    fixed, parameters = parse_space(["loss=a,b"], params)
    assert fixed == ["seed=3", "penalty=null", "debug=true", "x=[1, 2]"]
    assert parameters == [
        Parameter("optimizer.lr", low=1e-5, high=1e-3, log=True),
        Parameter("loss", ("a", "b")),
    ]


def test_params_may_be_nested() -> None:
    assert parse_space([], {"optimizer": {"lr": "1,2", "generator": {"lr": 3}}}) == (
        ["optimizer.generator.lr=3"],
        [Parameter("optimizer.lr", ("1", "2"))],
    )


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_the_command_line_takes_the_place_of_params(prefix: str) -> None:
    params = {"a": "1,2", "b": "interval(0,1)", "c": "1"}
    fixed, parameters = parse_space([f"{prefix}b=5", f"{prefix}c=7,8", "a=3,4"], params)
    assert fixed == [f"{prefix}b=5"]
    assert parameters == [Parameter("a", ("3", "4")), Parameter("c", ("7", "8"), prefix=prefix)]


def test_the_last_of_two_with_the_same_key_counts() -> None:
    assert parse_space(["seed=1,2", "seed=3"]) == (["seed=3"], [])


# ---------------------------------------------------------------------- conditions

WEIGHT = {"loss.penalty.weight": "interval(0,1)"}
WHEN = {"loss.penalty.weight": "loss=wgan_gp"}


def test_a_condition_is_kept_with_its_parameter_behind_what_it_names() -> None:
    assert parameters_of("loss=vanilla,wgan_gp", params=WEIGHT, when=WHEN) == [
        Parameter("loss", ("vanilla", "wgan_gp")),
        Parameter("loss.penalty.weight", low=0.0, high=1.0, when=("loss=wgan_gp",)),
    ]


@pytest.mark.parametrize(
    ("conditions", "chosen", "expected"),
    [
        (("loss=a",), {"loss": "a"}, True),
        (("loss=a",), {"loss": "b"}, False),
        (("loss=a",), {}, False),  # a parameter that the trial has not
        (("loss=a,b",), {"loss": "b"}, True),
        (("loss=a", "n=1"), {"loss": "a", "n": "1"}, True),
        (("loss=a", "n=1"), {"loss": "a", "n": "2"}, False),
        (("n=1",), {"n": 1}, True),
        (("n=1",), {"n": "1.0"}, True),
        (("n=1",), {"n": "true"}, False),
        (("x='a b'",), {"x": '"a b"'}, True),
        (("x=null",), {"x": "null"}, True),
        (("x=[1,2]",), {"x": "[1, 2]"}, True),
        ((), {}, True),
    ],
)
def test_holds(conditions: tuple[str, ...], chosen: dict[str, Any], expected: bool) -> None:
    assert holds(Parameter("key", ("1", "2"), when=conditions), chosen) is expected


def test_a_condition_on_a_fixed_key_is_decided_at_once() -> None:
    weight = Parameter("loss.penalty.weight", low=0.0, high=1.0)
    assert parse_space(["loss=hinge"], WEIGHT, WHEN) == (["loss=hinge"], [])
    assert parse_space(["loss=wgan_gp"], WEIGHT, WHEN) == (["loss=wgan_gp"], [weight])
    fixed, parameters = parse_space(["loss=hinge", "a=1,2", "b=3"], WEIGHT, WHEN | {"a": "loss=vanilla", "b": "a=1"})
    assert (fixed, parameters) == (["loss=hinge"], [])


def test_a_fixed_key_with_a_condition_is_set_only_where_it_holds() -> None:
    texts = ["loss=vanilla,wgan_gp", "++loss.penalty.weight=5"]
    fixed, parameters = parse_space(texts, WEIGHT, WHEN)
    assert fixed == []
    assert parameters[1] == Parameter("loss.penalty.weight", ("5",), when=("loss=wgan_gp",), prefix="++")
    assert grid(parameters) == [{"loss": "vanilla"}, {"loss": "wgan_gp", "loss.penalty.weight": "5"}]
    assert parse_space(["loss=wgan_gp", "loss.penalty.weight=5"], WEIGHT, WHEN)[0] == [
        "loss=wgan_gp",
        "loss.penalty.weight=5",
    ]


def test_conditions_of_conditions() -> None:
    when = {"c": ["b=1", "a=x"], "b": "a=x"}
    parameters = parameters_of("c=range(2)", "b=1,2", "a=x,y", when=when)
    assert [one.key for one in parameters] == ["a", "b", "c"]
    assert [tuple(one.items()) for one in grid(parameters)] == [
        (("a", "x"), ("b", "1"), ("c", "0")),
        (("a", "x"), ("b", "1"), ("c", "1")),
        (("a", "x"), ("b", "2")),
        (("a", "y"),),
    ]


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ({"a": "los=b"}, "when.a=los=b: los is neither searched nor set; did you mean loss?"),
        ({"a": "a=1"}, "when.a=a=1: a is neither searched nor set; known: loss, x, n, m, f"),
        ({"qqq": "loss=b"}, "when.qqq: qqq is neither searched nor set; known: loss, a, x, n, m, f"),
        ({"a": "loss=hing"}, "when.a=loss=hing: loss is never hing; did you mean hinge?"),
        ({"a": ["loss=hinge", "n=7"]}, "when.a=n=7: n is never 7; known: 1, 2, 3, 4"),
        ({"a": "m=9"}, "when.a=m=9: m is never 9; it is searched between 1 and 8"),
        ({"a": "m=1.5"}, "when.a=m=1.5: m is never 1.5; it is searched between 1 and 8"),
        ({"a": "x=0.5"}, "when.a=x=0.5: x is searched in an interval, and a condition names values"),
        ({"a": "x=interval(0,1)"}, "when.a: x=interval(0,1): expected key=value or key=value,value"),
        ({"a": "~loss"}, "when.a: ~loss: expected key=value or key=value,value"),
        ({"a": "loss=glob(*)"}, "when.a: loss=glob(*): glob() is not understood; name the values"),
        ({"a": "loss"}, "when.a: loss: expected key=value"),
        ({"a": "n=1", "n": "a=1"}, "when: a and n depend on each other"),
    ],
)
def test_wrong_conditions(when: dict[str, Any], problem: str) -> None:
    texts = ["loss=vanilla,hinge", "a=1,2", "x=interval(0,1)", "n=range(1,5)", "m=int(interval(1,8))", "f=1"]
    assert problems_of(*texts, when=when) == [problem]


# ---------------------------------------------------------------------- grids


def hydras_own(texts: Sequence[str]) -> list[list[str]]:
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(list(texts)), None)
    return batch


@pytest.mark.parametrize(
    "texts",
    [
        ["a=1,2", "b=x,y,z", "c=true,false"],
        ["a=range(3)", "b=range(10,0,-4)", "c=sort(3,1,2)"],
        ["a=[1,2],[3]", "+b='x y',z", "++c.d=null,1e-3"],
        ["a=1,2", "b=3,4", "a=5,6"],
        ["seed=1,2"],
    ],
)
def test_grid_is_in_the_order_of_hydras_own_sweeper(texts: list[str]) -> None:
    parameters = parameters_of(*texts)
    assert [overrides_of(parameters, one) for one in grid(parameters)] == hydras_own(texts)


def test_grid_of_decimal_steps_has_decimal_values() -> None:
    (parameter,) = parameters_of("x=range(0,1,0.1)")
    assert parameter.texts() == ("0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")
    (parameter,) = parameters_of("x=range(1,0,-0.25)")
    assert parameter.texts() == ("1.0", "0.75", "0.5", "0.25")


def test_shuffled_values_are_in_the_same_order_each_time() -> None:
    text = "seed=shuffle(range(20))"
    (first,), (again,) = parameters_of(text), parameters_of(text)
    assert first == again
    assert first.values is not None
    assert sorted(map(int, first.values)) == list(range(20))
    assert list(map(int, first.values)) != list(range(20))


def test_grid_of_nothing_is_one_run() -> None:
    assert grid([]) == [{}]


def test_grid_leaves_out_what_does_not_hold_and_each_combination_is_there_once() -> None:
    parameters = parameters_of("loss=a,b", "w=1,2", "seed=1,2", when={"w": "loss=b"})
    assert [overrides_of(parameters, one) for one in grid(parameters)] == [
        ["loss=a", "seed=1"],
        ["loss=a", "seed=2"],
        ["loss=b", "w=1", "seed=1"],
        ["loss=b", "w=1", "seed=2"],
        ["loss=b", "w=2", "seed=1"],
        ["loss=b", "w=2", "seed=2"],
    ]


def test_grid_refuses_intervals() -> None:
    with pytest.raises(ConfigError) as caught:
        grid(parameters_of("a=interval(0,1)", "b=1,2", "+c=int(interval(1,8))"))
    assert caught.value.problems == [
        "a=interval(0.0,1.0): a grid has values, not intervals; name them (a=a,b,c), or search the interval with "
        "hydra/sweeper=optuna",
        "+c=interval(1,8): a grid has values, not intervals; name them (c=a,b,c), or search the interval with "
        "hydra/sweeper=optuna",
    ]


# ---------------------------------------------------------------------- override texts


def test_overrides_of_numbers_are_read_back_exactly() -> None:
    parameters = parameters_of("++lr=interval(0,1)", "n=range(9)", "loss=a,b", "flag=true,false")
    for lr, n in itertools.product([1e-05, 0.1, 1 / 3, 1e-300], [0, 8]):
        texts = overrides_of(parameters, {"n": n, "lr": lr, "loss": "b", "flag": True})
        assert texts == [f"++lr={lr!r}", f"n={n}", "loss=b", "flag=true"]
        values = [override.value() for override in OverridesParser.create().parse_overrides(texts)]
        assert values == [lr, n, "b", True]
        assert [type(value) for value in values] == [float, int, str, bool]


def test_overrides_of_leaves_out_what_does_not_hold() -> None:
    parameters = parameters_of("loss=a,b", "w=1,2", when={"w": "loss=b"})
    assert overrides_of(parameters, {"loss": "a", "w": "1"}) == ["loss=a"]
    assert overrides_of(parameters, {"loss": "b", "w": "1"}) == ["loss=b", "w=1"]
    assert overrides_of(parameters, {"loss": "b"}) == ["loss=b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (3, "3"), (1e-05, "1e-05"), ("a", "a"), ([1, 2], "[1, 2]")],
)
def test_text_of_and_back(value: Any, text: str) -> None:
    assert text_of(value) == text
    assert value_of(text) == value
