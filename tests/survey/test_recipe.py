"""Recipes are read correctly, and each error names its key on one line."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_builder.errors import RecipeError
from archive_builder.survey.recipe import Recipe, load_recipe, recipe_schema

TEXT = """\
[survey]
name = "Test"
root = "data"
tiles = "tiles.csv"
bands = ["g", "r", "i"]
image = "{tile}_{band}.fits"
image_hdu = "SCI"
zero_point = 30.0

[catalog]
path = "{tile}.csv"
object_id = "ID"
ra = "RA"
dec = "DEC"

[cutout]
size = "1 arcmin"

[quality]
max_background_rms = { r = 3.8 }
min_depth = { i = 24 }
max_blank_fraction = 0.5

[storage]
layout = "stamps"
quantization = "lossless"
"""

SCHEMA = Path(__file__).parents[2] / "schema" / "recipe.schema.json"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for recipes, with the survey's root inside."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "data").mkdir()
    return folder


def load(folder: Path, text: str) -> Recipe:
    path = folder / "survey.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def complaint(folder: Path, text: str) -> str:
    """Return the error of a recipe without the recipe's name."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    path, _, rest = str(caught.value).partition(": ")
    assert path == f"recipe {folder / 'survey.toml'}"
    assert len(rest.splitlines()) == 1
    return rest


def changed(line: str) -> str:
    """Return the recipe with another line for a key."""
    key = line.split(" =")[0]
    text, times = re.subn(rf"^{key} = .*$", lambda _: line, TEXT, flags=re.MULTILINE)
    assert times == 1
    return text


def test_recipe_has_the_values_of_its_file(folder: Path) -> None:
    written, recipe = tomllib.loads(TEXT), load(folder, TEXT)
    for section in ("catalog", "cutout", "quality", "storage"):
        model = getattr(recipe, section)
        assert {key: getattr(model, key) for key in written[section]} == written[section]
    assert recipe.survey.bands == ("g", "r", "i")
    assert (recipe.survey.name, recipe.survey.image_hdu, recipe.survey.zero_point) == ("Test", "SCI", 30.0)


def test_root_is_relative_to_the_recipe(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    survey = load(folder, TEXT).survey
    assert survey.root == folder / "data"
    assert survey.tiles == folder / "data" / "tiles.csv"


def test_absolute_root_is_kept(folder: Path, tmp_path: Path) -> None:
    assert load(folder, changed(f'root = "{tmp_path}"')).survey.root == tmp_path


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("zero_point", "zeropoint", "unknown key survey.zeropoint: did you mean survey.zero_point?"),
        ("max_blank_fraction", "max_blank", "unknown key quality.max_blank: did you mean quality.max_blank_fraction?"),
        ("layout", "layuot", "unknown key storage.layuot: did you mean storage.layout?"),
        ("[storage]", "[storag]", "unknown key storag: did you mean storage?"),
        ("dec =", "declination =", "unknown key catalog.declination"),
    ],
)
def test_error_for_an_unknown_key_suggests_the_nearest_known_one(
    folder: Path, right: str, wrong: str, message: str
) -> None:
    assert message in complaint(folder, TEXT.replace(right, wrong, 1))


def test_error_for_an_unknown_key_without_a_similar_one_names_only_the_key(folder: Path) -> None:
    assert complaint(folder, TEXT.replace("[cutout]", "[cutout]\nxyzzy = 1")) == "unknown key cutout.xyzzy"


@pytest.mark.parametrize(
    ("section", "key"),
    [
        *(("survey", key) for key in ("name", "bands", "image", "zero_point")),
        *(("catalog", key) for key in ("path", "object_id", "ra", "dec")),
        ("cutout", "size"),
    ],
)
def test_error_names_a_missing_key(folder: Path, section: str, key: str) -> None:
    text = re.sub(rf"^{key} = .*\n", "", TEXT, flags=re.MULTILINE)
    assert complaint(folder, text) == f"missing key {section}.{key}"


