"""Jacobians of layers and transcoders, and the loss that matches them. Knows torch only."""
