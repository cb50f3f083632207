"""Secrets by file: `ZONECAST_<NAME>_FILE` names a file that holds what `ZONECAST_<NAME>` would."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

SUFFIX: Final = "_FILE"
SECRET_MAX_BYTES: Final = 65_536


class SecretFileError(Exception):
    """A file that a variable names can't be used; the message is one line, without contents."""


class SecretFiles(EnvSettingsSource):
    """Reads settings that are secrets from files, as containers are given them.

    The end of the last line doesn't count. Files are read once, when the process starts.
    """

    def __init__(self, settings_class: type[BaseSettings], given: set[str]) -> None:
        """Prepare to look at the environment.

        Args:
            settings_class: Whose secrets are looked for.
            given: Names of settings that options of the command line give; they win.
        """
        super().__init__(settings_class)
        self._given = given

    def __call__(self) -> dict[str, Any]:
        """Return what files hold, by the setting's name.

        Raises:
            SecretFileError: a file can't be read, or the variable itself is set, too.
        """
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            if not _is_secret(field):
                continue
            variable = f"{self.env_prefix}{name}".upper()
            path = self.env_vars.get((variable + SUFFIX).lower())
            if not path or name in self._given:
                continue
            if self.env_vars.get(variable.lower()):
                raise SecretFileError(f"{variable} and {variable}{SUFFIX} are both set: keep one")
            found[name] = _read(variable + SUFFIX, path)
        return found


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ()))


def _read(variable: str, path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(SECRET_MAX_BYTES + 1)
    except OSError as error:
        raise SecretFileError(f"{variable}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise SecretFileError(f"{variable}: the file is no text") from error
    if len(text) > SECRET_MAX_BYTES:
        raise SecretFileError(f"{variable}: the file is too large for a secret")
    if not text.strip():
        raise SecretFileError(f"{variable}: the file is empty")
    return text.rstrip("\r\n")