def test_error_names_a_missing_section(folder: Path) -> None:
    assert complaint(folder, TEXT.replace("[cutout]\n", "").replace("size =", "mag =")).endswith("missing key cutout")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('layout = "mosaik"', "storage.layout"),
        ("quantization = 0", "storage.quantization"),
        ("quantization = true", "storage.quantization"),
        ('quantization = "16"', "storage.quantization"),
        ('size = "1 kg"', "cutout.size"),
        ("size = 0", "cutout.size"),
        ("size = true", "cutout.size"),
        ("size = 12.5", "cutout.size"),
        ("image_hdu = -1", "survey.image_hdu"),
        ("image_hdu = false", "survey.image_hdu"),
        ("zero_point = nan", "survey.zero_point"),
        ("zero_point = true", "survey.zero_point"),
        ('zero_point = { card = "FLUXMAG0", as = "flux" }', "survey.zero_point"),
        ('zero_point = { card = "MAGZP", exposure = 3 }', "survey.zero_point"),
        ('zero_point = { number = "25", exposure = "EXPTIME" }', "survey.zero_point"),
        ('zero_point = "30"', "survey.zero_point"),
        ('bands = "gri"', "survey.bands"),
        ("bands = []", "survey.bands"),
        ('bands = ["g", "r", "i", "g"]', "survey.bands"),
        ('bands = ["g", "r,i"]', "survey.bands"),
        ("object_id = 3", "catalog.object_id"),
        ("max_background_rms = { r = -3.8 }", "quality.max_background_rms.r"),
        ("min_depth = { i = inf }", "quality.min_depth.i"),
        ("min_depth = 24", "quality.min_depth"),
        ("max_blank_fraction = 1.5", "quality.max_blank_fraction"),
        ("max_blank_fraction = nan", "quality.max_blank_fraction"),
    ],
)
def test_wrong_value_is_refused_and_the_error_names_its_key(folder: Path, line: str, key: str) -> None:
    assert complaint(folder, changed(line)).startswith(f"{key}: ")


@pytest.mark.parametrize("line", ["size = 228", 'size = "228 px"', 'size = "0.5arcmin"', "image_hdu = 1"])
def test_sizes_and_hdus_can_be_written_in_every_documented_form(folder: Path, line: str) -> None:
    key = line.split(" =")[0]
    recipe = load(folder, changed(line))
    value = recipe.cutout.size if key == "size" else recipe.survey.image_hdu
    assert value == tomllib.loads(line)[key]


@pytest.mark.parametrize("key", ["max_background_rms", "min_depth"])
def test_threshold_of_an_unknown_band_is_refused(folder: Path, key: str) -> None:
    message = complaint(folder, changed(f"{key} = {{ u = 24.0 }}"))
    assert message == f"quality.{key} names band 'u', which is not in survey.bands"


def test_one_catalogue_for_all_tiles_may_have_a_tile_column(folder: Path) -> None:
    text = changed('path = "all.parquet"')
    assert load(folder, text).catalog.is_shared
    named = load(folder, text.replace('ra = "RA"', 'ra = "RA"\ntile = "TILE"')).catalog
    assert (named.tile, named.is_shared) == ("TILE", False)
    assert not load(folder, changed('path = "{tile}.parquet"')).catalog.is_shared


def test_error_names_a_missing_root(folder: Path) -> None:
    message = complaint(folder, changed('root = "nowhere"'))
    assert message == f"survey.root is {folder / 'nowhere'}, which is not a folder"


def test_toml_error_names_the_line(folder: Path) -> None:
    assert re.match(r"is not TOML: .*line 8\b", complaint(folder, TEXT.replace("30.0", "30.0.0")))


