"""The secrets that this process knows from its environment, its settings, and their files."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from farm.errors import RequestError
from farm.masking import is_secret_name, secrets_of_url
from farm.settings.environment import config_file, environment
from farm.settings.fields import Settings
from farm.settings.file import values_in
from farm.settings.loading import read_keys

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_WEBHOOKS = "whsec_"


def known_secrets(settings: Settings | None) -> list[str]:
    """The secrets in the environment and the settings. settings: None if they are wrong."""
    found = [*_secrets(environment())]
    file = config_file()
    if file is not None:
        with suppress(OSError, ValueError):  # a report has nothing of a file that is not TOML
            found += _secrets(values_in(file))
    if settings is not None:
        found += _secrets(settings.model_dump(mode="json"))
        if settings.webhook_secret is not None:
            found += _secrets({"secret": settings.webhook_secret.get_secret_value()})
        if settings.keys_file is not None:
            with suppress(RequestError):
                found += read_keys(settings.keys_file)
    return found


def _secrets(values: Mapping[str, Any]) -> Iterator[str]:
    """Values of secret names, users and passwords in URLs, and digests of keys, at any depth."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _DIGEST.findall(" ".join(map(str, value)))
            yield from _secrets(value)
            continue
        for each in map(str, value if isinstance(value, (list, tuple)) else (value,)):
            for url in re.findall(r"\w+://\S+", each):
                yield from secrets_of_url(url)
            if is_secret_name(name):
                yield each
                yield each.removeprefix(_WEBHOOKS)
                yield from _DIGEST.findall(each)
