"""circuit-tracer (0.5): sets of transcoders that it loads and attributes with, and graphs that it shows, without it."""

from faithfulness_plugin.adapters.circuit_tracer.graph_file import export_graph
from faithfulness_plugin.adapters.circuit_tracer.transcoder_set import export_transcoder_set, load_transcoder_set

__all__ = ["export_graph", "export_transcoder_set", "load_transcoder_set"]
