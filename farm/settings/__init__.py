"""The farm's settings: from arguments, variables FARM_*, the file `farm.toml`, or defaults.

No other package of the farm reads the environment.
"""

from farm.settings.effective import Effective, as_json, as_toml, effective
from farm.settings.environment import (
    config_file,
    environment_for_reports,
    ray_address,
    ray_environment,
    set_ray_address,
    traces_endpoint,
)
from farm.settings.fields import KEYS, Address, Key, Settings
from farm.settings.loading import VARIABLES, handed_on, load_settings, read_keys
from farm.settings.secrets import known_secrets

__all__ = [
    "KEYS",
    "VARIABLES",
    "Address",
    "Effective",
    "Key",
    "Settings",
    "as_json",
    "as_toml",
    "config_file",
    "effective",
    "environment_for_reports",
    "handed_on",
    "known_secrets",
    "load_settings",
    "ray_address",
    "ray_environment",
    "read_keys",
    "set_ray_address",
    "traces_endpoint",
]
