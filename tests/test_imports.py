"""The import direction of the design, read from the sources: nothing is imported here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "gan_lab"
FRAMEWORKS = {"pytorch_lightning", "lightning", "lightning_fabric", "hydra", "omegaconf"}
LEAVES = (
    "augment",
    "conditioning",
    "directions",
    "sampling",
    "schedules",
    "health",
    "precision",
    "losses",
    "penalties",
    "streams",
    "ema",
    "constraints",
    "conversions",
    "errors",
    "means",
    "names",
    "optimizers",
    "models",
    "metrics",
    "tolerant",
)
MATHEMATICS = {
    "losses",
    "penalties",
    "models",
    "metrics",
    "optimizers",
    "ema",
    "streams",
    "constraints",
    "conversions",
    "errors",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
EVERY_MODULE = pytest.mark.parametrize("name", MODULES)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _nodes(body: list[ast.stmt], in_functions: bool) -> Iterator[ast.stmt]:
    """Every statement that is run on import, and with `in_functions` every one that may be run later."""
    for node in body:
        if _is_type_checking(node):
            yield from _nodes(node.orelse, in_functions)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if in_functions:
                yield from _nodes(node.body, in_functions)
        else:
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from _nodes(getattr(node, field, []), in_functions)
            for handler in getattr(node, "handlers", []):
                yield from _nodes(handler.body, in_functions)


def imports(name: str, in_functions: bool = True) -> set[str]:
    """The modules that a module imports, dotted; `from a import b` is a.b where that is one of ours, else a."""
    found: set[str] = set()
    for node in _nodes(ast.parse(MODULES[name].read_text()).body, in_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def closure(name: str, in_functions: bool) -> set[str]:
    """All that importing (or using) a module imports, through our own modules and their packages."""
    found, waiting = set(), {name}
    while waiting:
        one = waiting.pop()
        found.add(one)
        if one in MODULES:
            parents = {one.rsplit(".", depth)[0] for depth in range(1, one.count(".") + 1)}
            waiting |= (imports(one, in_functions) | parents) - found
    return found


def part(name: str) -> str:
    """losses of gan_lab.losses, models of gan_lab.models.mlp."""
    return name.split(".")[1] if "." in name else ""


def frameworks(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in FRAMEWORKS}


def test_the_reader_sees_what_it_should(tmp_path, monkeypatch):
    source = tmp_path / "example.py"
    source.write_text(
        "import a.b\nfrom gan_lab import losses, missing\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import types_only\nelse:\n    import otherwise\n"
        "try:\n    import tried\nexcept ImportError:\n    import instead\nfinally:\n    import last\n"
        "class C:\n    import in_class\n    def f(self):\n        if True:\n            import later\n"
        "with open('f') as f:\n    import within\n"
    )
    monkeypatch.setitem(MODULES, "example", source)
    at_once = {"a.b", "gan_lab.losses", "gan_lab", "typing", "otherwise", "tried", "instead", "last", "in_class"}

    assert imports("example", in_functions=False) == at_once | {"within"}
    assert imports("example") == at_once | {"within", "later"}


def test_the_package_is_read():
    for name in (
        "cli",
        "run",
        "config",
        "module",
        "losses",
        "models.mlp",
        "callbacks.base",
        "procedures.noise_to_data",
    ):
        assert f"gan_lab.{name}" in MODULES
    assert "gan_lab.losses" in imports("gan_lab.module")
    assert "pytorch_lightning" in imports("gan_lab.module")


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) in LEAVES])
def test_leaves_import_neither_lightning_nor_hydra_not_even_through_others(name):
    assert frameworks(closure(name, in_functions=True)) == set()


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) in LEAVES])
def test_leaves_import_only_leaves(name):
    ours = {part(other) for other in imports(name) if other.startswith("gan_lab")}

    assert ours <= {*LEAVES, ""}


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) == "procedures"])
def test_procedures_import_only_the_mathematics_below_them(name):
    reached = closure(name, in_functions=True)

    assert {part(other) for other in reached if other.startswith("gan_lab.")} <= {*MATHEMATICS, "procedures"}
    assert frameworks(reached) == set()


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) in ("callbacks", "config", "compose", "cli")])
def test_a_configuration_is_checked_without_waiting_for_lightning(name):
    lightning = {"pytorch_lightning", "lightning", "lightning_fabric"}

    assert not {other for other in closure(name, in_functions=False) if other.split(".")[0] in lightning}


@EVERY_MODULE
def test_only_config_instantiates(name):
    uses = [
        node
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if (isinstance(node, ast.alias) and node.name.split(".")[-1] == "instantiate")
        or (isinstance(node, ast.Attribute) and node.attr == "instantiate")
        or (isinstance(node, ast.Name) and node.id == "instantiate")
    ]

    assert bool(uses) == (name == "gan_lab.config")


@EVERY_MODULE
def test_nothing_imports_the_command_line(name):
    if name != "gan_lab.__main__":
        assert "gan_lab.cli" not in imports(name)


@EVERY_MODULE
def test_imports_point_one_way(name):
    """cli -> run, sample, evaluate -> config -> module -> procedures, data, callbacks -> the rest; never back."""
    levels = (
        {"__main__"},
        {"cli", "helptext"},
        {"plugins"},
        {"sweep"},
        {"report", "reproduce", "evaluate"},
        {"compose"},
        {"run", "sample"},
        {"trained"},
        {"launch"},
        {"config"},
        {"callbacks"},
        {"loggers"},
        {"objectives", "reading"},
        {"evaluation", "module", "record"},
        {"data", "features"},
        {"procedures", "player", "images", "sampling", "files"},
    )
    level = {part: number for number, parts in enumerate(levels) for part in parts}
    lowest = len(levels)
    for other in imports(name):
        if other.startswith("gan_lab.") and part(other) != part(name):
            assert level.get(part(other), lowest) >= level.get(part(name), lowest), f"{name} imports {other}"


def test_no_module_imports_itself_in_a_circle():
    for name in MODULES:
        if name == "gan_lab":
            continue
        for other in imports(name, in_functions=False):
            if other in MODULES and other != "gan_lab":
                assert name not in closure(other, in_functions=False) or other.startswith(f"{name}."), (name, other)


def test_no_class_or_function_below_config_takes_a_cfg():
    """Constructors have plain keyword arguments: their signature is the schema."""
    for name, path in MODULES.items():
        if part(name) in {*MATHEMATICS, "procedures", "callbacks", "data", "module", "player", "loggers"}:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.arg):
                    assert node.arg not in ("cfg", "conf", "config"), f"{name}:{node.lineno}"
