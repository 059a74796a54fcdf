"""A family is a row, a module, an example and a test: one that lacks any of them fails here."""

import importlib.util
import json
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml
from ams_common.families import FAMILIES, FamilyRow, family_of, language_config, modalities_of
from ams_common.fit import shape_of
from ams_common.pod_settings import ServeSettings
from ams_common.resource.spec import ModelSpec
from ams_pod.engines.builtin.families import family_module
from ams_pod.engines.registry import preload_modules
from fakehub import checkpoints

ROOT = Path(__file__).parents[2]
EVERY = pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made: dict[str, Path] = {}

    def of(row: FamilyRow) -> Path:
        if row.name not in made:
            kind = checkpoints.OF_FAMILY[row.name]
            made[row.name] = checkpoints.make(kind, tmp_path_factory.mktemp("rows") / kind)
        return made[row.name]

    return of


@EVERY
def test_it_has_a_module_whose_imports_exist(row):
    module = family_module(row.name)
    assert callable(module.open_family)
    assert module.PRELOAD
    assert [name for name in module.PRELOAD if importlib.util.find_spec(name) is None] == []
    assert {module.__name__, *module.PRELOAD} <= set(preload_modules())


def test_every_module_has_a_row():
    folder = Path(family_module("text").__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert modules == {row.name.replace("-", "_") for row in FAMILIES}


@EVERY
def test_it_has_an_example_that_names_it(row):
    manifest = yaml.safe_load((ROOT / "examples" / row.example).read_text(encoding="utf-8"))
    assert manifest["spec"]["model"]["family"] == row.name


@EVERY
def test_the_resource_and_the_command_line_take_it(row):
    for struct, field in ((ServeSettings, "family"), (ModelSpec, "family")):
        assert row.name in get_args(get_type_hints(struct)[field])


@EVERY
def test_its_checkpoint_is_recognised(row, checkpoint):
    config = json.loads((checkpoint(row) / "config.json").read_text())
    assert family_of(config["architectures"]) == row
    assert language_config(config).get("hidden_size") == checkpoints.HIDDEN
    shape = shape_of(config)
    assert shape.hidden == checkpoints.HIDDEN
    assert shape.layers > 1


@EVERY
def test_it_has_a_test_of_greedy_answers(row):
    """By the marker `family`, which says that the tests of a module compare them with transformers' own."""
    marked = {
        name
        for path in Path(__file__).parent.glob("test_*.py")
        for names in re.findall(r"pytest\.mark\.family\(([^)]*)\)", path.read_text(encoding="utf-8"))
        for name in re.findall(r'"([^"]+)"', names)
    }
    assert row.name in marked
    assert marked <= {each.name for each in FAMILIES}


def test_modalities_are_told_in_one_order():
    assert modalities_of("omni") == ("audio", "image", "text", "video")
