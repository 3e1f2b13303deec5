"""The rules of the house, enforced: floors, cycles, sizes, one part a file, names, cold import, recipes."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import encodery
from encodery.base.parts import contract_at, families, find_part, part_names

SOURCE = Path(encodery.__file__).parent
FLOORS = {
    "base": 0,
    "rows": 1,
    "metrics": 1,
    "corpus": 1,
    "tokens": 2,
    "corrupt": 3,
    "model": 3,
    "objectives": 4,
    "adapt": 4,
    "surgery": 4,
    "merging": 4,
    "runtimes": 4,
    "train": 5,
    "finetune": 6,
    "embed": 6,
    "compress": 6,
    "generate": 6,
    "export": 7,
    "search": 7,
    "evaluate": 8,
    "library": 9,
    "serve": 9,
    "demo": 10,
    "cli": 11,
    "checks": 11,
}
BANNED_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "other"}
MODULES = sorted(SOURCE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every module of the package that the file imports, lazily or not (typing-only imports count too)."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("encodery"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in KNOWN else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("encodery")}
    return frozenset(found)


KNOWN = {dotted(path) for path in MODULES}


def floor(module: str) -> int | None:
    room = module.split(".")[1] if "." in module else ""
    return FLOORS.get(room)


def identify(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_point_down_the_floors(path: Path) -> None:
    module = dotted(path)
    if module in ("encodery", "encodery.__main__"):
        return
    room = module.split(".")[1]
    assert room in FLOORS, f"'{room}' is no room of the house"
    for target in imports(path):
        other = target.split(".")[1] if "." in target else ""
        if other and other != room:
            assert floor(target) is not None, f"{module} imports {target}, which lies on no floor"
            assert FLOORS[other] < FLOORS[room], f"{module} (F{FLOORS[room]}) imports {target} (F{FLOORS[other]})"


def test_no_cycles_even_counting_lazy_imports() -> None:
    graph = {dotted(path): {t for t in imports(path) if t != dotted(path)} for path in MODULES}
    state: dict[str, int] = {}

    def visit(node: str, trail: tuple[str, ...]) -> None:
        if state.get(node) == 2 or node not in graph:
            return
        assert state.get(node) != 1, f"cycle: {' -> '.join((*trail, node))}"
        state[node] = 1
        for target in sorted(graph[node]):
            visit(target, (*trail, node))
        state[node] = 2

    for node in sorted(graph):
        visit(node, ())


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_files_and_functions_stay_small_and_named(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 500, f"{len(lines)} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The options of a verb are its help; only what it does is counted.
            start = node.body[0].lineno if "cli" in path.parts and node.name == "command" else node.lineno
            length = (node.end_lineno or start) - start + 1
            assert length <= 80, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_every_file_says_what_it_does(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "a file opens with a docstring"


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_no_pickle(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "dill", "cloudpickle", "joblib"} & {name.split(".")[0] for name in named}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            assert node.attr not in ("save", "load"), "torch.save and torch.load are pickle"


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_only_the_machine_reads_the_environment(path: Path) -> None:
    if path.name == "machine.py":
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv"), "only base/machine.py reads the environment"


@pytest.mark.parametrize("family", list(families()))
def test_a_family_states_one_contract_and_imports_none_of_its_parts(family: str) -> None:
    contract = contract_at(family)
    assert contract.__doc__
    init = SOURCE / family.replace(".", "/") / "__init__.py"
    inside = {t for t in imports(init) if t.startswith(f"encodery.{family}.")}
    assert not {t for t in inside if not t.rsplit(".", 1)[-1].startswith("_")}, f"imports its parts: {inside}"


ALL_PARTS = [(family, name) for family in families() for name in part_names(contract_at(family))]


@pytest.mark.parametrize(("family", "name"), ALL_PARTS)
def test_a_part_is_a_frozen_dataclass_alone_in_its_file(family: str, name: str) -> None:
    part = find_part(contract_at(family), name)
    params = getattr(part, "__dataclass_params__", None)
    assert params is not None, f"{part.__name__} is no dataclass"
    assert params.frozen, f"{part.__name__} is not frozen"
    assert "__init__" not in vars(part) or "__dataclass_fields__" in vars(part)
    path = SOURCE / family.replace(".", "/") / (name.replace(".", "/") + ".py")
    siblings = {t for t in imports(path) if t.startswith(f"encodery.{family}.")}
    assert not {t for t in siblings if not t.rsplit(".", 1)[-1].startswith("_")}, f"imports siblings: {siblings}"


def test_cold_import_is_light() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import encodery, encodery.cli.__main__; "
        "heavy = {'torch', 'numpy', 'datatrove', 'transformers', 'matplotlib', 'qdrant_edge'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_core_never_imports_transformers() -> None:
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert not (node.module or "").startswith("transformers"), path
