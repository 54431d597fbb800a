"""The configuration tree's node class: yacs with messages that name the key, the file and the nearest valid key.

Values written as text are read as Python literals where they are some (`("a",)`, `1e-4`, `[{"id": 1}]`) and stay text
otherwise. A value must have the type of the default it replaces; whole numbers are taken for real ones, lists and
tuples for each other, and `None` for anything.
"""

import difflib
import json
import logging
from ast import literal_eval
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from maskrcnn_benchmark.config.deprecated_keys import DEPRECATED_KEYS

logger = logging.getLogger(__name__)

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package: a clone's root, or site-packages."""

RUNTIME_KEYS: dict[str, type] = {"local_rank": int, "num_gpus": int}
"""Keys that tools add to the root while running. They stand in dumped configurations, which must merge back."""

COMMAND_LINE = "the command line"

_already_warned: set[str] = set()


class ConfigError(ValueError):
    """A configuration file or override that cannot be used; the text says which key, where it came from and why."""


class UnknownKeyError(ConfigError, KeyError, AssertionError):
    """A key that the configuration does not define; yacs raises a KeyError in files, an AssertionError in overrides."""

    __str__ = ValueError.__str__  # KeyError would show the message quoted


class UnpairedKeyError(ConfigError, AssertionError):
    """An override without a value; an AssertionError, too, as that of yacs."""


class ConfigFileError(ConfigError, FileNotFoundError):
    """A configuration file that is missing, is a folder or cannot be read."""


class CfgNode(_YacsNode):
    """A group of the configuration tree."""

    def merge_from_file(self, cfg_filename: str | PathLike) -> None:
        """Overrides this tree with a YAML file.

        A relative path is looked up from the working directory, then from the folder that holds the package.

        Raises:
            ConfigFileError: there is no such file, or it is a folder.
            ConfigError: it is not YAML, or a value has the wrong type.
            UnknownKeyError: a key is not defined.
        """
        path = resolve_config_file(cfg_filename)
        self._merge(read_yaml(path), source=str(cfg_filename))

    def merge_from_other_cfg(self, cfg_other: Mapping) -> None:
        """Overrides this tree with another one."""
        self._merge(cfg_other, source="another configuration")

    def merge_from_list(self, cfg_list: Sequence) -> None:
        """Overrides single values: `["SOLVER.BASE_LR", 1e-4, "DATASETS.TEST", '("val",)']`."""
        if len(cfg_list) % 2:
            raise UnpairedKeyError(
                f"overrides come as pairs KEY VALUE, but there are {len(cfg_list)} words; the last is {cfg_list[-1]!r}"
            )
        for full_key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            if not isinstance(full_key, str):
                raise ConfigError(f"expected the name of a configuration key, got {full_key!r}")
            nested: Any = value
            for part in reversed(full_key.split(".")):
                nested = {part: nested}
            self._merge(nested, source=COMMAND_LINE)

    def define(self, full_key: str, default: Any) -> None:
        """Adds a key with its default, `full_key` being dotted; its group must exist and the key must not."""
        *groups, name = full_key.split(".")
        node = self
        for group in groups:
            node = node[group]
        if name in node:
            raise ValueError(f"configuration key {full_key} is defined twice")
        node[name] = default

    def keys_of_leaves(self) -> list[str]:
        """The dotted names of all values below this node, in order; an open or empty group counts as one."""
        names: list[str] = []
        for key, value in self.items():
            if isinstance(value, CfgNode) and value and not value.is_new_allowed():
                names += [f"{key}.{name}" for name in value.keys_of_leaves()]
            else:
                names.append(str(key))
        return names

    def _merge(self, other: Mapping, *, source: str) -> None:
        for key, value in other.items():
            if key in RUNTIME_KEYS and key not in self:
                self[key] = coerce(value, RUNTIME_KEYS[key](), full_key=key, source=source)
            else:
                _merge_value(self, key, value, full_key=str(key), root=self, source=source)


