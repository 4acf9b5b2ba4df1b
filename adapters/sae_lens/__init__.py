"""SAELens's training runners for transcoders: matched, evaluated, resumable."""

from faithfulness_plugin.adapters.sae_lens.evaluator import TranscoderEvaluator
from faithfulness_plugin.adapters.sae_lens.runner import faithful_runner

__all__ = ["TranscoderEvaluator", "faithful_runner"]
