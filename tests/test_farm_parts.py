"""Parts of a shot: baked beside its cache folder, taken in byte by byte, never seen half."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.farm import make_show, write_shot

from ua3dtalk.engine.cache import CacheReader
from ua3dtalk.engine.cache.index import Index
from ua3dtalk.engine.cache.layout import FRAME_FILES, read_header
from ua3dtalk.engine.farm import parts, task
from ua3dtalk.engine.shot.document import Rules, read_document
from ua3dtalk.engine.shot.plan import check_bake

RULES = (None, False)
WHERE = ("cpu", 1)


@pytest.fixture
def show(tmp_path: Path) -> Path:
    return make_show(tmp_path)


def bake(shot: Path, names: tuple[str, ...] = ()) -> dict[str, Any]:
    return task.bake_file(str(shot), *RULES, False, *WHERE, names)


def bake_part(shot: Path, frames: range) -> dict[str, Any]:
    return task.bake_part(str(shot), *RULES, *WHERE, list(frames))


def frames_of(folder: Path) -> dict[int, tuple[bytes, ...]]:
    """What a cache holds of each frame: key, ranges, checksums, and the bytes of its slots."""
    header = read_header(folder)
    index = Index(folder / header.store)
    index.refresh()
    files = {name: (folder / header.store / name).read_bytes() for name in FRAME_FILES}
    found = {}
    for frame, entry in index.entries.items():
        slots = []
        for name, (channels, kind) in FRAME_FILES.items():
            size = channels * np.dtype(kind).itemsize * header.moving
            slots.append(files[name][int(entry["slot"]) * size :][:size])
        found[frame] = (*(entry[name].tobytes() for name in ("key", "low", "high", "motion_crc", "uncertainty_crc", "shares_crc")), *slots)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_parts_are_the_unsplit_bake_and_leave_the_old_one_alone(show: Path) -> None:
    whole = write_shot(show, "whole", 60)
    assert bake(whole)["computed"] == 60
    shot = write_shot(show, "split", 60, smile=0.3)
    assert bake(shot)["computed"] == 60
    output = show / "cache" / "split"
    old = tree(output)
    write_shot(show, "split", 60)
    for frames in (range(0, 17), range(17, 31), range(31, 60)):
        assert bake_part(shot, frames)["computed"] == len(frames)
    assert tree(output) == old, "nobody sees a part before all are whole"
    answer = bake(shot, ("0-16", "17-30", "31-59"))
    assert (answer["taken"], answer["computed"], answer["up_to_date"]) == (59, 0, 60), "the first has no smile in either"
    assert frames_of(output) == frames_of(show / "cache" / "whole")
    assert check_bake(output, read_document(shot)[0])["ok"]
    assert sorted(path.name for path in (show / "cache").iterdir()) == ["split", "whole"]
    CacheReader(output).close()


def test_frames_of_one_key_are_computed_once(show: Path) -> None:
    """A face that stands still without sound is one frame's work, and no parts come of it."""
    shot, settings = read_document(write_shot(show, "still", 500, smile=0, sound=False))
    assert settings.output is not None
    assert parts.frames_to_compute(shot, settings.output, []) == [0]
    assert parts.split([0], 8) == [[0]] and parts.split([], 3) == []
    assert [len(run) for run in parts.split(list(range(10)), 3)] == [4, 3, 3]


def test_what_is_left_of_parts_is_used(show: Path) -> None:
    """Of a run with parts of another size: one whole, one torn and damaged, one of which only the folder's name is right."""
    path = write_shot(show, "shot", 40)
    assert bake_part(path, range(0, 20))["computed"] == 20
    assert bake_part(path, range(20, 40))["computed"] == 20
    place = show / "cache" / "shot.parts"
    store = place / "20-39" / read_header(place / "20-39").store
    index = (store / "index.bin").read_bytes()
    (store / "index.bin").write_bytes(index[: len(index) * 3 // 4 + 30])  # 15 whole entries, then a torn one
    motion = bytearray((store / "motion.bin").read_bytes())
    motion[5] ^= 1  # of the first frame in it
    (store / "motion.bin").write_bytes(motion)
    (place / "7-8").mkdir()
    (place / "7-8" / "notes.txt").write_text("not a cache")
    shot, settings = read_document(path)
    assert settings.output is not None
    todo = parts.frames_to_compute(shot, settings.output, parts.left_parts(place))
    assert todo == [35, 36, 37, 38, 39]
    answer = bake(path)
    assert (answer["taken"], answer["computed"], answer["up_to_date"]) == (34, 6, 34), "the damaged frame and the five are computed"
    assert check_bake(settings.output, shot)["ok"]
    assert not place.exists()


def test_a_part_that_is_being_written_stays(show: Path) -> None:
    path = write_shot(show, "shot", 6)
    bake_part(path, range(0, 3))
    place = show / "cache" / "shot.parts"
    (place / "0-2" / "writing.lock").write_text(f"another-machine {os.getpid()}")
    (place / "mine.txt").write_text("kept")
    answer = bake(path)
    assert (answer["taken"], answer["computed"]) == (3, 3)
    assert sorted(path.name for path in place.iterdir()) == ["0-2", "mine.txt"]
    (place / "0-2" / "writing.lock").unlink()
    bake(path)
    assert [path.name for path in place.iterdir()] == ["mine.txt"]


def test_parts_follow_the_rules_of_shot_files(show: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No link leads a part out of the folder that a shot may write in."""
    path = write_shot(show, "shot", 6)
    output, outside = show / "cache" / "shot", tmp_path_factory.mktemp("outside")
    assert parts.parts_folder(path, output, Rules()) == show / "cache" / "shot.parts"
    assert parts.parts_folder(path, show, Rules()) is None, "beside the root is outside of it"
    try:
        (show / "cache").mkdir()
        (show / "cache" / "shot.parts").symlink_to(outside, target_is_directory=True)
    except OSError:
        pytest.skip("no links on this system without rights")
    assert parts.parts_folder(path, output, Rules()) is None
    assert "may not write parts" in bake_part(path, range(0, 3))["error"]
    (show / "cache" / "shot.parts").unlink()
    (show / "cache" / "shot.parts").mkdir()
    (show / "cache" / "shot.parts" / "0-2").symlink_to(outside, target_is_directory=True)
    assert "may not write parts" in bake_part(path, range(0, 3))["error"]
    assert bake(path)["taken"] == 0 and not list(outside.iterdir())
