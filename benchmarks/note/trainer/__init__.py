"""Many small transcoders trained together, their weights stacked and differentiated by one pass of autograd."""
