"""Every test that compares bit by bit says, with a marker, on what that relies."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MARKERS = ("pytest.mark.bitwise", "pytest.mark.exact")


def _says_why(test: ast.FunctionDef) -> bool:
    return any(
        isinstance(mark, ast.Call) and ast.unparse(mark.func) in MARKERS and mark.args for mark in test.decorator_list
    )


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_that_compare_bit_by_bit_say_on_what_they_rely(path):
    tests = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    for test in tests:
        compares = any(ast.unparse(node) == "torch.equal" for node in ast.walk(test) if isinstance(node, ast.Attribute))
        assert not (test.name.startswith("test_") and compares) or _says_why(test), test.name
