"""What the streams say when they are given something they cannot use."""


class InputError(ValueError):
    """Input that cannot be used; one sentence says what is wrong, where, and what to do."""


class MalformedMessage(ValueError):
    """Bytes that are no message of the protocol; the text says why."""


class UnknownType(MalformedMessage):
    """A message with a head like every other, of a type that this version does not know."""
