"""The engine's modules form layers: each imports only from lower layers."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import svd_engine

PACKAGE = Path(svd_engine.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
# Modules that the command line and the farm import without loading heavy libraries.
PURE = {
    "arguments",
    "call_sites",
    "config",
    "deviation_catalogue",
    "nearest",
    "params",
    "reader",
    "sizes",
    "tiers",
    "values",
    "variants",
}


def imports(source: str) -> Iterator[str]:
    """The engine's modules that a source imports, at the top or in functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in (node.module, *inside) if name in MODULES)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def floors(graph: dict[str, set[str]]) -> list[str]:
    return list(TopologicalSorter(graph).static_order())


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: set(imports(path.read_text())) for name, path in MODULES.items()}
    assert set(floors(graph)) == set(MODULES)
    below = "svd_engine.deviation_catalogue", "svd_engine.conformance.diagnose"
    with pytest.raises(CycleError):
        floors({**graph, below[0]: {below[1]}})


def test_a_package_above_is_imported_by_none_below() -> None:
    """`conformance` and `bench` measure the engine; only the command line may import them."""
    commands = {"svd_engine.__main__", "svd_engine.memory_table"}
    for name, path in MODULES.items():
        for package in ("svd_engine.conformance.", "svd_engine.bench."):
            if not name.startswith(package) and name not in commands:
                above = {other for other in imports(path.read_text()) if other.startswith(package)}
                assert not above, name


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_pure_modules(name: str) -> None:
    source = MODULES[f"svd_engine.{name}"].read_text()
    assert set(imports(source)) <= {f"svd_engine.{other}" for other in PURE}
    assert "torch" not in outside(source)


def outside(source: str) -> Iterator[str]:
    """The top-level names of the packages that a source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
