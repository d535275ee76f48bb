"""Shot files: what is written fits the published schema and reads back exactly; a person's fit it too; strangers' do no harm."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import STAGE

from ua3dtalk.engine.avatar import EMOTIONS
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.shot import STRENGTHS, Shot, frame_keys
from ua3dtalk.engine.shot.curves import CURVES
from ua3dtalk.engine.shot.document import DOCUMENT_VERSION, Rules, read_document, write_document

SCHEMA = json.loads((STAGE / "ua3dtalk" / "engine" / "shot" / "shot.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
ARRAYS = ("frames", "times", "keyed", "intensity", "mix", "au", *STRENGTHS)
A, B = "a" * 64, "b" * 64


def random_shot(folder: Path, seed: int, count: int = 30, fps: float = 24 / 1.001) -> Shot:
    random = np.random.default_rng(seed)
    frames = np.arange(count) - 5 if seed % 2 else np.sort(random.choice(10 * count, count, replace=False))
    times = np.where(random.random(count) < 0.2, np.nan, np.abs((frames - 3.7) / fps + random.normal(0, 1e-3, count)))
    return Shot(
        folder / "avatars" / "head.safetensors", A, folder / "sound" / "s.wav", B, fps, frames.astype(np.int32), times,
        random.random((count, 8), np.float32), random.random(count, np.float32) * 2, np.full(count, 0.3, np.float32),
        random.random((count, 6), np.float32) - np.float32(1e-17), smoothing=random.random(),
        **{name: random.random(count, np.float32) * 2 for name in STRENGTHS},
    )  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    base = {"ua3dtalk_shot": 1, "avatar": {"path": "head.safetensors", "sha256": A}, "fps": 25, "frames": {"first": 1, "last": 10}}
    return {key: value for key, value in (base | changes).items() if value is not Ellipsis}


def read(folder: Path, data: object, rules: Rules = Rules()) -> tuple[Shot, Any]:
    path = folder / "shot.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return read_document(path, rules)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["ua3dtalk_shot"]["const"] == DOCUMENT_VERSION
    for name, curve in SCHEMA["properties"]["curves"]["properties"].items():
        assert curve["default"] == CURVES[name].default and curve["$ref"].endswith("Two") == (CURVES[name].high == 2)
    assert set(SCHEMA["properties"]["curves"]["properties"]) == set(CURVES)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), fps=st.sampled_from([24.0, 25.0, 24 / 1.001, 60 / 1.001, 23.976]))
def test_what_is_written_fits_the_schema_and_reads_back_bit_by_bit(tmp_path: Path, seed: int, fps: float) -> None:
    shot = random_shot(tmp_path, seed, fps=fps)
    path = tmp_path / "shots" / "a b.json"
    write_document(shot, path, "sc 01", tmp_path / "shots" / "cache")
    VALIDATOR.validate(json.loads(path.read_text("utf-8")))
    back, about = read_document(path)
    for name in ARRAYS:
        got, expected = getattr(back, name), getattr(shot, name)
        assert got.dtype == expected.dtype and np.array_equal(got, np.maximum(expected, 0) if name == "au" else expected, equal_nan=name == "times")
    assert (frame_keys(back) == frame_keys(shot)).all()
    assert (back.fps, back.smoothing, back.avatar_hash, back.sound_hash) == (shot.fps, shot.smoothing, A, B)
    assert (back.avatar, back.sound) == (shot.avatar, shot.sound)
    assert (about.name, about.output, about.format) == ("sc 01", tmp_path / "shots" / "cache", "cache")


def test_paths_are_relative_with_slashes_and_constants_are_numbers(tmp_path: Path) -> None:
    shot = replace(random_shot(tmp_path, 1), intensity=np.full(30, 0.1, np.float32), sound=None, sound_hash="")
    write_document(shot, tmp_path / "shots" / "x.json")
    data = json.loads((tmp_path / "shots" / "x.json").read_text("utf-8"))
    assert data["avatar"]["path"] == "../avatars/head.safetensors" and data["name"] == "x" and "output" not in data
    assert data["curves"]["intensity"] == 0.1 and data["curves"]["mix"] == 0.3 and data["sound"] is None and "sound_times" not in data
    VALIDATOR.validate(data)
    back, _ = read_document(tmp_path / "shots" / "x.json")
    assert np.isnan(back.times).all() and (frame_keys(back) == frame_keys(shot)).all()


def test_a_person_s_file(tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(b"head")
    (tmp_path / "s.wav").write_bytes(b"sound")
    data = document(
        avatar={"path": "head.safetensors"}, sound={"path": "s.wav"}, sound_times={"start": 3.5, "last": 8},
        curves={"happy": [[2, 0], [6, 0.8]], "intensity": 1.5, "au45": [0, 0, 0.5, 1, 0.5, 0, 0, 0, 0, 0]}, output={"folder": "out"},
    )  # fmt: skip
    VALIDATOR.validate(data)
    shot, about = read(tmp_path, data)
    assert np.allclose(shot.keyed[:, EMOTIONS.index("happy")], np.clip((np.arange(1, 11) - 2) / 4, 0, 1) * 0.8)
    assert (shot.intensity == 1.5).all() and shot.au[3, 5] == 1 and (shot.mix == 1).all() and (shot.keyed[:, 0] == 1).all()
    assert np.isnan(shot.times).tolist() == [True] * 3 + [False] * 5 + [True] * 2 and shot.times[3] == 0.5 / 25
    assert shot.avatar_hash == hashlib.sha256(b"head").hexdigest()
    assert about.name == "shot" and about.output == tmp_path / "out"
    shot, about = read(tmp_path, document(sound={"path": "s.wav"}))
    assert shot.times[0] == 0 and about.output is None, "a sound begins with the shot"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "not a JSON file"),
        ("[1]", "no JSON object"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"ua3dtalk_shot": 1, "fps": NaN}', "NaN"),
        ("[" * 100_000, "not a JSON file"),
        ('{"ua3dtalk_shot": ' + "9" * 5000 + "}", "not a JSON file"),
        (document(ua3dtalk_shot=2), "newer"),
        (document(ua3dtalk_shot="1"), "version"),
        (document(ua3dtalk_shot=True), "version"),
        (document(colour=1, paint=2), "unknown entries: 'colour', 'paint'"),
        (document(fps=0), "`fps`"),
        (document(fps="25"), "`fps`"),
        (document(fps=...), "`fps`"),
        (document(frames={"first": 1, "last": 10**12}), "`frames`"),
        (document(frames={"first": 0, "last": 2_000_000}), "`frames`"),
        (document(frames={"first": 5, "last": 4}), "`frames`"),
        (document(frames=[1, 1]), "rise"),
        (document(frames=[1.5]), "whole"),
        (document(frames=[]), "`frames`"),
        (document(name=""), "`name`"),
        (document(name="a\nb"), "`name`"),
        (document(curves={"joy": 1}), "'joy'"),
        (document(curves={"happy": 1.5}), "`happy` is 1.5 at frame 1"),
        (document(curves={"happy": [0] * 9}), "`happy` is neither"),
        (document(curves={"happy": ["1"] * 10}), "`happy`"),
        (document(curves={"happy": [True] * 10}), "`happy`"),
        (document(curves={"happy": [10**400] * 10}), "`happy`"),
        (document(curves={"happy": [[1, 0], [1, 1]]}), "rise"),
        (document(curves={"happy": [[1, 0, 2]]}), "[frame, value]"),
        (document(curves={"happy": []}), "`happy`"),
        (document(curves={"happy": None}), "`happy`"),
        (document(curves=[]), "`curves`"),
        (document(smoothing=2), "`smoothing`"),
        (document(avatar="head"), "`avatar`"),
        (document(avatar={"path": "head.safetensors", "sha256": "ABC"}), "sha256"),
        (document(avatar={"path": "", "sha256": A}), "path"),
        (document(avatar={"path": "a\0b", "sha256": A}), "path"),
        (document(avatar={"path": "head.safetensors"}), "no avatar file"),
        (document(sound_times={"start": 1}), "without a `sound`"),
        (document(sound={"path": "s.wav", "sha256": B}, sound_times=[0] * 9), "`sound_times`"),
        (document(sound={"path": "s.wav", "sha256": B}, sound_times=[-1] * 10), "`sound_times`"),
        (document(sound={"path": "s.wav", "sha256": B}, sound_times={"begin": 1}), "'begin'"),
        (document(output={"folder": "out", "format": "exr"}), "'exr'"),
        (document(output={"folder": "../out"}), "outside"),
        (document(output={"folder": "a/../../out"}), "outside"),
        (document(output="out"), "`output`"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, data: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, data)
    assert words in caught.value.message and "shot.json" in caught.value.message and "\n" not in str(caught.value)


def test_what_is_refused_does_not_fit_the_schema_either() -> None:
    """The schema and the reader are two accounts of one thing: they agree where a schema can say it."""
    said_otherwise = ("rise", "twice", "outside", "no avatar file", "without a", "neither", "begin")
    marks = test_what_cannot_be_is_refused_in_one_line.pytestmark[0].args[1]
    cases = [data for data, words in marks if isinstance(data, dict) and not any(word in words for word in said_otherwise)]
    cases = [data for data in cases if data["frames"] != {"first": 1, "last": 10**12} and "sound_times" not in data]
    left = [data for data in cases if VALIDATOR.is_valid(data)]
    # Numbers of frames, texts of one line and lengths of lists are beyond a schema.
    assert all(data.get("frames") in ({"first": 0, "last": 2_000_000}, {"first": 5, "last": 4}) or "\n" in data.get("name", "") or "\0" in data["avatar"]["path"] for data in left), left
    assert len(cases) > 20


def test_a_stranger_s_paths(tmp_path: Path) -> None:
    """The rules: written is inside the root alone; read outside of it only what the file knows the hash of; no servers."""
    inside, outside = tmp_path / "shots", tmp_path / "other"
    inside.mkdir(), outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    trusted = Rules(allow_outside=True)
    for folder in ("../other", str(outside), "..", str(tmp_path)):
        with pytest.raises(UserError, match="outside"):
            read(inside, document(output={"folder": folder}))
        assert read(inside, document(output={"folder": folder}), trusted)[1].output is not None
        assert read(inside, document(output={"folder": folder}), Rules(root=tmp_path))[1].output is not None
    with pytest.raises(UserError, match="outside"):
        read(inside, document(output={"folder": "../.."}), Rules(root=tmp_path))
    with pytest.raises(UserError, match="outside .* no `sha256`"):
        read(inside, document(avatar={"path": "../other/secret"}))
    assert read(inside, document(avatar={"path": "../other/secret", "sha256": A}))[0].avatar_hash == A, "who bakes compares it"
    assert len(read(inside, document(avatar={"path": "../other/secret"}), Rules(root=tmp_path))[0].avatar_hash) == 64
    for server in ("//server/share/x", "\\\\server\\share\\x", "/\\server\\x"):
        for entry in ({"output": {"folder": server}}, {"avatar": {"path": server, "sha256": A}}):
            with pytest.raises(UserError, match="network"):
                read(inside, document(**entry))
    if os.name != "nt":
        with pytest.raises(UserError, match="Windows"):
            read(inside, document(output={"folder": "C:/x"}))
        (inside / "link").symlink_to(outside, target_is_directory=True)
        with pytest.raises(UserError, match="outside"):
            read(inside, document(output={"folder": "link/cache"}))
        os.mkfifo(inside / "pipe")
        with pytest.raises(UserError, match="no avatar file"):
            read(inside, document(avatar={"path": "pipe"}))


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "shot.json", "wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(UserError, match="larger"):
        read_document(tmp_path / "shot.json")
    with pytest.raises(UserError, match="Cannot read"):
        read_document(tmp_path / "absent.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["head.safetensors", "..", A]),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.sampled_from([*SCHEMA["properties"], *CURVES, "path", "sha256", "first", "last", "start", "folder", "x"]), below, max_size=5),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(list(SCHEMA["properties"])), JSON, max_size=3))
def test_anything_gives_a_shot_or_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    try:
        shot, _ = read(tmp_path, document(**changes))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(frame_keys(shot)) == len(shot.frames) >= 1


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2000), junk=st.binary(min_size=1, max_size=4))
def test_damaged_bytes_give_a_shot_or_one_line(tmp_path: Path, at: int, junk: bytes) -> None:
    path = tmp_path / "shot.json"
    write_document(random_shot(tmp_path, 3, 3), path)
    data = path.read_bytes()
    at %= len(data)
    path.write_bytes(data[:at] + junk + data[at + len(junk) :])
    try:
        read_document(path)
    except UserError as error:
        assert "\n" not in str(error)
