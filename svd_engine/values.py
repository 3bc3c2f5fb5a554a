"""Converts parameter values from and to text, in the same way for every interface. No torch.

A command line, a form and a CSV contain only text; JSON and Python have numbers and booleans. The
text of a number is therefore read as that number, a whole number may be written in any way (7, 7.0,
7e0), and true and false are never numbers.
"""

import json
import math
import re
from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import AllowInfNan, BeforeValidator, Strict

LONGEST = 400  # digits; a longer number counts as infinite
EXACT = 2**53  # a float represents every whole number up to this one
MOST_SHOWN = 200  # characters of a value in a message
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_OTHER = {"true": True, "false": False, "nan": math.nan}
_OTHER |= {f"{sign}{word}": math.inf for word in ("inf", "infinity") for sign in ("", "+")}
_OTHER |= {f"-{word}": -math.inf for word in ("inf", "infinity")}
_FLAGS = {"yes": True, "on": True, "no": False, "off": False}  # `on` is what an HTML checkbox sends
Value = bool | int | float | str | tuple[float | str, ...]  # of a parameter that was given


def number(value: Any) -> Any:
    """The number that a value or its text represents; any other value unchanged."""
    if hasattr(value, "item") and not getattr(value, "ndim", 0):  # a numpy scalar
        value = value.item()
    if isinstance(value, str):
        return _parsed(value.strip())
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        integer = int(value)
        return integer if abs(integer) < 10**LONGEST else math.inf if integer > 0 else -math.inf
    return float(value) if isinstance(value, Real) else value


def whole(value: Any) -> Any:
    """Like `number`, but a whole number is returned as an int."""
    found = number(value)
    exact = isinstance(found, float) and found.is_integer() and abs(found) <= EXACT
    return int(found) if exact else found


def flag(value: Any) -> Any:
    """The boolean that a value or its text represents; any other value unchanged."""
    found = whole(value)
    if isinstance(found, str):
        found = _FLAGS.get(found.lower(), found)
    return bool(found) if isinstance(found, int | float) and found in (0, 1) else found


def listed(value: Any) -> Any:
    """The items of a list or of its text, `700,5,0` or `[700, 5, 0]`; any other value unchanged."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            message = "give items joined by commas, or a JSON list"
            raise ValueError(f"{message}; got {shown(value)}") from error
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, Real):
        return [value]
    return value.tolist() if hasattr(value, "tolist") else value


def stripped(value: Any) -> Any:
    """A text without surrounding white space; any other value unchanged."""
    return value.strip() if isinstance(value, str) else value


def is_given(value: Any) -> bool:
    """Whether there is a value. None, an empty form field and an empty table cell do not count."""
    return value is not None and not (isinstance(value, str) and not value.strip())


def as_text(value: Any) -> str:
    """A text that is read as the same value again, by whatever reads that parameter."""
    return value if isinstance(value, str) else json.dumps(value)


def as_label(value: Any) -> str:
    """A value for a file name or a heading: exact, and as short as a person would write it."""
    if isinstance(value, (tuple, list)):
        return "+".join(map(as_label, value))
    return as_text(value).removesuffix(".0")


def shown(value: Any) -> str:
    """A value as text for a message, the same whichever interface it came from."""
    if isinstance(value, bool):
        return as_text(value)
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _parsed(text: str) -> Any:
    if not _NUMBER.fullmatch(text):
        return _OTHER.get(text.lower(), text)
    if text.lstrip("+-").isdecimal() and len(text) <= LONGEST:
        return int(text)
    return float(text)


Whole = Annotated[int, Strict(), BeforeValidator(whole)]
Number = Annotated[float, Strict(), AllowInfNan(False), BeforeValidator(number)]
Flag = Annotated[bool, Strict(), BeforeValidator(flag)]
