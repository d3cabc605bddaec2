"""The recipes of docs/sources.md are configs that are accepted as they stand."""

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from pipeline.config.data import Data

TEXT = (Path(__file__).parents[3] / "docs/sources.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^ {4}source:\n(?:^ {6}.*\n)+", TEXT, re.MULTILINE)


def test_every_kind_has_a_recipe() -> None:
    kinds = [yaml.safe_load(textwrap.dedent(recipe))["source"]["kind"] for recipe in RECIPES]
    assert kinds == ["webdataset", "parquet", "nyuv2", "bop", "hypersim"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_accepted(recipe: str) -> None:
    Data.model_validate(yaml.safe_load(textwrap.dedent(recipe)))
