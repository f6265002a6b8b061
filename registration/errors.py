"""The one exception this package raises for input that cannot be used."""


class InputError(ValueError):
    """What was given cannot be used; the message is one sentence saying what is wrong, where, and what to
    do."""
