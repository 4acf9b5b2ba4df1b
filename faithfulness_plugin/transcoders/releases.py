"""RELEASE/ID of SAELens's list of pretrained autoencoders and transcoders, read by SAELens's own loaders."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory
from sae_lens.saes.transcoder import Transcoder

from faithfulness_plugin.hub_path import HubPath
from faithfulness_plugin.release_list import listed_release
from faithfulness_plugin.transcoders.address import fetching, is_reachable
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.request import Request
from faithfulness_plugin.transcoders.formats.sae_lens import read_parts

TRANSCODERS = ("gemma_2_transcoder", "gemma_3", "mwhanna_transcoder")
"""SAELens's converters of transcoders; all others convert autoencoders, or the files say what they are."""
READ_HERE = ("gemma_2_transcoder", "gemma_3")
"""Converters whose files are formats of this package. SAELens's own leave out tensors that they do not know, and its
converter of Gemma Scope 2 asks the hub for shapes even where everything is in the cache."""


@dataclass(frozen=True)
class Release:
    """One entry of SAELens's list."""

    name: str
    id: str
    listed: PretrainedSAELookup

    def __str__(self) -> str:
        return f"{self.name}/{self.id}"

    @property
    def converter(self) -> str:
        """The loader of SAELens that reads it."""
        return self.listed.conversion_func or "sae_lens"

    @property
    def is_read_here(self) -> bool:
        """Whether its files are a format of this package, and not read by SAELens's loader."""
        return self.converter in READ_HERE

    @property
    def files(self) -> HubPath:
        """The place of its files."""
        return HubPath(self.listed.repo_id, self.listed.saes_map[self.id])


def release_of(source: str | Path) -> Release | None:
    """Find the entry RELEASE/ID of SAELens's list.

    Args:
        source: what `load_transcoder` was given.

    Returns:
        The entry; None for a folder, file or address.

    Raises:
        FormatError: with near names, where the release has no such ID, or where nothing of this name exists and a
            release is called nearly so.
    """
    found = listed_release(source)
    return None if found is None else Release(*found, get_pretrained_saes_directory()[found[0]])


def require_readable(release: Release, request: Request) -> None:
    """Check, before anything is fetched, that an entry can be read as it was asked for.

    Args:
        release: the entry.
        request: the options of `load_transcoder`.

    Raises:
        FormatError: a cross-layer transcoder; an autoencoder that was not asked for.
    """
    if release.converter == "mntss_clt_layer_transcoder" or re.match(r"(clt|crosscoder)\b", release.files.path):
        raise FormatError(
            f"{release} is a layer of a cross-layer transcoder: it writes to many layers, and the sum of its decoders, "
            "which SAELens loads, is the output of none"
        )
    if release.converter in (*TRANSCODERS, "sae_lens") and (
        release.converter != "gemma_3" or "transcoder" in release.files.path
    ):
        return  # a transcoder, or its settings say what it is
    tensor = release.files.path if release.converter == "gemma_3" else release.id
    if release.converter == "gemma_2":
        tensor = loaders.get_gemma_2_config_from_hf(release.files.repo, release.files.path, "cpu")["hook_name"]
    request.require_autoencoder(str(release), tensor)


def read_by_sae_lens(release: Release, request: Request) -> Transcoder:
    """Read an entry by SAELens's loader, which gives float32, also for dtype=None.

    Args:
        release: the entry.
        request: the options of `load_transcoder`.

    Returns:
        The transcoder.

    Raises:
        FormatError: the hub cannot be reached; what `formats.schema` refuses.
    """
    config, tensors = _loaded_by_sae_lens(release, request.device)
    with warnings.catch_warnings():
        # how a HookedTransformer is to be loaded; what is measured here is the model as it is
        warnings.filterwarnings("ignore", "(?s).*non-empty model_from_pretrained_kwargs")
        return read_parts(config, f"the settings of {release}", tensors, str(release), request)


def _loaded_by_sae_lens(release: Release, device: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return settings and tensors as SAELens's loader gives them, with its scaling of activations folded in."""
    from huggingface_hub import constants

    of, was_offline = release.files, constants.HF_HUB_OFFLINE
    overrides = {**loaders.get_config_overrides(release.name, release.id), "device": device, "dtype": "float32"}
    loader = loaders.NAMED_PRETRAINED_SAE_LOADERS[release.converter]
    # without a network the hub's library then looks into its cache at once, without retries
    constants.HF_HUB_OFFLINE = was_offline or not is_reachable(of)
    try:
        with fetching(of):
            config, tensors, _ = loader(of.repo, of.path, device, False, overrides)
    finally:
        constants.HF_HUB_OFFLINE = was_offline
    config = loaders.handle_config_defaulting(config)
    # all settings of the class, with its defaults
    config = SAE.get_sae_config_class_for_architecture(config["architecture"]).from_dict(config).to_dict()
    scale = release.listed.norm_scaling_factor.get(release.id)
    if config.get("normalize_activations") == "expected_average_only_in" and scale is not None:
        tensors = {**tensors, "W_enc": tensors["W_enc"] * scale}
        tensors |= {name: tensors[name] / scale for name in ("W_dec", "b_dec")}
        config = {**config, "normalize_activations": "none"}
    return config, tensors
