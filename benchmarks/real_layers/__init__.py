"""Does Jacobian matching make transcoders of real MLPs more faithful? `faithfulness experiment real-layers`."""
