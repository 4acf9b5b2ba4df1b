"""`python -m faithfulness_plugin`, as torchrun starts the command."""

from faithfulness_plugin.command import main

if __name__ == "__main__":
    main()
