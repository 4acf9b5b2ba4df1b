"""Whether a model of the Hugging Face hub can be had, asked once: its libraries would try for half a minute."""

from pathlib import Path

from faithfulness_plugin.language_model.config import OFFLINE_MODEL, TrainConfigError
from faithfulness_plugin.messages import one_line


def only_cached(name: str, *, plain: bool = False) -> bool:
    """Tell whether a model has to come from the hub's cache, as the hub cannot be reached.

    Args:
        name: a name on the hub, a folder, or the offline model; the last two need no hub.
        plain: as `load_model`'s, for the advice.

    Returns:
        Whether it has.

    Raises:
        TrainConfigError: the hub has no such model, or cannot be reached, and nothing of it is in the cache.
    """
    if name == OFFLINE_MODEL or Path(name).is_dir():
        return False
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    try:
        hub.HfApi().model_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        unknown = isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError))
        if not unknown and isinstance(hub.try_to_load_from_cache(name, "config.json"), str):
            return True
        reason = "HF_HUB_OFFLINE is set" if isinstance(error, errors.OfflineModeIsEnabled) else one_line(error)
        raise TrainConfigError(not_loaded(name, reason, plain=plain)) from error
    return False


def not_loaded(name: str, reason: str, *, plain: bool) -> str:
    """Say that a model could not be loaded, and what to do.

    Args:
        name: the model's.
        reason: why.
        plain: as `load_model`'s.

    Returns:
        One line.
    """
    offline = f"use model: {{name: {OFFLINE_MODEL}}}, which needs none"
    instead = "pass --model, a folder or another of its names" if plain else offline
    return (
        f"model {name} could not be loaded ({reason}): check the name or folder and the network (an interrupted "
        f"download resumes when called again), or {instead}"
    )
