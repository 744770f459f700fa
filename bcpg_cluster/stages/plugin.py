"""Code of the user's own: how it is named, which version of it is there, and how it is loaded where it works.

A name is ``path/to/file.py:name`` or ``package.module:name``. Naming and digests run nothing of it; :func:`load_plugin` does.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from bcpg_cluster.errors import ConfigError

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_REMEDY = "name it as path/to/file.py:name or package.module:name"


@dataclass(frozen=True, slots=True)
class PluginName:
    """Where a plug-in stands.

    Attributes:
        place: the path of a Python file, or a module's name.
        name: what it is called in there.
    """

    place: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether it is named by file."""
        return self.place.endswith(".py")

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"


def plugin_name(text: str, what: str) -> PluginName:
    """Read a name.

    Args:
        what: the config key, for the message.

    Raises:
        ConfigError: ``text`` names neither a file nor a module with something in it.
    """
    place, _, name = text.rpartition(":")
    is_place = place.endswith(".py") or _MODULE.fullmatch(place) is not None
    if not is_place or _IDENTIFIER.fullmatch(name) is None:
        raise ConfigError(
            f"{what} {text!r} is not an import path",
            rule="a plug-in is named by file and name, or by module and name",
            remedy=_REMEDY,
        )
    return PluginName(place, name)


def plugin_file(plugin: PluginName, what: str) -> Path | None:
    """The source file; ``None`` for a module that is not found on this machine or has no source. Imports nothing.

    Raises:
        ConfigError: it is named by file, and there is no such file.
    """
    if not plugin.is_file:
        return _module_file(plugin.place)
    path = Path(plugin.place).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"{what} {str(plugin)!r}: there is no file {path.absolute()}",
            rule="a plug-in's file is there when the run starts, and on every machine whose members call it",
            remedy="correct the path (relative ones count from the working directory), or put it on shared storage",
        )
    return path


def plugin_digest(plugin: PluginName, what: str) -> str | None:
    """Names the content of its source file; ``None`` where :func:`plugin_file` finds none. Raises like that one."""
    path = plugin_file(plugin, what)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _module_file(module: str) -> Path | None:
    """A module's source, found as an import would find it, without importing the packages around it."""
    search: list[str] | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, search)
        if spec is None:
            return None
        search = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    assert spec is not None
    path = Path(spec.origin) if spec.origin else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def check_plugin(text: str, what: str) -> None:
    """Look for a plug-in without running it: its file can be parsed and says its name. A module that is not found here may still
    be where the members run.

    Raises:
        ConfigError: what is wrong.
    """
    plugin = plugin_name(text, what)
    path = plugin_file(plugin, what)
    if path is None:
        return
    try:
        content = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise not_loadable(plugin, what, f"{type(error).__name__}: {error}") from None
    said = {name for node in ast.walk(content) for name in _names_bound(node)}
    if plugin.name not in said and not said & {"*", "__getattr__"}:
        near = difflib.get_close_matches(plugin.name, said, n=1)
        raise not_loadable(
            plugin, what, f"{path} has no {plugin.name}" + (f"; did you mean {near[0]}?" if near else "")
        )


def _names_bound(node: ast.AST) -> list[str]:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return [name]
        case ast.Name(id=name, ctx=ast.Store()):
            return [name]
        case ast.alias(name=name, asname=other):
            return [other or name]
    return []


def load_plugin(text: str, what: str, digest: str | None = None) -> Any:
    """Import what is named. Runs the user's code.

    Args:
        digest: of the content the run was started with; ``None`` takes any.

    Raises:
        ConfigError: it cannot be imported, has no such name, or its file has changed.
    """
    plugin = plugin_name(text, what)
    if digest is not None and plugin_digest(plugin, what) != digest:
        raise changed_error(plugin, what)
    try:
        module = _file_module(plugin, what) if plugin.is_file else importlib.import_module(plugin.place)
        if not hasattr(module, plugin.name):
            raise not_loadable(plugin, what, f"{plugin.place} has no {plugin.name}")
        return getattr(module, plugin.name)
    except ConfigError:
        raise
    except Exception as error:  # a user's module may raise anything
        raise not_loadable(plugin, what, f"{type(error).__name__}: {error}") from error


def changed_error(plugin: PluginName, what: str) -> ConfigError:
    """The plug-in is not the one the run was started with."""
    return ConfigError(
        f"{what} {str(plugin)!r} has changed since the run was started",
        rule="a run keeps the code that decides its results",
        remedy="put the file back as it was, or start another run (another --run-dir)",
    )


def not_loadable(plugin: PluginName, what: str, problem: str) -> ConfigError:
    """The plug-in cannot be imported or used."""
    return ConfigError(
        f"{what} {str(plugin)!r} cannot be used: {problem}",
        rule="it names something callable that every worker can import",
        remedy="correct the file or the name; install a package where the workers run, or put its folder on PYTHONPATH",
    )


def _file_module(plugin: PluginName, what: str) -> ModuleType:
    path = plugin_file(plugin, what)
    assert path is not None
    folder = str(path.absolute().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # it may import what lies beside it, as a script may
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def make_plugin(
    plugin: PluginName, what: str, options: Mapping[str, Any], digest: str | None, *, needs: tuple[str, ...]
) -> Any:
    """Make an object of a class of the user's own; of a function for which it is enough to be called, that function.

    Args:
        options: keyword arguments.
        needs: the attributes that the object must have.

    Raises:
        ConfigError: it cannot be loaded or made, or lacks one of them.
    """
    loaded = load_plugin(str(plugin), what, digest)
    if not callable(loaded):
        raise not_loadable(plugin, what, f"its type is {type(loaded).__name__}, which cannot be called")
    if needs == ("__call__",) and not isinstance(loaded, type):
        return partial(loaded, **options)
    try:
        made = loaded(**options)
    except Exception as error:  # a user's class may raise anything
        raise not_loadable(
            plugin, what, f"it was called with {dict(options)}: {type(error).__name__}: {error}"
        ) from error
    missing = [name for name in needs if not hasattr(made, name)]
    if missing:
        raise not_loadable(plugin, what, f"{type(made).__name__} lacks {', '.join(missing)}")
    return made
