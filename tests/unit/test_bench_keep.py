# SPDX-License-Identifier: MIT
"""What the bench keeps in docs/performance.md: tables of this run, and what stays of the last."""

from pathlib import Path

import pytest
from duetbench.guest import Sample
from duetbench.report import Figures, keep

MARK = "<!-- The rest is written by bench.py --keep. -->\n"


def tables(about: str, *titles: str) -> dict[str, str]:
    figures = Figures()
    for title in titles:
        figures.add(title, Sample(title, "state", "kind", 1234.5))
    return figures.tables(about)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(f"# Words\n\n### No table\n\n{MARK}")
    keep(path, tables("First.", "read (ext4)", "read (xfs)"), others=False)
    return path


def test_tables_of_other_titles_stay(page: Path) -> None:
    """What was measured again is replaced where it is, what is new comes last."""
    keep(page, tables("Second.", "new (ext4)", "read (ext4)"), others=True)
    assert page.read_text() == f"# Words\n\n### No table\n\n{MARK}" + "".join(
        f"\n### {title}\n\n{about}\n\n| state | kind |\n|---|---:|\n| state | 1,234.5 |\n"
        for title, about in (
            ("read (ext4)", "Second."),
            ("read (xfs)", "First."),
            ("new (ext4)", "Second."),
        )
    )


def test_the_same_again_changes_nothing(page: Path) -> None:
    before = page.read_text()
    keep(page, tables("First.", "read (xfs)"), others=True)
    assert page.read_text() == before


def test_a_whole_run_leaves_no_old_table(page: Path) -> None:
    keep(page, tables("Second.", "read (ext4)"), others=False)
    assert page.read_text().partition(MARK)[2].count("### ") == 1
    assert "First." not in page.read_text()


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Words\n")
    with pytest.raises(ValueError, match="has no line"):
        keep(page, tables("First.", "read (ext4)"), others=True)
    assert page.read_text() == "# Words\n"
