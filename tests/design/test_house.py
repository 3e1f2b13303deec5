"""The rules of docs/design.md: floors, families, sizes, abstract or final, registries, private imports, cold import.

`KNOWN` lists the places that break a rule today. The lists are exact: a new violation fails, and so does one that was
mended and is still listed.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import encodery
from encodery.base.parts import contract_at, families, find_part, part_names

SOURCE = Path(encodery.__file__).parent
DESIGN = (Path(__file__).resolve().parents[2] / "docs" / "design.md").read_text(encoding="utf-8")
FLOORS = {name: int(floor) for name, floor in re.findall(r"^  (\w+)(?:/|\.py)\s+F(\d+)\s", DESIGN, re.MULTILINE)}
FAMILIES = re.findall(r"^\| `([\w.]+)` \| ", DESIGN.partition("## Families")[2].partition("\n## ")[0], re.MULTILINE)
BANNED_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "other"}
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_CONTRACT_LINES, MAX_ARGUMENTS = 500, 60, 80, 8
# Attributes of torch's tensors that are assigned on purpose and have the name of an attribute of a contract.
TORCH_ATTRIBUTES = {"data", "grad"}

KNOWN: dict[str, set[str]] = {}


def compare(rule: str, violations: set[str]) -> None:
    """Compare the violations of a rule with the known ones, exactly."""
    known = KNOWN.get(rule, set())
    new, mended = sorted(violations - known), sorted(known - violations)
    assert not new, f"{rule}:\n  " + "\n  ".join(new)
    assert not mended, f"no longer a violation; remove it from KNOWN[{rule!r}]:\n  " + "\n  ".join(mended)


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def identify(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


FILES = {dotted(path): path for path in MODULES}


@functools.cache
def imported_names(path: Path) -> frozenset[str]:
    """Return the dotted name of everything that a file imports from the package, anywhere in it."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("encodery"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("encodery")}
    return frozenset(names)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Return every module of the package that a file imports, lazily or not; imports for types count too."""
    return frozenset(name if name in FILES else name.rpartition(".")[0] for name in imported_names(path))


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Yield (qualified name, function, whether it is a method) of all functions of a file."""

    def walk(node: ast.AST, prefix: str, in_class: bool) -> Iterator[tuple[str, ast.FunctionDef, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{child.name}", child, in_class  # type: ignore[misc]
                yield from walk(child, f"{prefix}{child.name}.", False)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.", True)
            else:
                yield from walk(child, prefix, in_class)

    return walk(tree(path), "", False)


def is_command(path: Path, name: str) -> bool:
    """Return whether a function of the command line is a command, whose arguments are options with their help."""
    return path.relative_to(SOURCE).parts[0] == "cli" and not name.startswith("_")


def is_contract_file(path: Path) -> bool:
    bases = (base for node in tree(path).body if isinstance(node, ast.ClassDef) for base in node.bases)
    return path.name == "__init__.py" and any(isinstance(base, ast.Name) and base.id == "Part" for base in bases)


# Classes, resolved over imports.


@functools.cache
def scope(path: Path) -> dict[str, str]:
    """Return name -> dotted name of what the imports and classes of a file bind."""
    names = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ClassDef):
            names[node.name] = f"{dotted(path)}.{node.name}"
    return names


CLASSES = {
    f"{dotted(path)}.{node.name}": (path, node)
    for path in MODULES
    for node in ast.walk(tree(path))
    if isinstance(node, ast.ClassDef)
}


def resolve(path: Path, expression: ast.expr | None) -> str:
    """Return the dotted name of the class that an expression or annotation names, or an empty string."""
    if isinstance(expression, ast.BinOp):  # X | None
        return resolve(path, expression.left) or resolve(path, expression.right)
    if isinstance(expression, ast.Subscript):
        expression = expression.value
    if not isinstance(expression, ast.Name | ast.Attribute):
        return ""
    head, _, rest = ast.unparse(expression).partition(".")
    name = scope(path).get(head, "")
    name = f"{name}.{rest}" if name and rest else name
    for _ in range(3):  # A package may import the class from a module.
        module, _, leaf = name.rpartition(".")
        if name in CLASSES or module not in FILES:
            break
        name = scope(FILES[module]).get(leaf, "")
    return name


BASES = {name: [resolve(path, base) for base in node.bases] for name, (path, node) in CLASSES.items()}


def ancestors(name: str) -> Iterator[str]:
    yield name
    for base in BASES.get(name, ()):
        yield from ancestors(base)


def is_exception(name: str) -> bool:
    bases = (ast.unparse(base) for one in ancestors(name) if one in CLASSES for base in CLASSES[one][1].bases)
    return any(base in ("Exception", "BaseException") or base.endswith(("Error", "Warning")) for base in bases)


def is_abstract(name: str) -> bool:
    """Return whether a class says that it is abstract: a contract, an ABC, a protocol, or one with abstract methods."""
    node = CLASSES[name][1]
    if any(ast.unparse(base).split("[")[0].split(".")[-1] in ("Part", "ABC", "Protocol") for base in node.bases):
        return True
    methods = (member for member in node.body if isinstance(member, ast.FunctionDef))
    return any("abstractmethod" in ast.unparse(decorator) for method in methods for decorator in method.decorator_list)


def defaults(name: str) -> set[str]:
    """Return the attributes that a class declares with a default."""
    body = CLASSES[name][1].body
    annotated = {ast.unparse(node.target) for node in body if isinstance(node, ast.AnnAssign) and node.value}
    return annotated | {ast.unparse(x) for node in body if isinstance(node, ast.Assign) for x in node.targets}


DEFAULTS = {name: defaults(name) for name in CLASSES if is_abstract(name)}


def test_the_tree_of_the_design_is_that_of_the_package() -> None:
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    rooms |= {path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__")}
    assert set(FLOORS) == rooms


def test_the_families_of_the_design_are_those_of_the_package() -> None:
    assert sorted(FAMILIES) == sorted(families())


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_point_down_the_floors(path: Path) -> None:
    module = dotted(path)
    if module in ("encodery", "encodery.__main__"):
        return
    room = module.split(".")[1]
    for target in imports(path):
        other = target.split(".")[1] if "." in target else ""
        if other and other != room:
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


def test_no_private_imports_across_folders() -> None:
    violations = set()
    for path in MODULES:
        package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
        for name in imported_names(path):
            owner, *private = re.split(r"\._(?!_)", name, maxsplit=1)
            if owner in FILES and FILES[owner].name != "__init__.py":
                owner = owner.rpartition(".")[0]
            if private and not f"{package}.".startswith(f"{owner}."):
                violations.add(f"{identify(path)}: {name}")
    compare("private imports across folders", violations)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_files_are_small_and_named_after_what_they_do(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_FILE_LINES, f"{len(lines)} lines"
    assert ast.get_docstring(tree(path)), "a file starts with a docstring"


def test_functions_are_short() -> None:
    violations = set()
    for path in MODULES:
        for name, node, _ in functions(path):
            if (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_FUNCTION_LINES and not is_command(path, name):
                violations.add(f"{identify(path)}: {name}")
    compare(f"functions of more than {MAX_FUNCTION_LINES} lines", violations)


def test_functions_have_few_arguments() -> None:
    violations = set()
    for path in MODULES:
        for name, node, is_method in functions(path):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len(arguments) - (is_method and arguments[:1] != [] and arguments[0].arg in ("self", "cls"))
            if count > MAX_ARGUMENTS and not is_command(path, name):
                violations.add(f"{identify(path)}: {name}")
    compare(f"functions with more than {MAX_ARGUMENTS} arguments", violations)


def test_contract_files_are_short() -> None:
    violations = {
        identify(path)
        for path in MODULES
        if is_contract_file(path) and len(path.read_text(encoding="utf-8").splitlines()) > MAX_CONTRACT_LINES
    }
    compare(f"contract files of more than {MAX_CONTRACT_LINES} lines", violations)


def test_a_class_is_abstract_or_final() -> None:
    called = {resolve(path, n.func) for path in MODULES for n in ast.walk(tree(path)) if isinstance(n, ast.Call)}
    subclassed = {base for bases in BASES.values() for base in bases if base in CLASSES}
    compare(
        "classes that are both instantiated and subclassed",
        {name for name in subclassed & called if not is_exception(name)},
    )


def test_class_names_are_unique() -> None:
    places = defaultdict(list)
    for name in CLASSES:
        module, _, leaf = name.rpartition(".")
        places[leaf].append(module.removeprefix("encodery."))
    duplicates = {f"{name}: {', '.join(sorted(modules))}" for name, modules in places.items() if len(modules) > 1}
    compare("class names that occur more than once", {one for one in duplicates if not one.startswith("_")})


def test_no_flag_of_a_contract_is_set_from_outside() -> None:
    """An assignment to `x.name` is a violation if a contract declares `name` with a default and x may be its object.

    The class of x is known if x is an annotated argument. If it is not known, x counts unless the function made it.
    """
    violations = set()
    for path in MODULES:
        for function, node, _ in functions(path):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            classes = {one.arg: resolve(path, one.annotation) for one in arguments}
            made = {
                ast.unparse(target)
                for inner in ast.walk(node)
                if isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Call)
                for target in inner.targets
            }
            for target in (n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)):
                owner = ast.unparse(target.value)
                if owner in ("self", "cls") or owner in made or target.attr in TORCH_ATTRIBUTES:
                    continue
                known = classes.get(owner, "")
                contracts = set(ancestors(known)) & set(DEFAULTS) if known in CLASSES else set(DEFAULTS)
                if any(target.attr in DEFAULTS[contract] for contract in contracts):
                    violations.add(f"{identify(path)}: {function}: {owner}.{target.attr}")
    compare("attributes of a contract that are set from outside", violations)


def test_the_folder_is_the_registry() -> None:
    violations = {
        f"{identify(path)}: {node.value}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"encodery(\.\w+)*[.:][A-Z]\w*", node.value)
    }
    compare("dotted class paths in strings", violations)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_no_pickle(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "dill", "cloudpickle", "joblib"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            assert node.attr not in ("save", "load"), "torch.save and torch.load use pickle"


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_only_the_machine_reads_the_environment(path: Path) -> None:
    if path.name == "machine.py":
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv"), "only base/machine.py reads the environment"


@pytest.mark.parametrize("family", list(families()))
def test_a_family_defines_one_contract_and_imports_none_of_its_parts(family: str) -> None:
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
    assert params is not None, f"{part.__name__} is not a dataclass"
    assert params.frozen, f"{part.__name__} is not frozen"
    assert "__init__" not in vars(part) or "__dataclass_fields__" in vars(part)
    path = SOURCE / family.replace(".", "/") / (name.replace(".", "/") + ".py")
    siblings = {t for t in imports(path) if t.startswith(f"encodery.{family}.")}
    assert not {t for t in siblings if not t.rsplit(".", 1)[-1].startswith("_")}, f"imports siblings: {siblings}"


def test_cold_import_is_light() -> None:
    code = (
        "import sys; import encodery, encodery.cli.__main__; "
        "heavy = {'torch', 'numpy', 'datatrove', 'transformers', 'matplotlib', 'qdrant_edge'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_package_never_imports_transformers() -> None:
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert not (node.module or "").startswith("transformers"), path
