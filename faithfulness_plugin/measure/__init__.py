"""The artifact track of the faithfulness benchmark: finished transcoders against their real layer."""
