"""The page that a saved transcoder is published with."""

import shlex
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from faithfulness_plugin.metrics.next_token import undefined_ce_recovered

METRICS = {
    "fvu": "Fraction of variance unexplained",
    "l0": "Active features per token (L0)",
    "dead_fraction": "Features that never fired",
    "jacobian_error": "Relative Jacobian error, isotropic",
    "jacobian_error_data": "Relative Jacobian error, in directions of the data",
    "jacobian_cosine": "Jacobian cosine, isotropic",
    "jacobian_cosine_data": "Jacobian cosine, in directions of the data",
    "ce_recovered": "Cross-entropy recovered",
    "kl": "KL divergence of the next token, spliced in (nats)",
}


def write_card(folder: Path, transcoder: Any, evaluation: dict[str, Any] | None) -> Path:
    """Write README.md in the folder of an export: what it replaces, how it was trained, its held-out metrics.

    Args:
        folder: the export's.
        transcoder: as it was trained.
        evaluation: the last one's entries; None where there is none.

    Returns:
        The file.
    """
    cfg, metadata = transcoder.cfg, transcoder.cfg.metadata
    data = ModelCardData(library_name="saelens", tags=["transcoder", "sparse-autoencoder", "jacobian-matching"])
    inference = cfg.get_inference_sae_cfg_dict()["architecture"]
    ours = inference.startswith("faithful_")
    jacobian = f"{cfg.jacobian.estimator}, {cfg.jacobian.probe} probes" if cfg.jacobian_coefficient else "not matched"
    facts = {
        "Model": metadata.model_name or "given by the script",
        "Reads": f"`{metadata.hook_name}`",
        "Writes": f"`{metadata.hook_name_out}`",
        "Architecture": f"{inference}, {cfg.d_in} -> {cfg.d_sae} -> {cfg.d_out}",
        **({"Active features a token (k)": cfg.k} if hasattr(cfg, "k") else {}),
        "Special tokens": "left to the layer" if metadata.exclude_special_tokens else "like all others",
        **_positions(metadata.seqpos_slice),
        "Text": metadata.dataset_path or "given by the script",
        "Jacobian": jacobian,
        **{f"Coefficient: {name}": f"{_value(of):g}" for name, of in transcoder.get_coefficients().items()},
        "Command": f"`{' '.join(map(shlex.quote, [Path(sys.argv[0]).name, *sys.argv[1:]]))}`",
    }
    lines = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in facts.items()]
    text = ["# Transcoder", "", "| | |", "| --- | --- |", *lines, ""]
    if evaluation is not None:
        text += [
            f"On held-out prompts, after {evaluation['tokens']:,} tokens:",
            "",
            "| metric | value |",
            "| --- | --- |",
        ]
        text += [
            f"| {label} | {evaluation[name]:.4g} |" for name, label in METRICS.items() if evaluation[name] is not None
        ]
        text.append("")
        if evaluation["ce_recovered"] is None:
            text += [undefined_ce_recovered(evaluation["ce_zero"], evaluation["ce_clean"]), ""]
    needs = "import faithfulness_plugin  # registers the architecture\n" if ours else ""
    text += [f'```python\n{needs}from sae_lens import SAE\n\ntranscoder = SAE.load_from_disk("FOLDER")\n```', ""]
    if cfg.skip:
        text += [
            "It has a skip connection, which `add_sae` of SAELens leaves out of stock transcoders: attach it with "
            "`faithfulness_plugin.adapters.transformer_lens.attach(model, transcoder)`.",
            "",
        ]
    path = folder / "README.md"
    ModelCard(f"---\n{data.to_yaml()}\n---\n" + "\n".join(text)).save(path)
    return path


def _positions(seqpos_slice: Any) -> dict[str, str]:
    """Name the positions of a prompt that it was trained on, where these are not all."""
    given: list[int | None] = list(seqpos_slice or ())
    if all(end is None for end in given):
        return {}
    first, last, step = [*given, None, None][:3] if len(given) > 1 else [None, given[0], None]
    said = f"{first or 0} to {'the end' if last is None else last}" + f", every {step}" * (step not in (None, 1))
    return {"Positions": f"{said}; the others are left to the layer"}


def _value(coefficient: Any) -> float:
    return getattr(coefficient, "value", coefficient)
