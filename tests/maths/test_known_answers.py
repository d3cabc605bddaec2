"""docs/known-answers.md names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)`((?:,? `test_\w+`)+)")


def rows() -> list[list[str]]:
    lines = (ROOT / "docs" / "known-answers.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_every_formula_names_tests_that_exist_and_where_its_number_comes_from() -> None:
    assert len(rows()) > 40
    for formula, _, tests, number in rows():
        found = NAMED.findall(tests)
        left_over = NAMED.sub("", tests).replace(";", "").strip()
        assert found, f"{formula}: names no test"
        assert not left_over, f"{formula}: {left_over} is not read"
        assert formula
        assert number
        for file, names in found:
            source = (ROOT / file).read_text(encoding="utf-8")
            for name in re.findall(r"test_\w+", names):
                assert f"def {name}(" in source, f"{file} has no {name}"
