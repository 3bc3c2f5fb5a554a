"""Values of parameters as people give them, read in one way wherever they come from. No torch.

A command line, a form and a CSV have texts alone; JSON and Python have numbers. So the text of a
number is that number, one that is whole is whole however it is written (7, 7.0, 7e0), and neither
true nor false is a number.
"""

import json
import math
import re
from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import AllowInfNan, BeforeValidator, Strict

LONGEST = 400  # digits of a number; more count as infinite
EXACT = 2**53  # up to which a float holds every whole number
MOST_SHOWN = 200  # characters of a value, in a message
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_OTHER = {"true": True, "false": False, "nan": math.nan}
_OTHER |= {f"{sign}{word}": math.inf for word in ("inf", "infinity") for sign in ("", "+")}
_OTHER |= {f"-{word}": -math.inf for word in ("inf", "infinity")}
_FLAGS = {"yes": True, "on": True, "no": False, "off": False}  # of shells, and of HTML's checkbox


def number(value: Any) -> Any:
    """The number that a value is, or that its text says; any other value as it is."""
    if hasattr(value, "item") and not getattr(value, "ndim", 0):  # one of numpy's
        value = value.item()
    if isinstance(value, str):
        return _said(value.strip())
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        sound = int(value)
        return sound if abs(sound) < 10**LONGEST else math.inf if sound > 0 else -math.inf
    return float(value) if isinstance(value, Real) else value


def whole(value: Any) -> Any:
    """As `number`, and an int where it is whole."""
    found = number(value)
    exact = isinstance(found, float) and found.is_integer() and abs(found) <= EXACT
    return int(found) if exact else found


def flag(value: Any) -> Any:
    """The truth that a value is, or that its text says; any other value as it is."""
    found = whole(value)
    if isinstance(found, str):
        found = _FLAGS.get(found.lower(), found)
    return bool(found) if isinstance(found, int | float) and found in (0, 1) else found


def listed(value: Any) -> Any:
    """The items of a list, or of its text: `700,5,0` or `[700, 5, 0]`; any other value as it is."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            message = "give items joined by commas, or a list of JSON"
            raise ValueError(f"{message}; got {shown(value)}") from error
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, Real):
        return [value]
    return value.tolist() if hasattr(value, "tolist") else value


def stripped(value: Any) -> Any:
    """A text without the white space around it; any other value as it is."""
    return value.strip() if isinstance(value, str) else value


def is_given(value: Any) -> bool:
    """Whether it is a value at all: an empty field of a form or cell of a table is none."""
    return value is not None and not (isinstance(value, str) and not value.strip())


def spelt(value: Any) -> str:
    """A value as a text that is read as that value again."""
    return value if isinstance(value, str) else json.dumps(value)


def shown(value: Any) -> str:
    """A value for a message, the same wherever it came from."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} in which too much is nested"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _said(text: str) -> Any:
    if not _NUMBER.fullmatch(text):
        return _OTHER.get(text.lower(), text)
    if text.lstrip("+-").isdecimal() and len(text) <= LONGEST:
        return int(text)
    return float(text)


Whole = Annotated[int, Strict(), BeforeValidator(whole)]
Number = Annotated[float, Strict(), AllowInfNan(False), BeforeValidator(number)]
Flag = Annotated[bool, Strict(), BeforeValidator(flag)]
