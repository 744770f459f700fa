"""Where a run lives: a directory that this machine sees (``pathlib.Path``), or a place in an object store (``StoredPath``).

``StoredPath`` has as much of ``Path``'s interface as a run needs, over any fsspec file system (``s3://``, ``gs://``, ``abfs://``,
``hdfs://`` by pyarrow, ``memory://`` for tests). It has no rename and no append, since object stores have none: an object appears
whole or not at all, and what it means that it is there is for the manifest to say. A directory is there while something lies in it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from bcpg_cluster.errors import RunDirectoryError, UnreachableError

_Result = TypeVar("_Result")

# Places without directories of their own; elsewhere parents are made before a file is written.
_FLAT = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "memory", "oss", "r2"}
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_ATOMIC = {"s3", "s3a", "gs", "gcs", "memory"}  # drivers whose put knows "only where there is none"
_SETTLE_S = 3.0
_ONE_AT_A_TIME = threading.Lock()
_NO_CACHE = {"use_listings_cache": False}  # other processes write too


@dataclass(frozen=True)
class StoredPath:
    """A place in an object store. Pickles as its address and options; every process opens its own connection.

    Attributes:
        url: ``protocol://bucket/key``, without a slash at the end.
        options: for the fsspec driver (``endpoint_url``, ...); not shown, and places that differ in them alone are one.

    Raises:
        UnreachableError: from every method, when the store does not answer or refuses (its driver has tried again by then).
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> StoredPath:
        return StoredPath(f"{self.url}/{name}", self.options)

    @property
    def _protocol(self) -> str:
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    def absolute(self) -> StoredPath:
        """Itself."""
        return self

    def read_bytes(self) -> bytes:
        """The object's content. Raises FileNotFoundError when there is none."""
        return bytes(self._ask("read", lambda fs, key: fs.cat_file(key)))

    def read_text(self) -> str:
        """The object's content, UTF-8."""
        return self.read_bytes().decode()

    def write(self, content: bytes) -> None:
        """Put an object, in the place of one that is there; it is never seen half."""
        self._make_parents()
        self._ask("write", lambda fs, key: fs.pipe_file(key, content))

    def create(self, content: bytes) -> bool:
        """Put an object where there is none yet; False when there is one, or when another process was first.

        S3 and Google decide by themselves. Where the driver has no such put (adlfs drops the wish without a word), the last
        of those that put at one moment wins, and all look after a while whether it was them: sure only if none is slower.
        """
        self._make_parents()

        def put(fs: Any, key: str) -> bool:
            if fs.exists(key):
                return False
            if self._protocol in _ATOMIC:
                try:
                    with _ONE_AT_A_TIME:  # memory:// is this process's alone, but looks and puts in two steps
                        fs.pipe_file(key, content, mode="create")
                except FileExistsError:
                    return False
            else:
                fs.pipe_file(key, content)
                time.sleep(_SETTLE_S)
            return bool(fs.cat_file(key) == content)

        return self._ask("create", put)

    def exists(self) -> bool:
        """Whether an object is here, or below."""
        return bool(self._ask("check", lambda fs, key: fs.exists(key)))

    def is_file(self) -> bool:
        """Whether an object is here."""
        return bool(self._ask("check", lambda fs, key: fs.isfile(key)))

    def is_dir(self) -> bool:
        """Whether an object is below."""
        return next(iter(self.iterdir()), None) is not None

    def iterdir(self) -> Iterator[StoredPath]:
        """What lies directly below, by name; nothing when there is nothing."""

        def names(fs: Any, key: str) -> list[str]:
            try:
                found = fs.ls(key, detail=False, refresh=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            below = {child.rstrip("/") for child in found} - {key.rstrip("/")}
            return sorted(child.rpartition("/")[2] for child in below)

        for name in self._ask("list", names):
            yield self / name

    def read_children(self, names: list[str]) -> list[bytes]:
        """The content of several objects below, fetched together."""
        if not names:
            return []

        def fetch(fs: Any, key: str) -> list[bytes]:
            found = fs.cat([f"{key}/{name}" for name in names])
            by_name = {path.rpartition("/")[2]: content for path, content in found.items()}
            return [by_name[name] for name in names]

        return self._ask("read", fetch)

    def upload(self, source: Path) -> None:
        """Put a local file here; in parts where it is large, and there only when all of them are."""
        self._make_parents()
        self._ask("write", lambda fs, key: fs.put_file(str(source), key))

    def download(self, target: Path) -> None:
        """Write the object to a local file."""
        self._ask("read", lambda fs, key: fs.get_file(key, str(target)))

    def remove_tree(self) -> None:
        """Delete the object and all below; nothing happens when there is none."""

        def remove(fs: Any, key: str) -> None:
            try:
                fs.rm(key, recursive=True)
            except FileNotFoundError:
                return

        self._ask("remove", remove)

    def check_reachable(self) -> None:
        """Check that driver, credentials and bucket are there, by one listing.

        Raises:
            RunDirectoryError: one of them is missing.
        """
        try:
            self._ask("list", _list_bucket)
        except (UnreachableError, FileNotFoundError) as error:
            raise RunDirectoryError(
                f"{self.url} cannot be reached: {error}",
                rule="the bucket of a run exists before the run starts, and the credentials at hand may list, read and write it",
                remedy="correct --run-dir, the environment (AWS_..., GOOGLE_..., FSSPEC_...), or storage.options of the config",
            ) from None

    def _make_parents(self) -> None:
        if self._protocol not in _FLAT:
            self._ask("make the parent of", lambda fs, key: fs.makedirs(key.rpartition("/")[0], exist_ok=True))

    def _ask(self, what: str, call: Callable[[Any, str], _Result]) -> _Result:
        """One call of the driver. What it raises besides 'not found' is the vendor's own, of any type."""
        import fsspec

        try:
            fs, key = fsspec.core.url_to_fs(self.url, **{**_NO_CACHE, **self.options})
            return call(fs, key)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise UnreachableError(f"could not {what} {self.url}: {type(error).__name__}: {error}") from error


RunPath: TypeAlias = Path | StoredPath


def _list_bucket(fs: Any, key: str) -> None:
    try:
        fs.ls(key, detail=False, refresh=True)
    except FileNotFoundError:
        # Nothing there yet is good; a bucket that is not there is not. (Drivers say the same of both.)
        if not key.startswith("/"):  # where there are no buckets, keys are absolute
            fs.ls(key.partition("/")[0], detail=False, refresh=True)


def run_path(place: str | Path | StoredPath, options: Mapping[str, Any] | None = None) -> RunPath:
    """The place a person names: a path, or the address of an object store.

    Args:
        place: ``runs/a``, ``file:///runs/a``, ``s3://bucket/runs/a``; what is a place already stays what it is.
        options: for the store's driver (``storage.options`` of the config).

    Raises:
        RunDirectoryError: no driver for such an address is installed.
    """
    if isinstance(place, StoredPath):
        return StoredPath(place.url, {**place.options, **(options or {})})
    if isinstance(place, Path) or "://" not in place:
        return Path(place)
    protocol, _, rest = place.partition("://")
    if protocol in ("file", "local"):
        return Path(rest)
    import fsspec

    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(protocol)
        raise RunDirectoryError(
            f"{place} cannot be opened: {error}",
            rule="a run lives in a directory, or at an address with an installed fsspec driver",
            remedy=f"pip install 'bcpg-cluster[{extra}]'" if extra else "install the driver, or correct the address",
        ) from None
    bucket, _, _ = rest.partition("/")
    if not rest.strip("/") or "::" in place or (not bucket and protocol in _EXTRAS):
        raise RunDirectoryError(
            f"{place} names no place",
            rule="an address is protocol://bucket/path, without chains of drivers",
            remedy="e.g. s3://bucket/runs/a",
        )
    return StoredPath(f"{protocol}://{rest.rstrip('/')}", dict(options or {}))


def local_only(place: RunPath, what: str) -> Path:
    """``place`` where it is a directory of this machine. Raises :class:`RunDirectoryError`: ``what`` cannot be elsewhere."""
    if isinstance(place, StoredPath):
        raise RunDirectoryError(
            f"{what} cannot live at {place}",
            rule=f"{what} lives in a directory that this machine sees; runs of `iterate` may live in an object store",
            remedy="give a directory as --run-dir",
        )
    return place


def read_json(path: RunPath) -> Any:
    """A small JSON file; ``None`` when it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
