"""What can be refused before anything is loaded: paths, addresses, text, rows, devices, names of files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from faithfulness_plugin.cli.hook_options import TranscoderOptions
from faithfulness_plugin.cli.rows import row_settings
from faithfulness_plugin.errors import FormatError, UsageError
from faithfulness_plugin.hub_path import HubPath, is_hub_path
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.release_list import listed_release
from faithfulness_plugin.results.open_or_resume import require_writable

DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


def require_readable(sources: Iterable[str], options: TranscoderOptions) -> None:
    """Refuse what commands on finished transcoders can refuse before anything is loaded.

    Args:
        sources: the transcoders' folders and addresses.
        options: the command's.

    Raises:
        UsageError: no row is left; transcoders, text or the device are not there.
    """
    from faithfulness_plugin.language_model import rows

    which = rows.RowSettings(**row_settings(options.model_dump()))
    rows.require_rows(which, options.context_size)
    require_sources(sources)
    require_text(options.text)
    if options.model is not None:
        from faithfulness_plugin.language_model.hub_model import only_cached

        only_cached(options.model, plain=True)
    require_device(options.device)


def require_sources(sources: Iterable[str]) -> None:
    """Refuse transcoders that are not there.

    Args:
        sources: folders and addresses.

    Raises:
        FormatError: a folder or file that does not exist, an address that is none, a release that SAELens's list does
            not have.
    """
    for source in sources:
        if is_hub_path(source):
            HubPath.of(source)
        elif not Path(source).exists() and listed_release(source) is None:
            raise FormatError(f"{source} does not exist: pass the folder that a transcoder was saved to, or an address")


def require_text(files: Sequence[str]) -> None:
    """Refuse files of text that cannot be used.

    Args:
        files: their names; none is fine.

    Raises:
        UsageError: a file is missing, empty, not UTF-8, or given twice.
    """
    if files:
        from faithfulness_plugin.language_model.config import TextSource
        from faithfulness_plugin.language_model.documents import read_documents

        read_documents(TextSource(files=list(files)))


def require_device(device: str) -> None:
    """Refuse a device that does not exist here; torch is loaded for anything but the CPU.

    Args:
        device: such as cpu or cuda:0.

    Raises:
        UsageError: it cannot be used.
    """
    if DEVICE.fullmatch(device) is None:
        raise UsageError(f"--device {device}: choose cpu or cuda")
    if device != "cpu":
        import torch

        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
            reason = "torch sees no CUDA device here" if device == "cuda" else one_line(error)
            raise UsageError(f"device: {device}: {reason}; use device: cpu (--device cpu)") from error


def require_new_files(files: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to write over files.

    Args:
        files: those that will be written.
        overwrite: whether existing ones may be replaced.

    Raises:
        UsageError: a file exists, or cannot be written.
    """
    for file in files:
        if file.is_dir():
            raise UsageError(f"{file} is a folder: give the name of a file")
        if file.exists() and not overwrite:
            raise UsageError(f"{file} is there already: choose another name, or pass --overwrite")
        require_writable(file.parent, "name")


def require_rows(path: Path) -> None:
    """Refuse a file of rows that cannot be used.

    Args:
        path: a .npy file.

    Raises:
        UsageError: it is missing or no .npy file, has another shape than [n, d_in], or holds numbers that are not
            finite.
    """
    import numpy as np

    advice = "give [n, d_in] as .npy"
    try:
        x = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, TypeError, ValueError, EOFError) as error:
        raise UsageError(f"--rows {path} cannot be read ({one_line(error)}): {advice}") from error
    if not isinstance(x, np.ndarray) or x.ndim != 2 or not x.size or x.dtype.kind not in "fiu":
        shape = getattr(x, "shape", "no one array")
        raise UsageError(f"--rows {path} holds {shape} of {getattr(x, 'dtype', type(x).__name__)}: {advice}")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise UsageError(f"--rows {path}: row {row} holds NaN or Inf (counted from 0): leave such rows out")
