# SPDX-License-Identifier: MIT
"""Which of rsync's options mean the same in a batch of files as in one run over all of them.

A copy is made in runs: one that only lists what is to be sent, batches of that, and one over
everything in the end. An option is given to all of them, or to some, or it forbids batches, since
the result would be another one: then rsync is run once, as it would be without Duet. What is not
known here forbids them, too.

Of rsync(1) and options.c of rsync 3.5.0, which older versions have fewer of.
"""

import enum
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class OptionError(ValueError):
    """rsync is not to be run with this."""


class _For(enum.Enum):
    """Which runs an option is for."""

    #: All.
    ALL = enum.auto()
    #: Those that change anything: the list is to leave no traces.
    CHANGES = enum.auto()
    #: The last: what is deleted is seen by who sees all; and what rsync tells, a batch tells in
    #: its own way.
    LAST = enum.auto()


def _names_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SHORT = {
    "0": "from0", "4": "ipv4", "6": "ipv6", "8": "8-bit-output", "@": "modify-window",
    "A": "acls", "B": "block-size", "C": "cvs-exclude", "E": "executability", "H": "hard-links",
    "I": "ignore-times", "J": "omit-link-times", "K": "keep-dirlinks", "L": "copy-links",
    "M": "remote-option", "N": "crtimes", "O": "omit-dir-times", "R": "relative", "S": "sparse",
    "T": "temp-dir", "U": "atimes", "V": "version", "W": "whole-file", "X": "xattrs",
    "a": "archive", "b": "backup", "c": "checksum", "d": "dirs", "e": "rsh", "f": "filter",
    "g": "group", "h": "human-readable", "i": "itemize-changes", "k": "copy-dirlinks",
    "l": "links", "m": "prune-empty-dirs", "n": "dry-run", "o": "owner", "p": "perms",
    "q": "quiet", "r": "recursive", "s": "secluded-args", "t": "times", "u": "update",
    "v": "verbose", "x": "one-file-system", "y": "fuzzy", "z": "compress",
    # These have no long name.
    "D": "D", "F": "F",
}  # fmt: skip
#: What -P stands for.
_PARTIAL = ("partial", "progress")

#: Options that have an argument.
VALUED = _names_of(
    "address backup-dir block-size bwlimit cc checksum-choice checksum-seed chmod chown "
    "compare-dest compress-choice compress-level compress-threads config confine-root contimeout "
    "copy-as copy-dest debug dparam early-input exclude exclude-from files-from filter groupmap "
    "iconv include include-from info link-dest log-file log-file-format log-format max-alloc "
    "max-delete max-size min-size modify-window only-write-batch out-format outbuf partial-dir "
    "password-file port protocol read-batch remote-option rsh rsync-path skip-compress sockopts "
    "stderr stop-after stop-at suffix temp-dir time-limit timeout usermap write-batch zc zl "
    "zt"
)

_ALL = (
    # What becomes of a file that is sent, whichever run sends it.
    "archive recursive links perms owner group D devices specials times acls xattrs hard-links "
    "executability chmod numeric-ids usermap groupmap chown super fake-super drop-D "
    "omit-dir-times omit-link-times sparse preallocate open-noatime fsync mkpath munge-links "
    "temp-dir partial partial-dir keep-dirlinks "
    # Which are sent: a batch has of the list no more than it lets pass by itself.
    "filter F exclude include exclude-from include-from cvs-exclude from0 one-file-system "
    "max-size min-size update existing ignore-non-existing ignore-existing size-only "
    "modify-window prune-empty-dirs copy-links copy-unsafe-links copy-dirlinks safe-links "
    # With what it is compared: of the same DIR each time, since that is relative to the target.
    "fuzzy compare-dest copy-dest link-dest "
    # How.
    "whole-file compress compress-choice zc compress-level zl compress-threads zt skip-compress "
    "old-compress new-compress block-size checksum-choice cc checksum-seed max-alloc bwlimit "
    "timeout contimeout address port sockopts password-file ipv4 ipv6 protocol rsh rsync-path "
    "blocking-io secluded-args protect-args trust-sender inc-recursive i-r qsort motd "
    "insecure-links confine-root "
    # What can be taken back without harm. The others of that kind are left to forbid batches.
    "no-perms no-p no-owner no-o no-group no-g no-links no-l no-devices no-specials no-D no-acls "
    "no-A no-xattrs no-X no-hard-links no-H no-whole-file no-W no-compress no-z no-inc-recursive "
    "no-i-r no-sparse no-S no-one-file-system no-x no-super no-bwlimit no-timeout no-contimeout "
    "no-blocking-io no-partial no-fuzzy no-y no-prune-empty-dirs no-m no-omit-dir-times no-O "
    "no-omit-link-times no-J no-numeric-ids no-munge-links no-insecure-links no-secluded-args "
    "no-protect-args no-s no-motd no-from0 no-open-noatime no-drop-D no-relative no-R"
)
_CHANGES = "log-file log-file-format"
_LAST = (
    "del delete delete-before delete-during delete-delay delete-after delete-excluded max-delete "
    "force ignore-errors remove-source-files no-force no-ignore-errors "
    "verbose no-verbose no-v quiet info debug stderr msgs2stderr no-msgs2stderr stats outbuf "
    "human-readable no-human-readable no-h 8-bit-output no-8-bit-output no-8 progress no-progress "
    "itemize-changes no-itemize-changes no-i out-format log-format"
)
_RUNS = {
    name: runs
    for runs, names in ((_For.ALL, _ALL), (_For.CHANGES, _CHANGES), (_For.LAST, _LAST))
    for name in names.split()
}

