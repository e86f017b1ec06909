"""The shipped weights are whole, small, and hold no code."""

import hashlib

from microworld.weights_folder import MICRO_WEIGHTS

MAX_FILE_BYTES, MAX_BYTES = 16e6, 45e6


def weight_files():
    return [path for path in sorted(MICRO_WEIGHTS.rglob("*")) if path.is_file() and path.name != "DIGESTS"]


def test_digests_name_every_file_and_hold():
    lines = (line.partition("  ") for line in (MICRO_WEIGHTS / "DIGESTS").read_text().splitlines())
    told = {path: digest for digest, _, path in lines}
    found = {
        p.relative_to(MICRO_WEIGHTS).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in weight_files()
    }
    assert found == told


def test_files_are_small_and_are_safetensors_or_json():
    sizes = {path: path.stat().st_size for path in weight_files()}
    assert max(sizes.values()) < MAX_FILE_BYTES
    assert sum(sizes.values()) < MAX_BYTES
    assert {path.suffix for path in sizes} <= {".safetensors", ".json", ".jinja", ".txt"}
    assert {path.suffix for path, size in sizes.items() if size > 200_000} == {".safetensors"}


def test_no_file_names_a_place_on_the_machine_that_trained_it():
    for path in weight_files():
        if path.suffix == ".json":
            assert '"/' not in path.read_text().replace('"/"', ""), path
