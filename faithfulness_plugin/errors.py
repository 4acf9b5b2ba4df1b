"""The error that every command turns into one line and the exit code 2."""


class UsageError(ValueError):
    """Something that the user passed cannot be used; the message says what is wrong and what to pass instead."""


class FormatError(UsageError):
    """Files that look like a library's transcoder cannot be read as one, or are not there."""
