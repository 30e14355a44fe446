"""The page of the cost model explains every number of the chip table and names every module that it has."""

from pathlib import Path

import pytest

from autoshard.cost.chip_table import TABLE

ROOT = Path(__file__).resolve().parent.parent
PROSE, _, GENERATED = (ROOT / "docs" / "cost-model.md").read_text().partition("## The numbers")
FIELDS = sorted({name.partition(".")[0] for row in TABLE.values() for name in row.quantities})
MODULES = sorted(path.name for path in (ROOT / "cost").glob("[a-z]*.py") if path.name != "errors.py")


@pytest.mark.parametrize("field", FIELDS)
def test_every_number_of_the_chip_table_is_explained_before_it_is_listed(field: str) -> None:
    assert field in PROSE
    assert field in GENERATED


@pytest.mark.parametrize("module", MODULES)
def test_every_module_of_the_cost_model_is_named(module: str) -> None:
    assert f"`cost/{module}`" in PROSE


def test_the_files_that_the_page_names_are_there() -> None:
    named = {
        word.strip("`(),.;:") for word in PROSE.split() if word.strip("(").startswith("`") and "/" in word
    }
    files = sorted(name for name in named if name.endswith(".py"))
    assert len(files) > len(MODULES)
    assert [name for name in files if not (ROOT / name).is_file()] == []
