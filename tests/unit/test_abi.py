# SPDX-License-Identifier: MIT
"""The library's numbers against the C header, as a compiler sees it; every name, both ways."""

import ctypes
import enum
import json
import re
import subprocess
from copy import deepcopy
from dataclasses import asdict

import pytest
import uapi

from pyduet._driver import abi

HEADER = uapi.HEADER.read_text()

STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "duet_uuid": abi.Uuid,
    "duet_item": abi.Item,
    "duet_task_attrs": abi.TaskAttrs,
    "duet_ioctl_status_args": abi.StatusArgs,
    "duet_ioctl_init_args": abi.InitArgs,
    "duet_ioctl_bmap_args": abi.BmapArgs,
    "duet_ioctl_gpath_args": abi.GpathArgs,
    "duet_info": abi.Info,
    "duet_register": abi.RegisterArgs,
    "duet_file_ref": abi.FileRef,
    "duet_marks": abi.Marks,
    "duet_paths": abi.Paths,
    "duet_rescan": abi.Rescan,
    "duet_end": abi.End,
    "duet_dump": abi.Dump,
    "duet_task_info": abi.TaskInfo,
    "duet_table": abi.Table,
    "duet_node_info": abi.NodeInfo,
}

# What programs were built with: the published numbers, and not what the header says.
PUBLISHED_CALLS = {
    "IOC_STATUS": 0xC00CDE01,
    "IOC_INIT": 0xD108DE02,
    "IOC_BMAP": 0xC018DE03,
    "IOC_GPATH": 0xD018DE04,
}
PUBLISHED_OFFSETS = {
    "duet_uuid": {"ino": 0, "gen": 8, "tid": 12},
    "duet_item": {"uuid": 0, "idx": 16, "state": 24},  # the last 6 bytes were padding
    "duet_task_attrs": {"id": 0, "fd": 4, "name": 8, "regmask": 264, "path": 268},
    "duet_ioctl_status_args": {"size": 0, "flags": 4, "maxtasks": 8, "id": 8, "numtasks": 8},
    "duet_ioctl_init_args": {"size": 0, "name": 4, "regmask": 260, "path": 264},
    "duet_ioctl_bmap_args": {"size": 0, "flags": 4, "uuid": 8},
    "duet_ioctl_gpath_args": {"size": 0, "uuid": 8, "path": 24},
}

ENUMERATIONS: dict[str, type[enum.IntFlag] | type[enum.IntEnum]] = {
    "PAGE": abi.Page,
    "STATUS": abi.Status,
    "BMAP": abi.Bmap,
    "REGISTER": abi.Register,
    "FEATURE": abi.Feature,
    "DROP": abi.Drop,
    "EVENT": abi.Event,
}

Layout = dict[str, tuple[int, int]]


def header_constants() -> set[str]:
    """Names of the header's numbers, without DUET_."""
    return {name.removeprefix("DUET_") for name in uapi.constants_of(HEADER)}


def python_constants() -> dict[str, int]:
    """Name without DUET_: value, as the library has it."""
    values = {
        name: value
        for name, value in vars(abi).items()
        if name.isupper() and isinstance(value, int)
    }
    for prefix, kind in ENUMERATIONS.items():
        values |= {f"{prefix}_{bit.name}": bit.value for bit in kind}
    values["FD_NONBLOCK"] = values.pop("PAGE_FD_NONBLOCK")
    return values


def python_layout(kind: type[ctypes.Structure]) -> Layout:
    """Field: offset and size, as the library has it."""
    layout: Layout = {}
    for name, sort in ((field[0], field[1]) for field in kind._fields_):
        if name in getattr(kind, "_anonymous_", ()):
            base = getattr(kind, name).offset
            layout |= {f: (base + o, s) for f, (o, s) in python_layout(sort).items()}
        else:
            layout[name] = (getattr(kind, name).offset, getattr(kind, name).size)
    return layout


