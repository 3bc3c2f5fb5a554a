"""Checks of the settings."""

from farm.doctor.check import Context, Findings, failed, ok
from farm.errors import RequestError
from farm.settings import config_file, read_keys


def settings(context: Context) -> Findings:
    """Whether the settings are right, and where they come from."""
    if context.settings is None:
        yield failed(f"{context.fault}.", "Correct it: python -m farm config shows the settings.")
        return
    given = sorted(context.settings.model_fields_set)
    file = config_file()
    text = f"{len(given)} settings are not the default" if given else "All settings are the default"
    yield ok(f"{text}{': ' if given else ''}{', '.join(given)}; the file is {file or 'none'}.")


def keys(context: Context) -> Findings:
    """Whether the keys of the HTTP API can be read."""
    own = context.need_settings()
    if own.keys and own.keys_file is not None:
        yield failed("FARM_KEYS and FARM_KEYS_FILE are both given.", "Give one of them.")
        return
    try:
        known = own.keys if own.keys_file is None else read_keys(own.keys_file)
    except RequestError as error:
        yield failed(f"{error}.", "Correct the file; `Keys` in farm/ingress/README.md shows one.")
        return
    if known:
        yield ok(f"{len(known)} keys may use the HTTP API.")
    elif own.keys_file is not None:
        yield ok(f"{own.keys_file} has no keys, so nobody may use the HTTP API.")
    else:
        yield ok("There are no keys, so only programs on this machine may use the HTTP API.")
