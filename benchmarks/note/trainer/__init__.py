"""Many small transcoders trained together, their weights stacked and their gradients written out."""
