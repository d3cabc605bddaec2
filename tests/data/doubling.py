"""Work for other processes; imports little, since each of them imports this file."""

from pipeline.errors import InputError


def double(number: int) -> int:
    """Twice a number, but for 13."""
    if number == 13:
        raise InputError("thirteen")
    return 2 * number


def repeated(number: int) -> bytes:
    """A number of bytes that grows and shrinks with the item."""
    return bytes([number]) * (1 + 100_000 * (number % 3))
