"""The page of the suite: what it keeps of engines that a run didn't try."""

from test_all_engines import page as made
from test_all_engines.table import Column, Section, cannot, merged, read, with_cell, written, yes_or_no

SECTIONS = [Section("Texts", "", ("chat", "`n`")), Section("Media", "Tiny ones.", ("images",))]
OURS = Column("builtin", "0.1.0", "0.1.0", {"chat": "yes", "`n`": "yes", "images": "yes"})
VLLM = Column("vllm", "0.32.0+cpu", "0.1.0", {"chat": "yes", "`n`": "**no**", "images": cannot("too | small")})


def page(*columns: Column) -> str:
    return written("# Page\n\nWords.\n", SECTIONS, columns)


def test_what_is_written_is_read_again() -> None:
    assert read(page(OURS, VLLM)) == [OURS, VLLM]


def test_a_cell_is_one_cell_whatever_the_reason() -> None:
    assert cannot("a | b\nc") == "no: a / b c"
    assert [yes_or_no(passed=passed) for passed in (True, False)] == ["yes", "**no**"]


def test_engines_that_were_not_tried_keep_their_column() -> None:
    newer = Column("builtin", "0.2.0", "0.2.0", {"chat": "**no**"})
    assert merged(read(page(OURS, VLLM)), [newer]) == [newer, VLLM]


def test_rows_that_were_not_tried_stay_only_of_the_same_versions() -> None:
    again = Column("vllm", "0.32.0+cpu", "0.1.0", {"`n`": "yes"})
    assert merged([VLLM], [again])[0].cells == {**VLLM.cells, "`n`": "yes"}
    other = Column("vllm", "0.32.0+cpu", "0.2.0", {"`n`": "yes"})
    assert merged([VLLM], [other])[0].cells == {"`n`": "yes"}


def test_columns_have_an_order_of_their_own() -> None:
    found = merged([VLLM], [Column("custom"), Column("llamacpp"), OURS])
    assert [column.engine for column in found] == ["builtin", "llamacpp", "vllm", "custom"]


def test_what_was_not_tried_says_so() -> None:
    assert "| `n` | not tried |" in page(Column("vllm", "1", "2", {"chat": "yes"}))


def test_a_page_without_a_table_has_no_columns() -> None:
    assert read("# Page\n\n| a | b |\n|---|---|\n| c | d |\n") == []
    assert read("") == []


def test_a_row_that_the_suite_has_no_more_is_left_out() -> None:
    old = Column("vllm", "1", "1", {"gone": "yes", "chat": "yes"})
    assert "gone" not in page(old)


def test_a_row_is_as_bad_as_the_worst_of_its_tests() -> None:
    column = with_cell(with_cell(Column("vllm"), "chat", "**no**"), "chat", "yes")
    assert column.cells == {"chat": "**no**"}
    assert with_cell(with_cell(Column("vllm"), "chat", "yes"), "chat", "no: why").cells == {"chat": "no: why"}


def test_each_test_has_one_row() -> None:
    rows = [row for section in made.SECTIONS for row in section.rows]
    assert len(set(rows)) == len(rows) == len(made.WORDS) + len(made.FAMILIES)
    assert made.text(page(VLLM)).startswith("# What each engine does")
    assert "| vllm 0.32.0+cpu |" in made.text(page(VLLM)).replace("| | ", "| ")
