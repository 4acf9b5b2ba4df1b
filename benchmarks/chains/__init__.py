"""The benchmark's second track: methods that replace a chain of layers together."""
