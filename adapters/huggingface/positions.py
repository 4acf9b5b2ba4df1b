"""How many tokens a Hugging Face model takes at once."""

from typing import Any


def n_positions(config: Any) -> int | None:
    """Read the longest prompt that a model was made for: `max_position_embeddings`, or `n_positions`.

    Rotary models have the limit too: they run beyond it, at angles that they never saw in training. Where their scaling
    (YaRN and the like) stretches the original context further than that number, the longer one holds.

    Args:
        config: the model's; None where it has none.

    Returns:
        Tokens; None where there is no limit (ALiBi, relative positions, state-space models).
    """
    if config is None:
        return None
    text = config.get_text_config()
    if getattr(text, "alibi", False) or getattr(text, "relative_attention_num_buckets", None):
        return None
    said = next((n for name in ("max_position_embeddings", "n_positions") if (n := getattr(text, name, None))), None)
    if not isinstance(said, int) or said <= 0:
        return None
    scaling = getattr(text, "rope_scaling", None) or {}
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    return said if not original or not factor else max(said, int(original * factor))
