"""The calls that every member answers, whatever it hosts: typed, and each named once."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from bcpg_cluster.cluster.runtime import Member


class Hosted(Protocol):
    """What a member hosts, as pools and gangs see it."""

    def ping(self) -> str:
        """Answered as soon as the member is ready to work."""
        ...


class HostedSleeper(Hosted, Protocol):
    """What a member of a pool that takes turns hosts."""

    def sleep(self) -> bool:
        """Free the device; false when this engine cannot."""
        ...

    def wake_up(self) -> None:
        """Take the device again."""
        ...


class HostedRank(Hosted, Protocol):
    """What a member of a gang hosts."""

    def rendezvous(self) -> tuple[str, int]:
        """An address of this machine, and a free port, for the group to meet at."""
        ...

    def meet(self, host: str, port: int) -> None:
        """Returns when all ranks have met."""
        ...


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
