"""Say what to install where a library is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(requirement: str, *, install: str | None = None) -> Iterator[None]:
    """Say what to install where an optional library is missing: a context around its import.

    Args:
        requirement: as pip takes it.
        install: the arguments of pip install, where they are more than that.

    Yields:
        Nothing.

    Raises:
        ImportError: the library is missing, or another version or package is there.
    """
    pip = install or repr(requirement)
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this adapter needs {requirement}, and {error.name} is missing: pip install {pip}",
            name=error.name,
        ) from error
    except ImportError as error:
        raise ImportError(
            f"this adapter needs {requirement}, and what is there under that name is another version, or another "
            f"package ({str(error).splitlines()[0]}): pip install {pip}",
            name=error.name,
        ) from error
