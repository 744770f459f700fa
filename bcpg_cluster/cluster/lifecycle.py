"""The calls that every member answers, whatever it hosts: typed, and each named once."""

from __future__ import annotations

from concurrent.futures import Future

from bcpg_cluster.cluster.liveness.rank_progress import RankProgress
from bcpg_cluster.cluster.runtime import Member


def ping(member: Member) -> Future[str]:
    """Ends when the member is ready."""
    return member.call("ping", control=True, label="start")


def sleep(member: Member) -> Future[bool]:
    """Whether its engine freed the device."""
    return member.call("sleep", control=True)


def wake_up(member: Member) -> Future[None]:
    """Ends when its engine has the device again."""
    return member.call("wake_up", control=True)


def rendezvous(member: Member) -> Future[tuple[str, int]]:
    """Where a gang can meet, on this member's machine."""
    return member.call("rendezvous", label="rendezvous")


def meet(member: Member, host: str, port: int) -> Future[None]:
    """Ends when all ranks have met."""
    return member.call("meet", host, port, label="meet")


def progress(member: Member) -> Future[RankProgress]:
    """Where a rank of a gang is in its work; answered while it works."""
    return member.call("progress", control=True, label="progress")
