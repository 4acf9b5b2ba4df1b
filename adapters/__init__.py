"""Bridges to other libraries, one file each, imported lazily. Installed as faithfulness_plugin.adapters."""