@pytest.fixture(scope="module")
def header() -> uapi.Abi:
    """What the machine's C compiler makes of the header."""
    return uapi.abi_of(HEADER)


def test_the_header_was_understood() -> None:
    assert len(header_constants()) > 50
    assert sum(map(len, uapi.fields_of(HEADER).values())) > 110


def test_every_number_is_the_same(header: uapi.Abi) -> None:
    in_python = {f"DUET_{name}": value for name, value in python_constants().items()}
    assert in_python == header.constants


def test_every_structure_is_there() -> None:
    assert set(uapi.fields_of(HEADER)) == set(STRUCTURES)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_field_is_the_same(name: str, header: uapi.Abi) -> None:
    in_c = header.structures[name]
    assert {
        field: list(place) for field, place in python_layout(STRUCTURES[name]).items()
    } == in_c.fields
    assert ctypes.sizeof(STRUCTURES[name]) == in_c.size


@pytest.mark.parametrize("name", STRUCTURES)
def test_no_byte_is_without_a_name(name: str) -> None:
    """Unnamed padding would differ between 32 and 64 bits, and could leak."""
    covered: set[int] = set()
    for offset, size in python_layout(STRUCTURES[name]).values():
        covered.update(range(offset, offset + size))
    assert covered == set(range(ctypes.sizeof(STRUCTURES[name])))


def test_32_bit_programs_see_the_same_layout() -> None:
    """Checked by the compiler alone: neither 32-bit headers of libc nor libraries are needed."""
    checks = []
    for name, kind in STRUCTURES.items():
        checks.append(f'_Static_assert(sizeof(struct {name}) == {ctypes.sizeof(kind)}, "");')
        for field, (offset, _) in python_layout(kind).items():
            checks.append(
                f'_Static_assert(__builtin_offsetof(struct {name}, {field}) == {offset}, "");'
            )
    for name in header_constants():
        checks.append(f'_Static_assert(DUET_{name} == {python_constants()[name]}ULL, "");')
    source = f'#include "{uapi.HEADER}"\n' + "\n".join(checks)
    command = ["cc", "-m32", "-ffreestanding", "-fsyntax-only", "-xc", "-"]
    if subprocess.run(command, input="", text=True, check=False).returncode:
        pytest.skip("this compiler knows no -m32")
    machine = subprocess.run(
        ["cc", "-print-multiarch"], check=True, capture_output=True, text=True
    ).stdout.strip()
    command.insert(1, f"-I/usr/include/{machine}")
    done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_new_kind_of_event_or_drop_moves_no_field() -> None:
    """An array of counters has a size of its own, not that of an enumeration that grows."""
    body = uapi.text_of(HEADER)
    assert re.findall(r"\bDUET_NR_\w+", body) == []
    sized = re.findall(r"(\w+)\[([^\]]+)\];", body)
    counters = [size for name, size in sized if name in ("events", "drops", "bits")]
    assert counters == ["8"] * 4
    assert max(len(abi.Event), len(abi.Drop)) <= 8


def test_the_calls_are_the_published_ones() -> None:
    assert {name: getattr(abi, name) for name in PUBLISHED_CALLS} == PUBLISHED_CALLS


@pytest.mark.parametrize("name", PUBLISHED_OFFSETS)
def test_the_offsets_are_the_published_ones(name: str) -> None:
    layout = python_layout(STRUCTURES[name])
    published = PUBLISHED_OFFSETS[name]
    assert {field: layout[field][0] for field in published} == published


def test_the_fast_decoder_agrees_with_the_structure() -> None:
    item = abi.Item(
        uuid=abi.Uuid(ino=2**63 + 1, gen=2**31 + 2, tid=250),
        idx=2**62 + 3,
        state=0x8009,
        nr=2**31 + 4,
    )
    unpacked = (2**63 + 1, 2**31 + 2, 250, 2**62 + 3, 0x8009, 2**31 + 4)
    assert abi.ITEM.unpack(bytes(item)) == unpacked
    ref = abi.FileRef(ino=2**63 + 1, gen=2**31 + 2, result=-3)
    assert abi.FILE_REF.unpack(bytes(ref)) == (2**63 + 1, 2**31 + 2, -3)


