"""Results are kept line by line, and only what was measured under the same conditions counts."""

from pathlib import Path

from benchmarks.gpu_first.records import Records


def test_the_latest_of_each_key_is_found(tmp_path: Path) -> None:
    records = Records("steps", tmp_path / "new", "cpu")
    assert records.found() == {}
    records.write("a", value=1)
    records.write("b", value=2)
    records.write("a", value=3)
    assert {key: record["value"] for key, record in records.found().items()} == {"a": 3, "b": 2}


def test_other_sources_versions_and_sizes_do_not_count(tmp_path: Path) -> None:
    Records("steps", tmp_path, "cpu", tiny=True).write("a")
    assert Records("steps", tmp_path, "cpu").found() == {}
    for name, value in (("sources", "of another version"), ("torch", "1.0"), ("gpu", "another")):
        records = Records("steps", tmp_path, "cpu")
        records.surroundings[name] = value
        records.write(name)
    assert Records("steps", tmp_path, "cpu").found() == {}


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    records = Records("steps", tmp_path, "cpu")
    records.write("a")
    with records.path.open("a") as file:
        file.write('{"key": "b", "sour')
    assert list(records.found()) == ["a"]
