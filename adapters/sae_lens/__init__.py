"""SAELens's training runners for transcoders: matched, evaluated, resumable."""

from faithfulness_plugin.adapters.sae_lens.runner import faithful_runner
from faithfulness_plugin.language_model.evaluator import TranscoderEvaluator

__all__ = ["TranscoderEvaluator", "faithful_runner"]