_NOT_BELOW = "it says anew what of a directory is copied"
_TWICE = "each file would be sent again by the last run"
_IN_PLACE = "names of one file at the target would be written one after the other"
_BACKUP = "a file that changes meanwhile would be backed up twice, the second time over the first"
#: Why rsync is run once: what a result of several runs would not be.
_ONCE = {
    "relative": "it makes another layout of the names of files",
    "files-from": "it names the files itself",
    "recursive": _NOT_BELOW, "dirs": _NOT_BELOW, "old-dirs": _NOT_BELOW, "old-d": _NOT_BELOW,
    "d": _NOT_BELOW, "r": _NOT_BELOW,
    "checksum": "rsync reads all files to compare them, in its own order",
    "ignore-times": _TWICE, "times": _TWICE, "t": _TWICE,
    "atimes": "to read a file in a batch changes its access time", "U": "see --atimes",
    "inplace": _IN_PLACE, "append": _IN_PLACE, "append-verify": _IN_PLACE,
    "write-devices": _IN_PLACE, "copy-devices": "a device is no file of known size",
    "backup": _BACKUP, "backup-dir": _BACKUP, "suffix": _BACKUP,
    "delay-updates": "all files are to be put in place together",
    "dry-run": "nothing is copied", "list-only": "nothing is copied",
    "write-batch": "one file has all that is sent", "only-write-batch": "nothing is copied",
    "stop-after": "it ends a run, whatever is left",
    "stop-at": "it ends a run, whatever is left",
    "time-limit": "it ends a run, whatever is left",
    "iconv": "names are not as they are listed",
    "remote-option": "what it does there is not known here",
}  # fmt: skip
_UNKNOWN = "what it does in a batch is not known"

_NOTHING = "with it rsync copies nothing of PATH"
#: With what rsync is not run at all.
_NEVER = dict.fromkeys(
    ("help", "version", "daemon", "config", "dparam", "detach", "no-detach", "server", "sender",
     "read-batch"),
    _NOTHING,
)  # fmt: skip

#: Options that leave names out, or have them in.
_FILTERS = _names_of("filter F exclude include exclude-from include-from cvs-exclude from0")
#: Options whose arguments are names of files, for which the working directory counts.
_FILES = frozenset(("exclude-from", "include-from", "password-file", "log-file"))
#: A filter rule that takes rules from a file, which may name further ones.
_MERGE = re.compile(r"(\.|merge\b)")
#: A filter rule that takes rules from a file in each directory.
_DIR_MERGE = re.compile(r"(:|dir-merge\b)")


class Option(NamedTuple):
    """An option: its long name, or its only one; and its argument."""

    name: str
    value: str | None = None

    @property
    def word(self) -> str:
        """As it is written."""
        if len(self.name) == 1:
            return f"-{self.name}"
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"

    @property
    def short(self) -> str:
        """The option without its argument, to be named."""
        return f"-{self.name}" if len(self.name) == 1 else f"--{self.name}"


@dataclass(frozen=True, slots=True)
class Given:
    """What rsync was given, and what of it is for which run.

    Attributes:
        words: as they were written.
        once: why rsync is run once, over all, as it would be without Duet.
        has: the names of all options.
        filters: options that leave names out.
        list_only: options for a run that lists what is to be sent.
        batch: options for a batch.
        last: options for the run over all.
        rsh: the remote shell, when it is named; not in the three lists, where there is no
            reason for a single run.
        names: in what format rsync is to print the names of files; None when it is not.
        totals: whether rsync prints totals, which are those of one run.

    """

    words: Sequence[str]
    once: str | None
    has: frozenset[str]
    filters: Sequence[str]
    list_only: Sequence[str] = ()
    batch: Sequence[str] = ()
    last: Sequence[str] = ()
    rsh: str | None = None
    names: str | None = None
    totals: bool = False


