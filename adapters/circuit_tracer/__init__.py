"""circuit-tracer (0.5): sets of transcoders that it loads and attributes with, written and read without it."""

from faithfulness_plugin.adapters.circuit_tracer.transcoder_set import export_transcoder_set, load_transcoder_set

__all__ = ["export_transcoder_set", "load_transcoder_set"]
