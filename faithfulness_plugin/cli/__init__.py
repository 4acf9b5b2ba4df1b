"""The command `faithfulness`, one file per command."""
