"""Transcoders that SAELens can train: `TrainingSAE` subclasses whose target is a layer's output."""