def test_nothing_breaks_what_was_released(header: uapi.Abi) -> None:
    """Programs that were built with the last tag's header; before the first, the snapshot's."""
    last = uapi.released()
    old = uapi.abi_of(last[1]) if last else uapi.snapshot()
    assert uapi.breaks(old, header) == [], f"since {last[0] if last else 'the snapshot'}"


def test_every_change_is_written_down(header: uapi.Abi) -> None:
    """So that who looks at a change sees what it does to the interface: ``make abi`` writes it."""
    assert json.loads(uapi.SNAPSHOT.read_text()) == asdict(header)


def test_what_breaks_and_what_does_not(header: uapi.Abi) -> None:
    """Growth at the end, new names and what is not stable are fine; what moves or goes is not."""
    new = deepcopy(header)
    assert uapi.breaks(header, new) == []
    info = new.structures["duet_info"]
    info.fields["more"] = [info.size, 8]
    info.size += 8
    new.constants["DUET_IOC_INFO"] += 8 << 16
    # What was reserved is in use, and something unknown is known.
    register = new.structures["duet_register"]
    register.fields["news"] = register.fields.pop("reserved")
    new.constants |= {"DUET_REGISTER_NEWS": 1 << 9, "DUET_ABI_VERSION": 2}
    new.structures["duet_news"] = uapi.Structure(8, {"news": [0, 8]})
    for name in ("duet_table", "duet_node_info"):
        del new.structures[name]
    for name in ("DUET_IOC_TABLE", "DUET_IOC_DUMP_NODES", "DUET_CHAIN_LENGTHS"):
        del new.constants[name]
    assert uapi.breaks(header, new) == []


@pytest.mark.parametrize(
    ("structure", "field", "words"),
    [
        ("duet_info", "drops", "duet_info.drops is at"),
        ("duet_item", "state", "duet_item.state is at"),
        ("duet_register", "limit", "duet_register.limit is at"),
    ],
)
def test_a_field_that_moves_breaks(
    header: uapi.Abi, structure: str, field: str, words: str
) -> None:
    for change in ([8, 0], [0, 8]):
        new = deepcopy(header)
        place = new.structures[structure].fields[field]
        place[:] = [place[0] + change[0], place[1] + change[1]]
        [found] = uapi.breaks(header, new)
        assert found.startswith(words)
    del new.structures[structure].fields[field]
    assert uapi.breaks(header, new) == [f"{structure}.{field} is gone"]


def test_a_size_or_a_number_that_changes_breaks(header: uapi.Abi) -> None:
    for structure, change in (("duet_file_ref", 8), ("duet_item", 8), ("duet_info", -8)):
        new = deepcopy(header)
        new.structures[structure].size += change
        [found] = uapi.breaks(header, new)
        assert found.startswith(f"struct {structure} has")
    for name, value in (
        ("DUET_IOC_INIT", header.constants["DUET_IOC_INIT"] + (8 << 16)),
        ("DUET_IOC_REGISTER", header.constants["DUET_IOC_REGISTER"] + 1),
        ("DUET_REGISTER_RANGES", 2),
        ("DUET_EVENT_FLUSHED", 4),
    ):
        new = deepcopy(header)
        new.constants[name] = value
        [found] = uapi.breaks(header, new)
        assert found.startswith(f"{name} is 0x")
        del new.constants[name]
        assert uapi.breaks(header, new) == [f"{name} is gone"]
    new = deepcopy(header)
    del new.structures["duet_end"]
    assert uapi.breaks(header, new) == ["struct duet_end is gone"]
