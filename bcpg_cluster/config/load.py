"""Reading a config: files that extend files, ``--set`` overrides, and errors that name every offending key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bcpg_cluster.config.invalid.keys import InvalidConfigError, faulty_keys
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, page


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name (``ablations/rft``)."""
    package = Path(__file__).parents[1]
    folder = package / "configs"
    if not folder.is_dir():  # a checkout: configs/ is beside the package
        folder = package.parent / "configs"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def load_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    complete: Callable[[dict[str, Any]], None] = lambda content: None,
) -> Config:
    """Read a config by path or shipped name, with ``key.path=value`` overrides (values are YAML).

    Args:
        complete: adds to the content, overrides included, what follows from it (``config.task_defaults``).

    Raises:
        ConfigError: it does not exist, is not YAML, or is invalid; names every offending key.
    """
    path = shipped_configs().get(str(source)) or Path(source)
    return change_config(_read_file(path, ()), overrides, str(path), complete)


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A key appears twice in one mapping."""


def read_yaml(text: str) -> Any:
    """The content of a YAML text. Raises ``yaml.YAMLError``; :class:`RepeatedKeyError` for a key that appears twice in one mapping,
    of which YAML would silently take the last.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check_keys(root, set())
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node, seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            _check_keys(value, seen)
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise RepeatedKeyError(None, None, f"the key {key.value!r} appears twice", key.start_mark)
                keys.add((key.tag, key.value))


def _read_file(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """A file's content over that of the file its key ``extends`` names, which is looked for beside it."""
    if not path.is_file():
        raise ConfigError(
            f"config {str(path)!r} does not exist" + (f" ({extended_by[-1]} extends it)" if extended_by else ""),
            rule="--config and extends name a shipped config or a YAML file (extends: one beside the file that says it)",
            remedy=f"shipped: {', '.join(shipped_configs()) or 'none'}",
        )
    try:
        content = read_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {_said(error)}",
            rule="a config is a YAML mapping, in UTF-8, and no key appears twice",
            remedy="correct the file",
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} is empty" if content is None else f"{path} is not a mapping: {content!r:.60}",
            rule="a config is a YAML mapping of sections",
            remedy=f"begin with a shipped one: extends: laptop, or a copy of {shipped_configs().get('laptop', 'laptop.yaml')}",
        )
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str) or path in extended_by:
        raise ConfigError(
            f"{path} extends {base!r}" + (", which extends it too" if path in extended_by else ""),
            rule="extends is a shipped config's name, or the path of another config, relative to the file that says it",
            remedy="correct the path, or write the keys out",
        )
    return _laid_over(_read_file(_extended(path, base), (*extended_by, path)), content)


def _said(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What is wrong with a YAML text, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        is_yaml = "" if isinstance(error, RepeatedKeyError) else "not YAML: "
        return f"{is_yaml}line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return f"not YAML: {error}"


def _extended(path: Path, base: str) -> Path:
    """The file that ``extends: base`` in ``path`` names: one beside it, else a shipped config by its name."""
    beside = path.parent / base
    return beside if beside.is_file() else shipped_configs().get(base, beside)


def _laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are joined key by key; everything else is replaced. An objective of another name replaces the whole section."""
    joined = dict(below)
    for key, value in above.items():
        old = joined.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and value.get("name") in (None, old.get("name")):
            joined[key] = _laid_over(old, value)
        else:
            joined[key] = value
    return joined


def change_config(
    content: dict[str, Any],
    overrides: Sequence[str],
    where: str,
    complete: Callable[[dict[str, Any]], None] = lambda content: None,
) -> Config:
    """Check a mapping with ``key.path=value`` overrides applied to it (in place). Raises like :func:`load_config`."""
    for override in overrides:
        _apply_override(content, override)
    complete(content)
    return parse_config(content, where)


def parse_config(content: Mapping[str, Any], where: str) -> Config:
    """Check a mapping. Raises :class:`InvalidConfigError` naming every faulty key, the rule, and near names for typing slips."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise InvalidConfigError(where, faulty_keys(error), content) from None


def _apply_override(content: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in place. A pool's name may hold a dot (``pools.judge.llm.members=2``)."""
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"--set {override!r} cannot be read", rule="--set section.key=value", remedy="e.g. --set weigh.beta=0.25"
        )
    if parts[:2] == ["pools", "judge"] and len(parts) >= 4:
        parts[1:3] = [f"judge.{parts[2]}"]
    node = content
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(
                f"--set {override!r}: {part!r} is not a section",
                rule="--set section.key=value",
                remedy=f"see {page('config.md')}",
            )
    try:
        node[parts[-1]] = read_yaml(value)
    except RepeatedKeyError as error:
        raise ConfigError(
            f"--set {override!r}: {error.problem}", rule="no key appears twice", remedy="remove one of the two"
        ) from None
    except yaml.YAMLError:
        node[parts[-1]] = value
