"""The one exception a user is meant to read."""


class InputError(ValueError):
    """Something outside the program is wrong: a config, a file, a directory, a flag.

    The message names the thing, its value and the remedy; commands print it without a
    traceback and exit with code 2.
    """
