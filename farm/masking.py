"""Hides secrets in texts for people."""

import re

MASK = "***"
_IN_A_URL = re.compile(r"(?<=://)[^\s/?#@\"']*(?:@[^\s/?#@\"']*)*@")


def mask_urls(text: str) -> str:
    """The text with `***@` in place of the user and the password of each URL."""
    return _IN_A_URL.sub(f"{MASK}@", text)
