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

from faithfulness_plugin.nearest import nearest
from faithfulness_plugin.transcoders.address import HubPath, fetched, fetching, is_reachable
from faithfulness_plugin.transcoders.formats import registry
from faithfulness_plugin.transcoders.formats.errors import FormatError
from faithfulness_plugin.transcoders.formats.format import Request
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
    def files(self) -> HubPath:
        """The place of its files."""
        return HubPath(self.listed.repo_id, self.listed.saes_map[self.id])


def is_release(source: str | Path) -> bool:
    """Whether this begins with the name of a release of SAELens's list, and is no folder or file here."""
    text = str(source)
    if text.startswith((".", "/", "~")) or Path(text).exists():
        return False
    return text.partition("/")[0] in get_pretrained_saes_directory()


def release_of(source: str | Path) -> Release:
    """Return the entry RELEASE/ID. Raises FormatError, with near names, where SAELens's list does not have it."""
    name, _, sae_id = str(source).strip("/").partition("/")
    listed = get_pretrained_saes_directory()
    if name not in listed:
        raise FormatError(f"SAELens's list has no release {name}: {nearest(name, [*listed], n=3)}")
    ids = [*listed[name].saes_map]
    if sae_id not in ids:
        some = ", ".join(ids[:6]) + ", ..." * (len(ids) > 6)
        what = f"{source}: SAELens's release {name} has no {sae_id}" if sae_id else f"{name} is a release of {len(ids)}"
        raise FormatError(f"{what}: {nearest(sae_id, ids, n=3, otherwise=f'pass {name}/ID, with one of {some}')}")
    return Release(name, sae_id, listed[name])


def near_releases(source: str | Path) -> str:
    """Return "did you mean RELEASE?" where a path that does not exist resembles a release, and else nothing."""
    name = str(source).partition("/")[0]
    if not re.fullmatch(r"[a-zA-Z0-9][\w.-]{3,}", name):
        return ""
    return nearest(name, [*get_pretrained_saes_directory()], n=3, otherwise=" ").strip()


def read_release(source: str | Path, request: Request) -> Transcoder:
    """Read the transcoder, or the autoencoder where that was asked for, that SAELens's list has under RELEASE/ID.

    SAELens's loaders give float32, also for dtype=None.

    Raises:
        FormatError: no such release or id (near names are suggested); a cross-layer transcoder; an autoencoder that
            was not asked for; the hub cannot be reached; what `formats.schema` refuses.
    """
    release = release_of(source)
    if release.converter == "mntss_clt_layer_transcoder" or re.match(r"(clt|crosscoder)\b", release.files.path):
        raise FormatError(
            f"{release} is a layer of a cross-layer transcoder: it writes to many layers, and the sum of its decoders, "
            "which SAELens loads, is the output of none"
        )
    if release.converter not in (*TRANSCODERS, "sae_lens") or (
        release.converter == "gemma_3" and "transcoder" not in release.files.path
    ):
        request.require_autoencoder(str(release), _tensor_of(release))
    if release.converter in READ_HERE:
        transcoder = registry.read(fetched(str(release.files)), request)
    else:
        config, tensors = _loaded_by_sae_lens(release, request.device)
        with warnings.catch_warnings():
            # how a HookedTransformer is to be loaded; what is measured here is the model as it is
            warnings.filterwarnings("ignore", "(?s).*non-empty model_from_pretrained_kwargs")
            transcoder = read_parts(config, f"the settings of {release}", tensors, str(release), request)
    metadata = transcoder.cfg.metadata
    metadata.source = f"SAELens's list ({metadata.source})"
    metadata.neuronpedia_id = release.listed.neuronpedia_id.get(release.id)
    metadata.l0 = metadata.l0 or release.listed.expected_l0.get(release.id) or None
    return transcoder


def _tensor_of(release: Release) -> str:
    """Return the tensor that an autoencoder reads, as far as it is known before anything is fetched."""
    if release.converter == "gemma_2":
        return loaders.get_gemma_2_config_from_hf(release.files.repo, release.files.path, "cpu")["hook_name"]
    return release.files.path if release.converter == "gemma_3" else release.id


def _loaded_by_sae_lens(release: Release, device: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Settings and tensors as SAELens's loader gives them, with its scaling of activations folded in."""
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
