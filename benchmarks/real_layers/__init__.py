"""Does Jacobian matching make transcoders of real MLPs more faithful? `faithfulness bench language-model`."""
