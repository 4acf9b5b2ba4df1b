"""The absolute-value experiment: does a transcoder of y = |x| memorise a repeated point, and what prevents it."""
