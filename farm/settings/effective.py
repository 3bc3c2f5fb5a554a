"""The settings in effect, with the origin of each and with secrets masked."""

import json
from typing import Any, NamedTuple

from farm.masking import MASK, mask_urls
from farm.settings.environment import config_file
from farm.settings.fields import Address
from farm.settings.loading import Origin, load_settings, origins, variable

SHOWN = 8  # characters of a key's sha256 that are shown


class Effective(NamedTuple):
    """A setting: its value, masked and as JSON has it, and where it comes from."""

    name: str
    value: Any
    origin: Origin

    @property
    def is_the_clients(self) -> bool:
        """Whether it concerns programs that use a farm, and has no place in a settings' file."""
        return self.name in Address.model_fields


def effective(**given: Any) -> list[Effective]:
    """The settings in effect. given: as for `load_settings`, whose RequestError this raises."""
    values = load_settings(**given).model_dump() | Address().model_dump()
    origin = origins(given)
    return [Effective(name, _masked(name, value), origin[name]) for name, value in values.items()]


def as_json(settings: list[Effective]) -> dict[str, Any]:
    """The settings for machines."""
    file = config_file()
    own = {each.name: {"value": each.value, "origin": each.origin} for each in settings}
    return {"file": str(file) if file else None, "settings": own}


def as_toml(settings: list[Effective]) -> list[str]:
    """The settings for people, in lines of a `farm.toml` whose comments tell the origins.

    A line for what such a file does not have is a comment altogether.
    """
    file = config_file()
    lines = [f"# settings' file: {file or 'none'}"]
    for each in settings:
        if each.value is None:
            text = f"# {each.name} is not set"
        elif each.is_the_clients:
            text = f"# {variable(each.name)}={each.value}"
        else:
            text = f"{each.name} = {_toml(each.value)}"
        origin = f"--{each.name}" if each.origin == "flag" else each.origin
        lines.append(f"{text:<40}  # {origin}")
    return lines


def _masked(name: str, value: Any) -> Any:
    """A value as JSON has it, without secrets. Keys' digests are shortened."""
    if name in ("webhook_secret", "api_key"):
        return None if value is None else MASK
    if name == "keys":
        return {f"{digest[:SHOWN]}...": _plain(key) for digest, key in value.items()}
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {mask_urls(str(key)): _plain(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return mask_urls(str(value)) if not isinstance(value, (bool, int, float, type(None))) else value


def _toml(value: Any) -> str:
    """A value in TOML's syntax, which is JSON's but for tables and what is not there."""
    if isinstance(value, dict):
        there = ((key, below) for key, below in value.items() if below is not None)
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(below)}" for key, below in there) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
