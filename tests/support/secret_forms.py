"""The forms in which programs write a secret, to plant it and to look for it."""

import base64
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

AROUND = ("", "a", "ab")  # before the secret in base64, whose characters depend on the position
CLEAN = (0, 2, 3)  # from where on they depend on the secret alone
ENCODERS = (base64.b64encode, base64.urlsafe_b64encode)


def forms_of(secret: str) -> Iterator[str]:
    """The secret plain, quoted for JSON and URLs, and in base64 and hexadecimal, with more."""
    yield from _quoted(secret)
    for encode in ENCODERS:
        for before in AROUND:
            yield encode(f"{before}{secret}".encode()).decode()
            yield encode(f"{before}{secret}:x".encode()).decode()


def traces_of(secret: str) -> set[str]:
    """What the forms leave in a text, whatever stands around the secret."""
    found = set(_quoted(secret))
    for start, before in zip(CLEAN, AROUND, strict=True):
        data = f"{before}{secret}".encode()
        found |= {encode(data).decode()[start : len(data) * 8 // 6] for encode in ENCODERS}
    return found


def _quoted(secret: str) -> Iterator[str]:
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield json.dumps(json.dumps(secret))[3:-3]
    yield quote(secret)
    yield quote(secret, safe="")
    yield re.sub("%..", lambda found: found[0].lower(), quote(secret, safe=""))
    yield quote(quote(secret, safe=""))
    yield quote_plus(secret)
    yield secret.encode().hex()
