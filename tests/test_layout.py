"""The layout of the source: which room may import which, and how long files and functions are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("faithfulness_plugin", "adapters", "benchmarks")
FILES = sorted(path for place in PLACES for path in (ROOT / place).rglob("*.py"))

LEVELS = (
    {"layers"},
    {"jacobian"},
    {"transcoders"},
    {"training", "store", "metrics", "toy", "results"},
    {"measure", "inspection", "language_model", "attribution"},
    {"benchmarks"},
    {"cli"},
)
"""A room imports rooms of its own level or below. Files in the package's root belong to no room, and import none."""
TORCH_ONLY = ("layers", "jacobian")
HEAVY = (
    "sae_lens",
    "transformer_lens",
    "transformers",
    "matplotlib",
    "huggingface_hub",
    "datasets",
    "pydantic",
    "typer",
)
LINES, FUNCTION_LINES = 300, 80


def room_of(module: str) -> str | None:
    """Return a module's room: the package right below ours, or None for the root's own files."""
    parts = module.split(".")
    known = {"adapters", *(room for level in LEVELS for room in level)}
    return parts[1] if parts[0] == "faithfulness_plugin" and len(parts) > 1 and parts[1] in known else None


def module_of(path: Path) -> str:
    """Return a file's module, as it is installed."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "faithfulness_plugin" else ("faithfulness_plugin", *parts))


def imports_of(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield each import's line, module and whether it stands in a function; those for type checkers are left out."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[tuple[int, str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((child.lineno, name.name, lazy) for name in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                yield child.lineno, child.module, lazy
                yield from ((child.lineno, f"{child.module}.{name.name}", lazy) for name in child.names)
            yield from walk(child, lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))

    yield from walk(ast.parse(path.read_text()), False)


def edges() -> Iterator[tuple[str, str, bool, str]]:
    """Yield (room, imported room, in a function, place) of every import across rooms."""
    for path in FILES:
        room = room_of(module_of(path))
        for line, module, lazy in imports_of(path):
            other = room_of(module)
            if room and other and room != other:
                yield room, other, lazy, f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_imports_run_one_way():
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    wrong = [place for a, b, _, place in edges() if "adapters" not in (a, b) and level[b] > level[a]]
    assert not wrong, "\n".join(wrong)


def test_rooms_of_one_level_do_not_import_each_other_in_a_circle():
    of = {(a, b): place for a, b, _, place in edges()}
    assert not [f"{of[a, b]}; {of[b, a]}" for a, b in of if a < b and (b, a) in of and "adapters" not in (a, b)]


def test_adapters_are_reached_lazily_and_only_from_above_the_core():
    wrong = [place for a, b, lazy, place in edges() if b == "adapters" and not lazy and a != "benchmarks"]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", TORCH_ONLY)
def test_the_core_knows_torch_only(room):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in FILES
        if room_of(module_of(path)) == room
        for line, module, _ in imports_of(path)
        if module.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_can_be_read_at_once():
    long = []
    for path in FILES:
        text = path.read_text()
        if (n := len(text.splitlines())) > LINES:
            long.append(f"{path.relative_to(ROOT)} has {n} lines, of at most {LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
                n = node.end_lineno - node.lineno + 1
                if n > FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {n} lines of {FUNCTION_LINES}")
    assert not long, "\n".join(long)


def test_every_package_is_found():
    """An install has every folder with modules: one without `__init__.py` would be left out."""
    folders = {path.parent for path in FILES}
    assert not [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]
