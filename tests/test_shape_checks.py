"""The quick checks find what jaxtyping's own find, whatever has passed before."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Int, TypeCheckError
from shape_checks import LONGEST, quick
from torch import Tensor

checked = quick(typechecker=beartype)


@checked
def transposed(
    x: Float[Tensor, "a b"], y: Float[Tensor, "b c"], give: Callable[[Tensor], Any] = lambda x: x.T
) -> Float[Tensor, "b a"]:
    return give(x)


@pytest.fixture(autouse=True)
def _passed_before() -> None:
    transposed(torch.ones(2, 3), torch.ones(3, 4))
    transposed(torch.ones(2, 2), torch.ones(2, 2))
    transposed(torch.ones(2, 3), y=torch.ones(3, 4))


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize(
    "y",
    [torch.ones(2, 4), torch.ones(3), torch.ones(3, 4, dtype=torch.long), torch.ones(3, 4).numpy(), [1.0], None],
    ids=["another width", "a vector", "whole numbers", "numpy", "a list", "None"],
)
def test_a_wrong_argument(y, keyword):
    with pytest.raises(TypeCheckError, match="the parameters of"):
        transposed(torch.ones(2, 3), y=y) if keyword else transposed(torch.ones(2, 3), y)


@pytest.mark.parametrize("give", [lambda x: x, lambda x: None, lambda x: x.T.long(), lambda x: x.T[:1]])
def test_a_wrong_outcome_of_a_call_that_has_passed(give):
    called = []
    for _ in range(2):
        transposed(torch.ones(2, 3), torch.ones(3, 4), lambda x: x.T)
        with pytest.raises(TypeCheckError, match="the return value of"):
            transposed(torch.ones(2, 3), torch.ones(3, 4), lambda x: called.append(1) or give(x))
    assert called == [1, 1]


@pytest.mark.parametrize("n", [2, LONGEST + 1])
def test_what_is_in_collections(n):
    @checked
    def total(parts: tuple[Float[Tensor, "n"], ...], named: dict[str, Float[Tensor, "n"]]) -> float:
        return float(sum(part.sum() for part in (*parts, *named.values())))

    good = torch.ones(n, 3)
    for _ in range(2):
        assert total(tuple(good), {"one": good[0]}) == 3 * n + 3
        # the check looks at one random item of each call
        with pytest.raises(TypeCheckError):  # noqa: PT012
            for _ in range(200):
                total((*good[1:], torch.ones(3).long()), {"one": good[0]})
        with pytest.raises(TypeCheckError):
            total(tuple(good), {"one": torch.ones(4)})
        with pytest.raises(TypeCheckError):
            total(list(good), {"one": good[0]})  # pyright: ignore[reportArgumentType]


def test_an_outcome_that_is_checked_at_every_call():
    @checked
    def parts(give: Callable[[], Any]) -> tuple[Float[Tensor, "2"], ...]:
        return give()

    parts(lambda: (torch.ones(2),))
    for _ in range(2):
        parts(lambda: (torch.ones(2),) * (LONGEST + 1))
        with pytest.raises(TypeCheckError, match="the return value of"):
            parts(lambda: (torch.ones(3),) * (LONGEST + 1))


def test_values_that_an_annotation_names():
    @checked
    def named(what: Literal["one", "two"], of: "Literal[1, 2]" = 1) -> Literal[True]:
        return what == "one"  # pyright: ignore[reportReturnType]

    for _ in range(2):
        assert named("one", 2)
        for wrong in (["three"], ["one", 3], ["two"]):
            with pytest.raises(TypeCheckError):
                named(*wrong)  # pyright: ignore[reportArgumentType]


def test_functions_made_at_each_call_are_checked_by_their_own_annotations():
    def made(annotation: Any) -> Callable[[Tensor], Tensor]:
        @checked
        def same(x: annotation) -> annotation:  # pyright: ignore[reportInvalidTypeForm]
            return x

        return same

    for _ in range(2):
        assert made(Float[Tensor, "n"])(torch.ones(2)).shape == (2,)
        with pytest.raises(TypeCheckError):
            made(Int[Tensor, "n"])(torch.ones(2))
        with pytest.raises(TypeCheckError):
            made(Float[Tensor, "2 n"])(torch.ones(2))


def test_where_checks_are_off_nothing_is_checked(as_installed):
    assert transposed([1.0], None, lambda x: x) == [1.0]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        transposed(torch.ones(2, 3))  # pyright: ignore[reportCallIssue]


def test_the_package_is_checked_with_them():
    from faithfulness_plugin.layers.probe_shape import each_probe

    assert each_probe.__code__.co_filename.endswith("shape_checks.py")  # pyright: ignore[reportFunctionMemberAccess]
