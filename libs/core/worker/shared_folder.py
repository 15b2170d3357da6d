"""The folder that the workers of one engine share: each one's lock, which proves its death, and its offers of leases.

Each worker process has a file, locked for as long as the process lives: the kernel releases the lock when the process
ends, however it ends, and never before. A frozen process keeps its lock. The lock is an flock on a descriptor that is
closed in child processes, and it works between containers that mount the same folder. All calls block, for as long as
reading a few small files takes.
"""

import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.core.leases.boot_clock import this_boot
from libs.core.leases.lease import Holder

_LOCKED = ".worker"
_LEAVING = ".leaving"
_OFFER = ".offer"
_MOST_BYTES = 4096
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Offer:
    """A lease that its holder hands over: it starts nothing more, and renews the lease until it is taken.

    *to* is the instance that should take it; empty: any.
    """

    segment_id: int
    epoch: int
    to: str = ""


@dataclass(frozen=True, slots=True)
class SharingWorker:
    """A worker process with a file in the folder.

    Attributes:
        alive: whether it holds its lock. False is final.
        leaving: whether it is about to end, so that it takes no lease.
        work_folder: identifies its folder of logs and results, see :func:`identity_of`.
    """

    holder: Holder
    work_folder: str
    alive: bool
    leaving: bool
    offers: tuple[Offer, ...] = ()


