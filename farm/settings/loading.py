"""Loads the settings, and reports what is wrong with them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_settings import SettingsError

from farm.errors import RequestError
from farm.masking import mask_urls
from farm.settings.environment import CONFIG, PREFIX, config_file, farm_variables
from farm.settings.fields import KEYS, Address, Key, Settings
from farm.settings.file import values_in
from svd_engine.nearest import did_you_mean, in_sentences

Origin = Literal["flag", "environment", "file", "default"]
LISTS = ("models", "cors_origins", "picture_hosts")


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


# Every variable of the farm: the settings', the client's, and the one that names the file.
VARIABLES = (*map(variable, (*Settings.model_fields, *Address.model_fields)), CONFIG)


def load_settings(**given: Any) -> Settings:
    """Read the settings; `given` values that are not None take precedence.

    Raises RequestError, which names what is at fault: a setting of the environment or of the
    settings' file, or a variable FARM_* that is no setting. The store is always returned as a URL.
    """
    given = {name: value for name, value in given.items() if value is not None}
    _refuse_unknown()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        of = origins(given)
        faults = (_fault(fault, of) for fault in error.errors())
        raise RequestError("; ".join(dict.fromkeys(faults))) from error
    except SettingsError as error:
        raise RequestError(_not_json(error)) from error
    # Made absolute, because other processes of the farm have other working directories.
    changes: dict[str, Any] = {}
    if "://" not in settings.store:
        changes["store"] = f"file://{Path(settings.store).expanduser().absolute()}"
    if settings.keys_file is not None:
        changes["keys_file"] = settings.keys_file.expanduser().absolute()
    return settings.model_copy(update=changes)


def read_keys(file: Path) -> Mapping[str, Key]:
    """The keys in a file. Raises RequestError if it cannot be read, or contains anything else."""
    try:
        return KEYS.validate_json(file.read_bytes())
    except OSError as error:
        raise RequestError(f"FARM_KEYS_FILE: {file}: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        raise RequestError(f"FARM_KEYS_FILE: {file}: {where[:80]} {fault['msg']}") from error


def handed_on(settings: Settings) -> dict[str, Any]:
    """What another process gives to `load_settings` to have the same settings.

    Those that this process has by default are left out, so that the other's environment decides.
    """
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def origins(given: Mapping[str, Any]) -> dict[str, Origin]:
    """Where the value of each setting comes from. given: as for `load_settings`."""
    file, variables = config_file(), farm_variables()
    in_file = values_in(file) if file else {}

    def origin(name: str) -> Origin:
        if given.get(name) is not None:
            return "flag"
        if variable(name) in variables:
            return "environment"
        return "file" if name in in_file else "default"

    return {name: origin(name) for name in (*Settings.model_fields, *Address.model_fields)}


def _refuse_unknown() -> None:
    unknown = sorted(name for name in farm_variables() if name not in VARIABLES)
    if unknown:
        faults = (f"Unknown setting {name!r}{did_you_mean(name, VARIABLES)}" for name in unknown)
        raise RequestError(in_sentences(faults))


def _not_json(error: SettingsError) -> str:
    """The message for a variable whose list or table is not JSON."""
    found = re.search(r'field "(\w+)"', str(error))
    if found is None:
        return f"settings: {error}"
    name = variable(found[1])
    got = mask_urls(repr(farm_variables().get(name, "")))
    example = '["a", "b"]' if found[1] in LISTS else '{"name": ...}'
    return f"{name}: give JSON, like {example}, got {got}"


def _fault(fault: Mapping[str, Any], origins: Mapping[str, Origin]) -> str:
    """One line for an error of pydantic's: the setting, what would be right, and the value."""
    name, *below = (part for part in fault["loc"] if part != "[key]")
    where = "".join(f"[{part!r}]" for part in below)
    setting = variable(name)
    if origins.get(name) == "file":
        setting = f"the settings' file {config_file()}: {name}"
    got = "" if name == "webhook_secret" else f", got {mask_urls(repr(fault['input']))}"
    what = str(fault["msg"]).replace("a valid tuple", "a list")  # as JSON and TOML call it
    return f"{setting}{where}: {what}{got}"
