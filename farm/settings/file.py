"""The settings' file, `farm.toml`: each setting by its name without FARM_, in small letters."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, TomlConfigSettingsSource

from farm.errors import RequestError
from farm.settings.environment import PREFIX
from svd_engine.nearest import did_you_mean, in_sentences

PATHS = ("store", "keys_file")  # a relative path in the file begins at the file's folder


def values_in(file: Path) -> dict[str, Any]:
    """What a file gives, unchecked. Raises OSError, or ValueError if it is not TOML."""
    return tomllib.loads(file.read_text())


class File(TomlConfigSettingsSource):
    """The values of a file, each as a whole: a table is not merged with the environment's."""

    def __init__(self, settings: type[BaseSettings], file: Path) -> None:
        """Raises RequestError if the file cannot be read, or has a key that is no setting."""
        try:
            with file.open("rb"):  # pydantic-settings passes over a file that is not there
                super().__init__(settings, file)
        except OSError as error:
            raise RequestError(f"the settings' file {file}: {error.strerror}") from error
        except ValueError as error:  # TOMLDecodeError, or not UTF-8
            raise RequestError(f"the settings' file {file} is not TOML: {error}") from error
        if faults := in_sentences(filter(None, map(self._fault, self.toml_data))):
            raise RequestError(f"the settings' file {file}: {faults}")
        self._folder = file.parent

    def _fault(self, name: str) -> str:
        """What is wrong with a key, and is not left to pydantic; empty if nothing is."""
        field = self.settings_cls.model_fields.get(name)
        if field is None:
            plain = name.lower().removeprefix(PREFIX.lower())
            near = did_you_mean(plain, self.settings_cls.model_fields)
            return f"Unknown setting {name!r}{near}"
        value = self.toml_data[name]
        if isinstance(value, bool) and field.annotation is not bool:  # pydantic reads it as 1 or 0
            return f"{name}: it is not true or false, got {str(value).lower()}"
        return ""

    def __call__(self) -> dict[str, Any]:
        """The values that neither a flag nor the environment gives."""
        values = {n: v for n, v in super().__call__().items() if n not in self.current_state}
        for name in PATHS:
            path = values.get(name)
            if isinstance(path, str) and path and "://" not in path:
                values[name] = str(self._folder / Path(path).expanduser())
        return values
