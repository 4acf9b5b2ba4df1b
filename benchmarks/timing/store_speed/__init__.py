"""Training from a store beside training from the model, and two processes beside one: `faithfulness bench store`."""
