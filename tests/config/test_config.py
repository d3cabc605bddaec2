"""A config is right, or every mistake in it is said at once."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Config, key_values, load_config, resolved_yaml
from pipeline.config.fields import field_help
from pipeline.config.sources import FolderSource, RoomsSource
from pipeline.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"

ROOMS = "name: a\ndata: {source: {kind: rooms}}\n"


def write(directory: Path, text: str, name: str = "a.yaml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def mistakes(directory: Path, text: str, *overrides: str) -> list[str]:
    path = write(directory, text)
    with pytest.raises(InputError) as refused:
        load_config(path, list(overrides))
    first, *lines = str(refused.value).replace(f"{directory}/", "").splitlines()
    assert first == f"a.yaml: {len(lines)} mistake{'s' if len(lines) > 1 else ''} in the config"
    return [line.strip() for line in lines]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_we_ship_is_valid(path: Path) -> None:
    if path.name == "base.yaml":
        pytest.skip("has no data of its own")
    assert load_config(path).name == path.stem


def test_resolved_config_loads_to_itself(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "demo.yaml", ["train.samples=5", "model.private={depth: 3}"])
    assert load_config(write(tmp_path, resolved_yaml(config))) == config


@given(
    samples=st.integers(1, 10**9),
    rate=st.floats(1e-12, 1e3),
    shots=st.lists(st.integers(1, 50), max_size=4),
    private=st.dictionaries(st.sampled_from(["rgb", "depth", "seg"]), st.integers(1, 99)),
)
def test_any_config_loads_to_itself_again(
    samples: int, rate: float, shots: list[int], private: dict[str, int]
) -> None:
    values = {
        "name": "a",
        "data": {"source": {"kind": "rooms"}},
        "train": {"samples": samples, "learning_rate": rate},
        "adapt": {"shots": shots},
        "model": {"private": private},
    }
    config = Config.model_validate(values)
    assert Config.model_validate(yaml.safe_load(resolved_yaml(config))) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trian: {batch: 2}", "a.yaml:3: trian: unknown key; did you mean train?"),
        ("train: {batch: many}", 'a.yaml:3: train.batch: must be int > 0, not "many"'),
        ("train: {batch: 0}", "a.yaml:3: train.batch: must be int > 0, not 0"),
        ("train: 5", "a.yaml:3: train: must be a section with keys such as samples, batch, "),
        (
            "model: {fusion: mpoe}",
            "a.yaml:3: model.fusion: must be poe | moe | mopoe | mvtcae | mmvaeplus | barycentre | joint, "
            'not "mpoe"; did you mean mopoe?',
        ),
        ("model: {width: 9}", "a.yaml:3: model.width: must be int >= 8, a multiple of 8, not 9"),
        (
            "model: {private: {rbg: 1}}",
            "a.yaml:3: model.private: must be mapping of (rgb | depth | seg) to int > 0",
        ),
        ("adapt: {shots: [1, x]}", 'a.yaml:3: adapt.shots: must be list of int > 0, not [1, "x"]'),
        (
            "objective:\n  depth:\n    space: feet",
            'a.yaml:5: objective.depth.space: must be metric | log, not "feet"',
        ),
        (
            "model: {fusion: mvtcae, prior_expert: all}",
            "a.yaml:3: model: fusion mvtcae needs prior_expert: none, not all",
        ),
    ],
)
def test_mistake_is_named_with_line_key_value_and_remedy(tmp_path: Path, text: str, said: str) -> None:
    (line,) = mistakes(tmp_path, ROOMS + text)
    assert line.startswith(said)


def test_all_mistakes_are_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, ROOMS + "sed: 1\ntrain:\n  batch: -1\n  samplse: 3\nmodel: {latent: x}")
    assert [line.split(": ")[:2] for line in lines] == [
        ["a.yaml:3", "sed"],
        ["a.yaml:5", "train.batch"],
        ["a.yaml:6", "train.samplse"],
        ["a.yaml:7", "model.latent"],
    ]


def test_depth_unit_is_mandatory_and_explains_itself(tmp_path: Path) -> None:
    folder = "name: a\ndata:\n  source: {kind: folder, root: x, depth: {%s}}\n"
    (missing,) = mistakes(tmp_path, folder % "")
    assert missing.startswith(
        "a.yaml:3: data.source.depth.unit: missing, and it has no default (What one stored unit is"
    )
    (wrong,) = mistakes(tmp_path, folder % "unit: inch")
    units = "m | cm | mm | 0.1mm | tum | kitti | cityscapes | float > 0"
    assert wrong == f'a.yaml:3: data.source.depth.unit: must be {units}, not "inch"'
    config = load_config(write(tmp_path, folder % "unit: 0.00025"))
    assert isinstance(config.data.source, FolderSource)
    assert config.data.source.depth is not None
    assert config.data.source.depth.unit == 0.00025


def test_kind_of_source_is_mandatory_and_known(tmp_path: Path) -> None:
    (missing,) = mistakes(tmp_path, "name: a\ndata:\n  source: {count: 5}")
    known = "rooms, tabletop, folder, webdataset, parquet, nyuv2, bop, hypersim, dataset"
    assert missing == f"a.yaml:3: data.source.kind: missing; choose one of {known}"
    (wrong,) = mistakes(tmp_path, "name: a\ndata:\n  source: {kind: table}")
    listed = known.replace(", ", " | ")
    assert wrong.startswith(
        f'a.yaml:3: data.source.kind: must be {listed}, not "table"; did you mean tabletop?'
    )


def test_override_is_named_as_the_place_of_its_mistake(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, ROOMS, "train.batch=x")
    assert line == '--set train.batch: train.batch: must be int > 0, not "x"'


def test_name_must_not_be_one_of_our_folders(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, ROOMS.replace("name: a", "name: datasets"))
    assert line.startswith("a.yaml:1: name: datasets is kept for triptych's own folder")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", r"a\.yaml:1: not valid YAML"),
        ("a: 1\nb: 2\na: 3", r"a\.yaml:3: a is written twice \(first at .*a\.yaml:1\)"),
        ("- 1\n- 2", r"a\.yaml: a config is a mapping of keys to values, not a list"),
        ("extends: nothing.yaml", r"a\.yaml:1: extends 'nothing\.yaml', but there is no file"),
        ("extends: a.yaml", r"a\.yaml: extends itself"),
        ("extends: 3", r"a\.yaml:1: extends must be a file name or a list of them, not 3"),
    ],
)
def test_file_that_is_no_config_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config(write(tmp_path, text))


def test_missing_file_is_refused_and_a_near_name_suggested(tmp_path: Path) -> None:
    write(tmp_path, ROOMS, "rooms.yaml")
    with pytest.raises(InputError, match=r"room\.yaml: no such config file; did you mean .*rooms\.yaml\?"):
        load_config(tmp_path / "room.yaml")


@pytest.mark.parametrize("override", ["train.batch", "=3", "train..batch=3", "train.batch=["])
def test_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError, match="--set"):
        load_config(write(tmp_path, ROOMS), [override])


def test_later_files_and_overrides_win(tmp_path: Path) -> None:
    write(tmp_path, ROOMS + "train: {batch: 1, samples: 1}\nseed: 1", "low.yaml")
    write(tmp_path, "train: {samples: 2}\nseed: 2", "middle.yaml")
    top = write(tmp_path, "extends: [low.yaml, middle.yaml]\nseed: 3", "top.yaml")
    config = load_config(top, ["seed=4", "seed=5"])
    assert (config.train.batch, config.train.samples, config.seed) == (1, 2, 5)


def test_another_kind_replaces_and_an_empty_mapping_empties(tmp_path: Path) -> None:
    write(tmp_path, ROOMS + "model: {private: {rgb: 3}}", "low.yaml")
    top = write(
        tmp_path, "extends: low.yaml\ndata: {source: {kind: tabletop, max_objects: 2}}\nmodel: {private: {}}"
    )
    config = load_config(top)
    assert config.data.source.kind == "tabletop"
    assert config.model.private == {}
    rooms = load_config(tmp_path / "low.yaml", ["data.source.count=7"]).data.source
    assert isinstance(rooms, RoomsSource)
    assert rooms.count == 7


@pytest.mark.parametrize("text", ["1e-3", "1E-3", ".001", "0.001", "1.e-3"])
def test_numbers_are_read_as_people_write_them(tmp_path: Path, text: str) -> None:
    config = load_config(write(tmp_path, ROOMS + f"train: {{learning_rate: {text}}}"))
    assert config.train.learning_rate == 0.001


def test_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(write(tmp_path, "name: a\ndata: {source: {kind: folder, root: ~/frames}}"))
    assert isinstance(config.data.source, FolderSource)
    assert config.data.source.root == tmp_path / "frames"


def test_key_values_leave_out_what_does_not_change_results() -> None:
    config = load_config(CONFIGS / "tools.yaml")
    data = key_values(config.data)
    assert "workers" not in data
    assert "root" not in data["source"]
    assert data["source"]["depth"]["unit"] == "mm"
    assert "device" not in key_values(config.train)


def test_every_field_is_documented_in_words_a_person_can_type() -> None:
    fields = {key: (kind, default, text) for key, kind, default, text in field_help()}
    assert all(text.endswith(".") for _, _, text in fields.values())
    assert fields["train.batch"][:2] == ("int > 0", "64")
    unit = "m | cm | mm | 0.1mm | tum | kitti | cityscapes | float > 0"
    assert fields["data.source(folder).depth.unit"][:2] == (unit, "required")
    assert fields["model.prior_expert"][0] == "none | full | all | null"
    assert not any(
        word in kind
        for kind, _, _ in fields.values()
        for word in ("typing", "Annotated", "Literal", "<class")
    )


def test_existing_dataset_cannot_be_divided_again(tmp_path: Path) -> None:
    text = "name: x\ndata:\n  source: {kind: dataset, path: d}\n  held_out: {classes: [cup]}\n"
    assert "keeps its own splits" in mistakes(tmp_path, text)[0]
