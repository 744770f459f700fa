"""Code of the user's own that a config names: pinned to its content when the config is read, and found by every member."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import Section
from bcpg_cluster.stages.plugin import PluginName, plugin_digest, plugin_name

_SECTIONS = ("verify", "segment")  # and every judge


def pin_plugins(content: dict[str, Any]) -> None:
    """Add to a configuration's content (in place) the digest of each plug-in's file, where none is given.

    With it the content of the plug-in is part of the run's identity. A reward function named by module has none: runs made
    before there were digests name theirs so.

    Raises:
        ConfigError: a name that is neither a file's nor a module's, or a file that is not there.
    """
    for key, section in _sections_in(content):
        for kind in ("function", "class"):
            text = section.get(kind)
            if not isinstance(text, str) or section.get(f"{kind}_digest") is not None:
                continue
            plugin = plugin_name(text, f"{key}.{kind}")
            if plugin.is_file or kind == "class":
                section[f"{kind}_digest"] = plugin_digest(plugin, f"{key}.{kind}")


def _sections_in(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    judges = content.get("judges")
    named = {name: content.get(name) for name in _SECTIONS}
    named |= {f"judges.{name}": judge for name, judge in judges.items()} if isinstance(judges, dict) else {}
    return ((key, section) for key, section in named.items() if isinstance(section, dict))


def with_absolute_plugins(config: Config) -> Config:
    """The config for members, whose working directory may be another one: plug-ins named by file have absolute paths."""
    judges = {name: _absolute(judge) for name, judge in config.judges.items()}
    return config.model_copy(
        update={"verify": _absolute(config.verify), "segment": _absolute(config.segment), "judges": judges}
    )


def _absolute(section: Section) -> Section:
    named = {field: getattr(section, field, None) for field in ("function", "class_")}
    return section.model_copy(update={field: _absolute_name(text) for field, text in named.items() if text})


def _absolute_name(text: str) -> str:
    plugin = plugin_name(text, "plug-in")
    if not plugin.is_file:
        return text
    return str(PluginName(str(Path(plugin.place).expanduser().absolute()), plugin.name))
