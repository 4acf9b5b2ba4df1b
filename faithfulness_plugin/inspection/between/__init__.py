"""Features of several layers of one model: what they add to each other through the residual stream."""
