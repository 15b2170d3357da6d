"""The users of bots: each container has a user and a group of its own, with one number. Pure.

The kernel counts some limits for each user: inotify instances, pending signals, message queues, pipe buffers. A number
is free again when its container has ended. It is chosen while the lock of the engine's workers is held, and the label
of the created container says who has it.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from libs.core.errors import UserError
from libs.core.room import Need

FIRST_SETTING, COUNT_SETTING = "SANDBOX_UID_FIRST", "SANDBOX_UID_COUNT"


class UsersUnusable(UserError):
    """The range of users is too small, or has numbers that are not for bots."""

    def __init__(self, users: "UserRange", reason: str) -> None:
        super().__init__(f"the users of bots, {users} ({FIRST_SETTING}, {COUNT_SETTING}), {reason}")
        self.users, self.reason = users, reason


@dataclass(frozen=True)
class UserRange:
    """The numbers from *first* on that are for bots alone."""

    first: int = 30_000
    count: int = 20_000

    def __str__(self) -> str:
        return f"{self.first} to {self.first + self.count - 1}"

    def __contains__(self, number: int) -> bool:
        return self.first <= number < self.first + self.count

    def choose(self, name: str, taken: Collection[int]) -> int | None:
        """Return a number that is not *taken* for the container *name*; None when there is none.

        It depends on the name, so that a bot mostly keeps its number, and that engines of one kernel, which do not know
        each other's containers, rarely choose the same.
        """
        begin = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % self.count
        for step in range(self.count):
            number = self.first + (begin + step) % self.count
            if number not in taken:
                return number
        return None

    def check(self, *, worker_user: int, socket_group: int | None, total: Need, entity: Need) -> None:
        """Check that bots can have these numbers, when the worker starts.

        Args:
            worker_user: the worker's own user.
            socket_group: the group of the engine's socket; None when there is none.
            total: the engine's room; 0 for what it does not report.
            entity: the need of a container without limits of its own.

        Raises:
            UsersUnusable: the operator has to change the settings.
        """
        if worker_user in self:
            raise UsersUnusable(self, f"contain {worker_user}, the user of the worker, whose files bots could change")
        if socket_group is not None and socket_group in self:
            raise UsersUnusable(self, f"contain {socket_group}, the group of the Docker engine's socket")
        pairs = ((total.memory_bytes, entity.memory_bytes), (total.cpus, entity.cpus))
        most = min((have // need for have, need in pairs if have and need), default=0)
        if self.count < most:
            raise UsersUnusable(self, f"are too few: the engine has room for {most:g} containers")
