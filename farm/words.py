"""How numbers are said. Pure."""


def count(number: int, thing: str) -> str:
    """`1 clip`, `2 clips`: of things whose plural takes an s."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
