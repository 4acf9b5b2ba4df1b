"""Docstrings: public functions say what they take and return, in sentences, and their examples run."""

import ast
import doctest
import importlib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from faithfulness_plugin.cli import app

ROOT = Path(__file__).resolve().parent.parent
PLACES = ["adapters", "benchmarks", "faithfulness_plugin"]
"""Folders: all public functions there have Args where they take something, and Returns where they return."""
WITH_EXAMPLES = [
    "faithfulness_plugin/jacobian/estimators/*.py",
    "faithfulness_plugin/jacobian/closed_form.py",
    "faithfulness_plugin/jacobian/exact.py",
    "faithfulness_plugin/jacobian/gram.py",
    "faithfulness_plugin/jacobian/masking.py",
    "faithfulness_plugin/jacobian/probes.py",
    "faithfulness_plugin/layers/derivatives.py",
    "faithfulness_plugin/metrics/*.py",
    "faithfulness_plugin/metrics/readability/*.py",
]
"""Files that hold at least one example each, but for base classes."""
ALGEBRA = [
    "benchmarks/note/trainer/architectures.py",
    "benchmarks/note/trainer/objective.py",
    "benchmarks/note/trainer/streams.py",
    "faithfulness_plugin/jacobian/active.py",
    "faithfulness_plugin/jacobian/across_layers.py",
    "faithfulness_plugin/jacobian/closed_form.py",
    "faithfulness_plugin/jacobian/cross_layer_matching.py",
    "faithfulness_plugin/jacobian/cross_layer_region.py",
    "faithfulness_plugin/jacobian/dense_region.py",
    "faithfulness_plugin/jacobian/exact.py",
    "faithfulness_plugin/jacobian/gram.py",
    "faithfulness_plugin/jacobian/linear_region.py",
    "faithfulness_plugin/jacobian/loss_unit.py",
    "faithfulness_plugin/jacobian/matching.py",
    "faithfulness_plugin/jacobian/packed_rows.py",
    "faithfulness_plugin/jacobian/probes.py",
    "faithfulness_plugin/jacobian/sparse_region.py",
    "faithfulness_plugin/layers/comparison.py",
    "faithfulness_plugin/layers/derivatives.py",
    "faithfulness_plugin/layers/layer_weights.py",
    "faithfulness_plugin/layers/mlp_weights.py",
    "faithfulness_plugin/layers/row_differences.py",
    "faithfulness_plugin/transcoders/batch_topk.py",
    "faithfulness_plugin/transcoders/jumprelu.py",
    "faithfulness_plugin/transcoders/topk.py",
    "faithfulness_plugin/transcoders/topk_inference.py",
]
"""Files with algebra on three or more dimensions: comments say the shapes."""
COMMENTS = 5
"""Lines with a comment among a hundred lines of such a file, at least."""
FRAGMENTS = {
    *("of", "by", "as", "for", "from", "in", "with", "to", "where", "which", "what", "whatever", "whether", "those"),
    *("the", "a", "an", "all", "that", "same", "so", "its", "this", "how", "if", "when"),
}
"""Words that begin no docstring of a function: it begins with a verb."""

COMMANDS = {entry.place for table in (app.BENCH, app.COMMANDS) for entry in table.values()} | {f"{app.CLI}.app:options"}
"""Functions whose docstring is the help of a command, where each option has its own."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, public: bool = True) -> Iterator[tuple[Function, bool]]:
    """Yield a module's functions, and whether each is public; without properties, overloads and protocols' stubs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from functions(child, public and not child.name.startswith("_"))
        elif isinstance(child, Function):
            decorators = " ".join(ast.unparse(decorator) for decorator in child.decorator_list)
            if (
                not any(word in decorators for word in ("property", "overload"))
                and "\n".join(map(ast.unparse, child.body)) != "..."
            ):
                yield child, public and not child.name.startswith("_") and "override" not in decorators


def faults(function: Function, public: bool) -> Iterator[str]:
    """Yield what a function's docstring lacks."""
    doc = ast.get_docstring(function) or ""
    if doc and doc.split()[0].lower().strip(",.:") in FRAGMENTS:
        yield f"begins with {doc.split()[0]!r}, and not with a verb"
    if not public:
        return
    args = function.args
    named = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if arg]
    returned = ast.unparse(function.returns) if function.returns else "None"
    if set(named) - {"self", "cls"} and "Args:" not in doc:
        yield "takes arguments, and has no Args section"
    if returned not in ("None", "NoReturn") and "Returns:" not in doc and "Yields:" not in doc:
        yield "returns something, and has no Returns section"


@pytest.mark.parametrize("place", PLACES)
def test_public_functions_say_what_they_take_and_return(place):
    wrong = []
    for file in sorted((ROOT / place).rglob("*.py")):
        for function, public in functions(ast.parse(file.read_text())):
            where = f"{file.relative_to(ROOT)}:{function.lineno} {function.name}"
            command = f"faithfulness_plugin.cli.{file.stem}:{function.name}" in COMMANDS
            wrong += [f"{where} {fault}" for fault in faults(function, public and not command)]
    assert not wrong, "\n".join(wrong)


def modules_with_examples() -> list[str]:
    """List the modules whose docstrings have examples, by their names in an install."""
    found = []
    for place in ("faithfulness_plugin", "adapters", "benchmarks"):
        for file in sorted((ROOT / place).rglob("*.py")):
            if ">>> " in file.read_text():
                parts = file.relative_to(ROOT).with_suffix("").parts
                found.append(".".join(parts if place == "faithfulness_plugin" else ("faithfulness_plugin", *parts)))
    return found


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("pattern", WITH_EXAMPLES)
def test_files_with_formulas_have_examples(pattern):
    files = [file for file in ROOT.glob(pattern) if file.name not in ("__init__.py", "base.py", "result.py")]
    assert files
    assert not [str(file.relative_to(ROOT)) for file in files if ">>> " not in file.read_text()]


@pytest.mark.parametrize("path", ALGEBRA)
def test_files_with_algebra_have_comments(path):
    text = (ROOT / path).read_text()
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    lines = {t.start[0] for t in tokens if "pyright:" not in t.string and "noqa" not in t.string}
    assert len(lines) >= COMMENTS / 100 * len(text.splitlines())
