"""The faithfulness benchmark: methods against layers whose mechanism is known."""
