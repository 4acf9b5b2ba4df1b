"""The absolute-value network, its inputs and its ideal circuits."""