class SharedFolder:
    """The folder, as one worker uses it.

    Args:
        work_folder: the folder in which this worker keeps logs and results. A worker with another one does not find
            this worker's, and is no successor of it.
    """

    def __init__(self, folder: Path, holder: Holder, work_folder: Path) -> None:
        self._folder = folder
        self._holder = holder
        self._work_folder = work_folder
        self._descriptor: int | None = None
        self._own_work_folder = ""

    @property
    def is_open(self) -> bool:
        """Whether this worker's file is made and locked."""
        return self._descriptor is not None

    def open(self) -> None:
        """Make this worker's file and lock it. May be repeated.

        Raises:
            OSError: it cannot be made; other workers cannot find out whether this one lives.
        """
        if self._descriptor is not None:
            return
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._own_work_folder = identity_of(self._work_folder)
        unlocked = self._folder / f".{self._holder.instance_id}.new"
        descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, json.dumps(_to_record(self._holder, self._own_work_folder)).encode())
            # Visible only now: other workers never see it unlocked while this process lives.
            unlocked.rename(self._path(self._holder, _LOCKED))
        except BaseException:
            with suppress(OSError):
                unlocked.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def close(self, *, keeps_leases: bool) -> None:
        """Release the lock, which allows neighbours to take over what is left. May be repeated."""
        if self._descriptor is None:
            return
        if not keeps_leases:
            self.forget(self._holder)
        os.close(self._descriptor)
        self._descriptor = None

    def neighbours(self) -> list[SharingWorker]:
        """Return the other workers on this kernel and engine that use the same folders.

        Raises:
            OSError: the folder cannot be read.
        """
        if self._descriptor is None:
            return []
        names = sorted(entry.name for entry in os.scandir(self._folder))
        found = []
        for name in names:
            instance_id = name.removesuffix(_LOCKED)
            if instance_id == name or instance_id == self._holder.instance_id:
                continue
            worker = self._look_at(instance_id, names)
            if worker is not None and self._is_neighbour(worker):
                found.append(worker)
        return found

    def leave(self) -> None:
        """Note that this worker is about to end, so that nothing is offered to it. May be repeated."""
        if self._descriptor is not None:
            self._path(self._holder, _LEAVING).touch(mode=0o600)

    def offer(self, offer: Offer) -> None:
        """Offer a lease of this worker. Replaces an earlier offer of the segment."""
        path = self._offer_path(self._holder, offer.segment_id)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"segment_id": offer.segment_id, "epoch": offer.epoch, "to": offer.to}))
        new.rename(path)

    def is_offered(self, segment_id: int) -> bool:
        """Whether this worker's offer of the segment is still open."""
        return self._offer_path(self._holder, segment_id).exists()

    def withdraw(self, segment_id: int) -> None:
        """Withdraw this worker's offer. May be repeated."""
        self._offer_path(self._holder, segment_id).unlink(missing_ok=True)

    def accept(self, giver: Holder, segment_id: int) -> None:
        """Inform *giver* that the lease was taken. May be repeated."""
        self._offer_path(giver, segment_id).unlink(missing_ok=True)

    def forget(self, holder: Holder) -> None:
        """Remove the files of a dead worker, or of this one. May be repeated."""
        prefix = f"{holder.instance_id}."
        for entry in list(os.scandir(self._folder)):
            # The lock's file last: without it the others are never looked at again.
            if entry.name.startswith(prefix) and not entry.name.endswith(_LOCKED):
                with suppress(OSError):
                    os.unlink(entry.path)
        with suppress(OSError):
            self._path(holder, _LOCKED).unlink(missing_ok=True)

    # --- inside

    def _is_neighbour(self, worker: SharingWorker) -> bool:
        return worker.holder.is_neighbour_of(self._holder) and worker.work_folder == self._own_work_folder

    def _look_at(self, instance_id: str, names: Sequence[str]) -> SharingWorker | None:
        try:
            descriptor = os.open(
                self._folder / f"{instance_id}{_LOCKED}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError:
            return None  # it has just ended, or belongs to another user
        try:
            # The record first: one that was replaced or written after the lock was tested proves nothing.
            record = json.loads(os.read(descriptor, _MOST_BYTES))
            holder = _holder_of(record)
            if holder.instance_id != instance_id:
                return None
            return SharingWorker(
                holder,
                str(record["work_folder"]),
                alive=_is_locked(descriptor),
                leaving=f"{instance_id}{_LEAVING}" in names,
                offers=tuple(self._offers_of(instance_id, names)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        finally:
            os.close(descriptor)

    def _offers_of(self, instance_id: str, names: Sequence[str]) -> list[Offer]:
        offers = []
        for name in names:
            if name.startswith(f"{instance_id}.") and name.endswith(_OFFER):
                with suppress(OSError, ValueError, KeyError, TypeError):
                    offers.append(_offer_of(json.loads((self._folder / name).read_text())))
        return offers

    def _path(self, holder: Holder, suffix: str) -> Path:
        return self._folder / f"{holder.instance_id}{suffix}"

    def _offer_path(self, holder: Holder, segment_id: int) -> Path:
        return self._path(holder, f".{segment_id}{_OFFER}")


def identity_of(folder: Path) -> str:
    """Return what is equal for two processes exactly if they see the same folder, which must exist."""
    seen = folder.stat()
    return f"{seen.st_dev}:{seen.st_ino}"


def boot_id() -> str:
    """Return the id of this boot of the kernel; empty when it cannot be read."""
    try:
        return this_boot()
    except OSError:
        return ""


def _is_locked(descriptor: int) -> bool:
    try:
        # Shared, so that two neighbours that test at the same time do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return True
        raise
    return False


def _to_record(holder: Holder, work_folder: str) -> Mapping[str, object]:
    return {
        "worker_id": holder.worker_id,
        "instance_id": holder.instance_id,
        "host": holder.host,
        "started_at_milliseconds": holder.started_at_milliseconds,
        "boot_id": holder.boot_id,
        "work_folder": work_folder,
    }


def _holder_of(record: Mapping[str, Any]) -> Holder:
    return Holder(
        str(record["worker_id"]),
        str(record["instance_id"]),
        str(record["host"]),
        int(record["started_at_milliseconds"]),
        str(record["boot_id"]),
    )


def _offer_of(record: Mapping[str, Any]) -> Offer:
    return Offer(int(record["segment_id"]), int(record["epoch"]), str(record["to"]))
