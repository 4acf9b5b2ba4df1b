"""The function that a transcoder replaces, its derivatives, and its place between two hooks of a model."""