def parse(words: Sequence[str]) -> Given:
    """Take rsync's own options apart.

    Args:
        words: as rsync would be given them.

    Raises:
        OptionError: rsync would not copy with these, or there is a word that is no option.

    """
    options = list(_options(words))
    names = frozenset(one.name for one in options)
    for one in options:
        if one.name in _NEVER:
            raise OptionError(f"{one.short} is no option for this: {_NEVER[one.name]}")
    once = next(filter(None, (_forbids(one, names) for one in options)), None)
    once = once or ("RSYNC_ICONV: see --iconv" if os.environ.get("RSYNC_ICONV") else None)
    filters = [_absolute(one).word for one in options if one.name in _FILTERS]
    if once:
        list_only = [one.word for one in options if _RUNS.get(one.name, _For.ALL) is _For.ALL]
        return Given(words, once, names, filters, list_only)
    rsh = [one.value for one in options if one.name == "rsh"]
    options = [_absolute(one) for one in options if one.name != "rsh"]

    def those(*runs: _For) -> list[str]:
        return [one.word for one in options if _RUNS[one.name] in runs]

    return Given(
        words, None, names, filters, those(_For.ALL), those(_For.ALL, _For.CHANGES), those(*_For),
        rsh[-1] if rsh else None, _names(options), _totals(options),
    )  # fmt: skip


def _options(words: Sequence[str]) -> Iterator[Option]:
    """Yield the options as rsync's parser, popt, finds them."""
    rest = iter(words)
    unknown = False
    for word in rest:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            if name in VALUED and not equals:
                value = _argument(word, rest)
            yield Option(name, value if equals or name in VALUED else None)
            unknown = name not in _RUNS and name not in VALUED
        elif word.startswith("-") and word not in ("-", "--"):
            yield from _cluster(word, rest)
            unknown = False
        else:
            raise OptionError(
                f"{word!r} is no option of rsync"
                + ("; write the argument of an option as --option=argument" if unknown else "")
            )


def _cluster(word: str, rest: Iterator[str]) -> Iterator[Option]:
    """Yield the options of a word like ``-aHe``."""
    for number, letter in enumerate(word[1:], 2):
        if letter == "P":
            yield from map(Option, _PARTIAL)
            continue
        name = _SHORT.get(letter, letter)
        if name not in VALUED:
            yield Option(name)
            continue
        # popt leaves out a = before it.
        yield Option(name, word[number:].removeprefix("=") or _argument(word, rest))
        return


def _argument(word: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise OptionError(f"{word} wants an argument")
    return value


def _forbids(one: Option, others: frozenset[str]) -> str | None:
    """Return why there can be no batches with an option, if so."""
    value = (one.value or "").lstrip()
    reason = None
    if one.name not in _RUNS or (one.value is not None and one.name not in VALUED):
        reason = _ONCE.get(one.name.removeprefix("no-"), _UNKNOWN)
    elif one.name == "ignore-existing" and "hard-links" in others:
        reason = "with --hard-links a further name would not be linked to one that is there"
    elif (one.name == "filter" and _MERGE.match(value)) or (
        one.name in _FILES and one.name != "log-file" and value == "-"
    ):
        reason = "it is read once"
    elif "xattrs" in others and (
        one.name == "F" or (one.name == "filter" and _DIR_MERGE.match(value))
    ):
        reason = "its files may say which extended attributes are copied"
    elif one.name == "rsh" and re.match(r"[^/ ]+/", value):
        reason = "it depends on the working directory"
    elif one.name in ("out-format", "log-format") and "\n" in value:
        reason = "its lines cannot be told apart"
    return reason and f"{one.short}: {reason}"


def _absolute(one: Option) -> Option:
    """Name files so that the working directory does not count."""
    if one.name not in _FILES or not one.value:
        return one
    return Option(one.name, os.path.join(os.getcwd(), one.value))


def _names(options: Sequence[Option]) -> str | None:
    """Return in which format rsync would print the names of what it sends; None: it would not."""
    shown: str | None = None
    verbose = itemized = False
    for one in options:
        match one.name:
            case "quiet":
                return None
            case "out-format" | "log-format":
                shown = one.value
            case "verbose" | "progress":
                verbose = True
            case "itemize-changes":
                itemized = True
            case "no-itemize-changes" | "no-i":
                itemized = False
            case "info" if re.search(r"\b(name[1-9]?|all[1-9]?)\b", (one.value or "").lower()):
                verbose = True
    if shown is not None:
        return shown
    return "%i %n%L" if itemized else "%n%L" if verbose else None


def _totals(options: Sequence[Option]) -> bool:
    return any(
        one.name in ("verbose", "stats", "progress") or (one.name == "info" and "stats" in str(one))
        for one in options
    )
