# SPDX-License-Identifier: MIT
"""What is known of Duet at a moment, whoever told it; all frozen."""

from dataclasses import dataclass, field

from pyduet.events import FileId
from pyduet.info import DriverInfo, TaskInfo


@dataclass(frozen=True, slots=True)
class View:
    """One look at the driver.

    Attributes:
        time: when, in seconds since 1970.
        loaded: whether the module is.
        problem: why less than all could be seen, for people; empty if all was.
        refusal: why nothing may be changed, for people; empty if it may.
        counters: whether the counters in ``info`` and ``tasks`` are told; without
            CAP_SYS_ADMIN they are 0.
        kernel: its release.
        version: of the module.
        info: how Duet is set; None when nobody said.
        hooks: a word for each.
        tasks: those that may be seen, by identity.
        commands: the names of their processes, by process id.

    """

    time: float
    loaded: bool = False
    problem: str = ""
    refusal: str = ""
    counters: bool = False
    kernel: str = ""
    version: str = ""
    info: DriverInfo | None = None
    hooks: dict[str, str] = field(default_factory=dict)
    tasks: tuple[TaskInfo, ...] = ()
    commands: dict[int, str] = field(default_factory=dict)

    @property
    def on(self) -> bool:
        """Whether Duet is loaded and switched on."""
        return self.info is not None and self.info.on

    def find(self, known: TaskInfo) -> TaskInfo | None:
        """Return what has become of a task; None when it has ended.

        An identity that was given to another task since is not the same.
        """
        return next((task for task in self.tasks if is_same(known, task)), None)


def is_same(before: TaskInfo, now: TaskInfo) -> bool:
    """Return whether two sights of an identity are of the same task."""
    same = ("id", "pid", "uid", "fd", "name", "path", "mask")
    return before.age <= now.age and all(getattr(before, a) == getattr(now, a) for a in same)


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file, and how much of it is cached.

    Attributes:
        file: inode number and generation.
        path: None where there is none to tell.
        cached: pages.
        dirty: pages.
        pages: that the file has, None where that is not known.

    """

    file: FileId
    path: str | None
    cached: int
    dirty: int
    pages: int | None