def test_error_names_an_unreadable_recipe(folder: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"recipe {folder}: cannot be read: Is a directory")):
        load_recipe(folder)
    with pytest.raises(RecipeError, match=r"missing\.toml: cannot be read: No such file"):
        load_recipe(folder / "missing.toml")
    (folder / "latin.toml").write_bytes(TEXT.replace("Test", "Caf\xe9").encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.toml: cannot be read: .*utf-8"):
        load_recipe(folder / "latin.toml")


@given(
    section=st.sampled_from(["survey", "catalog", "cutout", "quality", "storage"]),
    key=st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: f"no {text}"),
    value=st.integers() | st.floats() | st.booleans() | st.text(st.characters(exclude_categories=["Cs"])),
)
def test_message_is_always_one_line(folder: Path, section: str, key: str, value: object) -> None:
    # A JSON string is a TOML string, except for DEL, which is not valid in TOML. Numbers are the same.
    pair = f"{json.dumps(key)} = {json.dumps(value)}".replace("NaN", "nan").replace("Infinity", "inf")
    complaint(folder, TEXT.replace(f"[{section}]", f"[{section}]\n{pair}"))


VALID = ('color = "{tile}.tiff"', "blank_value = -0.5", 'tile = "T"', "background_mesh = 64", 'kind = "rms"')
"""Optional lines that `TEXT` lacks, each for one section."""

typed = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
keys = st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True) | st.sampled_from(["str", "int", "float", "literal", "name"])
slips = st.one_of(
    typed,
    st.from_regex(r"[ \t]*(#[ -~]*)?", fullmatch=True),
    st.sampled_from(VALID),
    keys.map("{} = 1".format),
    keys.map("[{}]".format),
)


def rules() -> dict[str, tuple[dict[str, object], list[str]]]:
    """Return each section of the written schema: its keys with their defaults, and its required keys."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    sections = {name: schema["$defs"][f"{name.capitalize()}Section"] for name in schema["properties"]}
    return {
        name: ({key: of.get("default") for key, of in section["properties"].items()}, section.get("required", []))
        for name, section in sections.items()
    }


def key_complaints(values: dict[str, object]) -> set[str]:
    """Return the expected error for each key of a recipe that the written schema does not have or that is missing."""
    found = {f"unknown key {name}" for name in values.keys() - rules().keys()}
    for name, (known, required) in rules().items():
        section = values.get(name, {})
        assert isinstance(section, dict)
        found |= {f"unknown key {name}.{key}" for key in section.keys() - known.keys()}
        found |= {f"missing key {name}.{key}" for key in set(required) - section.keys()}
    return found


@given(line=st.integers(0, TEXT.count("\n")), text=slips)
def test_a_mistyped_line_gives_a_valid_recipe_or_a_recipe_error(folder: Path, line: int, text: str) -> None:
    lines = TEXT.split("\n")
    spoilt = "\n".join([*lines[:line], text, *lines[line:]])
    try:
        values = tomllib.loads(spoilt)
    except tomllib.TOMLDecodeError:
        assert complaint(folder, spoilt).startswith("is not TOML: ")
        return
    if wrong := key_complaints(values):
        said = complaint(folder, spoilt).split("; ")
        assert {one.partition(": did you mean ")[0] for one in said} == {" ".join(one.split()) for one in wrong}
        return
    recipe = json.loads(load(folder, spoilt).model_dump_json())
    for name, (known, _) in rules().items():
        expected = {key: values.get(name, {}).get(key, default) for key, default in known.items()}
        if name == "survey":
            expected |= {"root": str(folder / "data"), "tiles": str(folder / "data" / "tiles.csv")}
        assert recipe.pop(name) == expected
    assert recipe == {}


def test_schema_file_equals_the_codes_schema() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == recipe_schema(), (
        f"{SCHEMA} is out of date: write the file again: python -c "
        "'import json; from archive_builder.survey.recipe import recipe_schema as schema; "
        f"print(json.dumps(schema(), indent=2))' > {SCHEMA}"
    )


def test_schema_file_has_the_format_of_pythons_json() -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