def resolve_config_file(path: str | PathLike) -> Path:
    """The existing file that `path` means: from the working directory, else from the folder that holds the package."""
    given = Path(path).expanduser()
    candidates = list(dict.fromkeys([given.absolute(), REPOSITORY_ROOT / given]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for candidate in candidates:
        if candidate.is_dir():
            raise ConfigFileError(f"configuration file {fspath(path)!r} is a folder; name a .yaml file in it")
    tried = " and ".join(map(str, candidates))
    raise ConfigFileError(f"configuration file {fspath(path)!r} does not exist (looked for {tried})")


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        json.dumps(content, default=str, skipkeys=True)  # fails where an alias refers to what holds it
    except RecursionError as error:
        raise ConfigError(f"{path} nests its values too deep") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ConfigFileError(f"configuration file {str(path)!r} cannot be read: {error.strerror}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}; a configuration file holds KEY: value pairs")
    return content


def decode(value: Any) -> Any:
    """A value as it is written -> the Python value it means."""
    if not isinstance(value, str):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def coerce(value: Any, default: Any, *, full_key: str, source: str) -> Any:
    """Reads `value` with the type of `default`; raises ConfigError where that cannot be."""
    decoded = decode(value)
    if isinstance(default, str):
        if decoded is None:
            return ""  # `KEY:` with nothing behind it
        if isinstance(value, str) and not isinstance(decoded, str):
            return value  # a folder named 123
        return _same_type(decoded, default, full_key, source)
    if decoded is None or default is None:
        return decoded
    if type(default) is float and type(decoded) is int:
        return float(decoded)
    if isinstance(default, list | tuple) and isinstance(decoded, list | tuple):
        return type(default)(decoded)
    return _same_type(decoded, default, full_key, source)


def _same_type(value: Any, default: Any, full_key: str, source: str) -> Any:
    if type(value) is type(default):
        return value
    hint = f"; write ({value!r},)" if isinstance(default, list | tuple) else ""
    raise ConfigError(
        f"{full_key} in {source}: expected {type(default).__name__} (default {default!r}), "
        f"got {type(value).__name__} {value!r}{hint}"
    )


def _merge_value(node: CfgNode, key: Any, value: Any, *, full_key: str, root: CfgNode, source: str) -> None:
    if key not in node:
        while isinstance(value, Mapping) and value:  # name the value, not the group around it
            sub_key, value = next(iter(value.items()))
            full_key = f"{full_key}.{sub_key}"
        raise UnknownKeyError(_unknown_key_message(full_key, root, source))
    default = node[key]
    if not isinstance(default, CfgNode):
        if isinstance(value, Mapping):
            unknown = f"{full_key}.{next(iter(value), '')}"
            raise UnknownKeyError(f"{full_key} in {source} is a single value, so {unknown} does not exist")
        node[key] = coerce(value, default, full_key=full_key, source=source)
        if node[key] != default:
            _warn_if_deprecated(full_key, source)
        return
    value = {} if value is None else decode(value)
    if not isinstance(value, Mapping):
        example = next(iter(default), None)
        hint = f"; did you mean {full_key}.{example}?" if example else ""
        raise ConfigError(f"{full_key} in {source} is a group of keys, not a value, and cannot be {value!r}{hint}")
    if default.is_new_allowed():
        _merge_open(default, value)
        if value:
            _warn_if_deprecated(full_key, source)
        return
    for sub_key, sub_value in value.items():
        _merge_value(default, sub_key, sub_value, full_key=f"{full_key}.{sub_key}", root=root, source=source)


def _merge_open(node: CfgNode, other: Mapping) -> None:
    """Merges into a group whose keys are the user's own: nothing is checked."""
    for key, value in other.items():
        if isinstance(value, Mapping):
            if not isinstance(node.get(key), CfgNode):
                node[key] = CfgNode()
            _merge_open(node[key], value)
        else:
            node[key] = decode(value) if key in node else value


def _unknown_key_message(full_key: str, root: CfgNode, source: str) -> str:
    known = root.keys_of_leaves()
    by_upper = {name.upper(): name for name in known}
    close = difflib.get_close_matches(full_key.upper(), by_upper, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong group
        close = [name for name in by_upper if name.rsplit(".", 1)[-1] == full_key.upper().rsplit(".", 1)[-1]][:1]
    hint = f"; the nearest valid key is {by_upper[close[0]]}" if close else ""
    return f"unknown configuration key {full_key} in {source}{hint}"


def _warn_if_deprecated(full_key: str, source: str) -> None:
    if full_key in DEPRECATED_KEYS and full_key not in _already_warned:
        _already_warned.add(full_key)
        logger.warning("%s in %s has no effect: %s", full_key, source, DEPRECATED_KEYS[full_key])
