r"""Hides secrets in texts and records: by value, by the name they stand beside, and by shape.

A known value is found in every form in which programs write it: plain, quoted for a URL or for
JSON, in part or several times over, and in base64 or hexadecimal, alone or within a longer text.
"""

import base64
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

MASK = "***"
SHORTEST = 6  # characters of a value that is looked for everywhere: shorter ones are in any text
_IN_A_URL = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
# The words of a name that tell a secret, unless the name says that it is a place or a mode.
_NAME = r"(?:secret|token|passw(?:or)?d|passphrase|credential|signature|authorization|cookie)s?"
_NAME += r"|(?:api|access|private|signing|encryption)[_-]?keys?(?:[_-]?id)?|AWSAccessKeyId"
_SECRET_NAME = re.compile(rf"(?:{_NAME})$", re.IGNORECASE)
_WEAK_NAME = re.compile(r"(?<![a-z])(?:keys?|sig|auth|pass)$", re.IGNORECASE)
_BESIDE_NAME = re.compile(
    rf"((?:(?:{_NAME})|\b(?:key|sig|auth))[\"']?\s*[=:]\s*[\"']?)([^\s\"'&,;}}\]]+)", re.IGNORECASE
)
_SHAPES = re.compile(
    r"(?<=\bBearer )[\w.~+/=-]{6,}|(?<=\bBasic )[\w+/=-]{6,}|whsec_[\w+/=-]+"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_\w{16,}|\bsk-[\w-]{16,}|\bgh[opsu]_\w{16,}"
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def mask_urls(text: str) -> str:
    """The text with `***@` in place of the user and the password of each URL."""
    return _IN_A_URL.sub(f"{MASK}@", text)


def is_secret_name(name: str) -> bool:
    """Whether a variable or a field of this name has a secret as its value."""
    return bool(_SECRET_NAME.search(name) or _WEAK_NAME.search(name))


def secrets_of_url(url: str) -> list[str]:
    """The password in a URL, and the user if there is one, both unquoted."""
    try:
        parts = urlsplit(url)
        return [unquote(text) for text in (parts.password, parts.username) if text]
    except ValueError:  # it is no URL
        return []


class Masking:
    """Hides secrets that are known, and others by their names and shapes."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """secrets: the known values. Each line of a long one, such as a key's file, is one, too."""
        lines = {line.strip() for text in secrets for line in (text, *text.splitlines())}
        known = {text for text in lines if len(text) >= SHORTEST and set(text) != {"*"}}
        forms = [form for text in sorted(known, key=len, reverse=True) for form in _forms(text)]
        self._known = [re.compile(form) for form in forms]

    def text(self, text: str) -> str:
        """The text without secrets."""
        for known in self._known:
            text = known.sub(MASK, text)
        text = _SHAPES.sub(MASK, mask_urls(text))
        return _BESIDE_NAME.sub(rf"\g<1>{MASK}", text)

    def value(self, value: Any, name: str = "") -> Any:
        """A value of JSON without secrets. name: of the field that it is in."""
        if value is None or isinstance(value, bool):
            return value
        if _SECRET_NAME.search(name):
            return MASK
        if isinstance(value, dict):
            return {self.text(key): self.value(below, key) for key, below in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(each, name) for each in value]
        if _WEAK_NAME.search(name):
            return MASK
        if isinstance(value, str):
            return self._url(value) if name == "webhook_url" else self.text(value)
        text = json.dumps(value)
        return value if self.text(text) == text else MASK

    def _url(self, url: str) -> str:
        """Only the host: the path of many webhooks is a secret."""
        parts = urlsplit(url)
        return self.text(f"{parts.scheme}://{parts.hostname}/{MASK}")


def _forms(secret: str) -> list[str]:
    """Patterns that match a secret as programs write it."""
    data = secret.encode(errors="surrogatepass")
    encoded = filter(None, (_in_base64(data, before) for before in range(3)))
    return ["".join(map(_character, secret)), *encoded, f"(?i:{data.hex()})"]


def _character(character: str) -> str:
    """A pattern for one character: as it is, or quoted for a URL or JSON, perhaps repeatedly."""
    data = character.encode(errors="surrogatepass")
    url = "".join(f"%(?:25)*{byte:02x}" for byte in data)
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    in_json = "".join(rf"\\+u{units[i : i + 4]}" for i in range(0, len(units), 4))
    ways = [rf"\\*{re.escape(character)}", f"(?i:{url})", f"(?i:{in_json})"]
    if character == " ":
        ways.append(r"\+")
    short = json.dumps(character)[1:-1]
    if len(short) == 2 and short.startswith("\\"):  # such as a line break
        ways.append(rf"\\+{re.escape(short[1])}")
    return f"(?:{'|'.join(ways)})"


def _in_base64(data: bytes, before: int) -> str:
    """A pattern for what base64 makes of data alone, with `before` other bytes in front of it.

    Characters that depend on the bytes around it are left out. Empty if too few are left.
    """
    text = base64.b64encode(bytes(before) + data).decode().rstrip("=")
    start = (0, 2, 3)[before]
    whole = (before + len(data)) * 8 // 6
    core = text[start:whole]
    if len(core) < SHORTEST:
        return ""
    return re.escape(core).replace(r"\+", "[+-]").replace("/", "[/_]")
