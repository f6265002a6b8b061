"""What the twin says when it is given something it cannot use."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one sentence that says what is wrong, where, and what to do; the command line
    prints it and exits with code 2.
    """
