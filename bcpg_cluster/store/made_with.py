"""What a run is made with besides its configuration and its problems: programs, machine, and files that it only reads."""

from __future__ import annotations

from bcpg_cluster.store.reports import Stored


class Device(Stored):
    """The machine that drove the run.

    Attributes:
        architecture: as the kernel names it (``x86_64``).
        cpu: the processor's own name; empty where the system does not say.
        num_cpus: processors this process may use.
        gpus: the NVIDIA GPUs' names, in the driver's order.
    """

    architecture: str
    cpu: str
    num_cpus: int
    gpus: list[str]


class FilesDigest(Stored):
    """A file or a directory that a run reads.

    Attributes:
        source: as the config names it.
        sha256: hex, over names and contents; ``None`` where it is not on this machine.
        num_bytes: of all files together.
        is_sampled: of files above a gibibyte, size and 64 evenly spaced mebibytes were read instead of the whole.
    """

    source: str
    sha256: str | None
    num_bytes: int
    is_sampled: bool


class MadeWith(Stored):
    """All of it; ``files`` by the config key that names them."""

    versions: dict[str, str]
    device: Device
    files: dict[str, FilesDigest]
