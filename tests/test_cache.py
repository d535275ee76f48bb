"""The cache folder: precise, whole frames only, old bakes kept until new ones stand."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.avatars import static_avatar

from ua3dtalk.engine.avatar import REGIONS
from ua3dtalk.engine.avatar.tensors import load_tensors, save_tensors
from ua3dtalk.engine.cache import SHARES, CacheHeader, CacheReader, CacheWriter, FrameMissing
from ua3dtalk.engine.cache.layout import ENTRY, FRAME_FILES, quantise_shares, read_header
from ua3dtalk.engine.errors import UserError

STATIC, BRANCH = static_avatar(90, 30).rest()
MOVING = np.arange(10, 110)
REGION = np.where(BRANCH == 1, REGIONS.index("mouth"), np.arange(120) % 5).astype(np.uint8)


def header(avatar: str = "a" * 64) -> CacheHeader:
    return CacheHeader("Head", avatar, "", "sorted", 25.0, "", 0, 0, "0", "cpu")


def writer(folder: Path, avatar: str = "a" * 64) -> CacheWriter:
    return CacheWriter(folder, header(avatar), STATIC, BRANCH, MOVING, REGION)


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def motion(seed: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    quats = random.normal(size=(100, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    shares = random.dirichlet(np.ones(4), 100)
    shares[80:, 3] = 0
    shares /= shares.sum(1, keepdims=True)
    variances = random.random((2, 100))
    return random.normal(0, 0.1, (100, 3)), quats, random.uniform(1e-4, 0.02, (100, 3)), *variances, shares


def put(target: CacheWriter, frame: int, seed: int | None = None) -> None:
    seed = frame if seed is None else seed
    target.put(frame, key(seed), *motion(seed))


def check(reader: CacheReader, frame: int, seed: int) -> None:
    means, quats, scales, aleatoric, epistemic, shares = motion(seed)
    got = reader.at(frame)
    np.testing.assert_allclose(got.means[MOVING], means, atol=np.ptp(means) / 65535)
    np.testing.assert_allclose(got.quats[MOVING], quats, atol=5e-5)
    np.testing.assert_allclose(got.scales[MOVING], scales, atol=0.02 / 65535)
    np.testing.assert_allclose(got.aleatoric[MOVING], aleatoric, rtol=1e-3)
    np.testing.assert_allclose(got.epistemic[MOVING], epistemic, rtol=1e-3)
    still = np.setdiff1d(np.arange(120), MOVING)
    np.testing.assert_array_equal(got.means[still], STATIC.means[still])
    np.testing.assert_array_equal(got.epistemic[still], 0)
    np.testing.assert_allclose(got.shares[MOVING], shares, atol=1.001 / 255)
    np.testing.assert_allclose(got.shares[MOVING].sum(1), 1, atol=1e-6)
    assert not got.shares[MOVING][80:, SHARES.index("emotion")].any() and not got.shares[still].any()


def test_frames_come_back(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        for frame, seed in ((3, 3), (1, 1), (-2, 2)):
            put(target, frame, seed)
        target.finish()
    reader = CacheReader(tmp_path)
    assert list(reader.frames()) == [-2, 1, 3]
    assert reader.keys() == {-2: key(2), 1: key(1), 3: key(3)}
    for frame, seed in ((-2, 2), (1, 1), (3, 3)):
        check(reader, frame, seed)
    with pytest.raises(FrameMissing):
        reader.at(2)


def test_a_header_says_how_large_a_trained_pixel_is(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        target.finish()
    path = tmp_path / "header.json"
    values = json.loads(path.read_text("utf-8"))
    assert read_header(tmp_path).pixel_size == values.pop("pixel_size") == 0
    path.write_text(json.dumps(values), "utf-8")
    assert read_header(tmp_path).pixel_size == 0, "an earlier bake"
    path.write_text(json.dumps(values | {"pixel_size": 4e-4}), "utf-8")
    assert read_header(tmp_path).pixel_size == 4e-4
    for wrong in (-1, "large", float("nan"), None):
        path.write_text(json.dumps(values | {"pixel_size": wrong}), "utf-8")
        with pytest.raises(UserError, match="damaged"):
            read_header(tmp_path)


def test_a_header_says_whether_variances_are_of_colour(tmp_path: Path) -> None:
    with CacheWriter(tmp_path, replace(header(), color_variance=True), STATIC, BRANCH, MOVING, REGION) as target:
        put(target, 1)
    path = tmp_path / "header.json"
    values = json.loads(path.read_text("utf-8"))
    assert CacheReader(tmp_path).header.color_variance is values.pop("color_variance") is True
    path.write_text(json.dumps(values), "utf-8")
    assert read_header(tmp_path).color_variance is False, "an earlier bake"
    path.write_text(json.dumps(values | {"color_variance": 1}), "utf-8")
    with pytest.raises(UserError, match="damaged"):
        read_header(tmp_path)


def test_what_stands_still_has_the_variance_of_its_avatar(tmp_path: Path) -> None:
    still = np.where(np.isin(np.arange(len(BRANCH)), MOVING), 0, 0.25).astype(np.float32)
    with CacheWriter(tmp_path, header(), STATIC, BRANCH, MOVING, REGION, still) as target:
        put(target, 1)
    check(CacheReader(tmp_path), 1, 1)
    found = CacheReader(tmp_path).at(1).uncertainty
    assert np.array_equal(np.delete(found, MOVING, 0), np.tile(np.float32([0.25, 0]), (len(BRANCH) - len(MOVING), 1)))
    path = next(tmp_path.glob("store-*")) / "static.safetensors"
    arrays = {name: np.array(array) for name, array in load_tensors(path)[0].items()}
    save_tensors(path, {name: array for name, array in arrays.items() if name != "still_variance"}, {})  # as an earlier bake
    check(CacheReader(tmp_path), 1, 1)
    assert not np.delete(CacheReader(tmp_path).at(1).uncertainty, MOVING, 0).any()
    save_tensors(path, arrays | {"still_variance": still[1:]}, {})
    with pytest.raises(UserError, match="static.safetensors"):
        CacheReader(tmp_path)


def test_a_frame_of_fifty_thousand_is_a_megabyte(tmp_path: Path) -> None:
    static, branch = static_avatar(50_000, 0, degree=0).rest()
    with CacheWriter(tmp_path, header(), static, branch, np.arange(50_000)) as target:
        zeros = np.zeros(50_000)
        target.put(0, key(0), static.means, static.quats, static.scales, zeros, zeros)
    assert (next(tmp_path.glob("store-*")) / "motion.bin").stat().st_size == 1_000_000


def test_subframes_lie_between(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0)
        put(target, 1)
    reader = CacheReader(tmp_path)
    before, middle, after = reader.at(0), reader.at(0.25), reader.at(1)
    np.testing.assert_allclose(middle.shares, 0.75 * before.shares + 0.25 * after.shares, atol=1e-6)
    np.testing.assert_allclose(middle.means, 0.75 * before.means + 0.25 * after.means, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(middle.quats[MOVING], axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(reader.at(1.4).means, after.means)  # frame 2 is not baked


def test_a_reader_sees_frames_as_they_come_and_are_replaced(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        reader = CacheReader(tmp_path)
        assert not len(reader.frames())
        put(target, 5)
        assert reader.refresh() and not reader.refresh()
        check(reader, 5, 5)
        put(target, 5, seed=77)
        check(reader, 5, 77)
        assert reader.keys() == {5: key(77)}


def test_an_open_reader_follows_an_index_that_is_torn_and_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with writer(whole) as target:
        for frame in range(4):
            put(target, frame)
        target.finish()
    store = next(whole.glob("store-*")).name
    data, size = (whole / store / "index.bin").read_bytes(), ENTRY.itemsize
    for cut in (1, 3, 4, 5, size // 2, size - 1):
        index = tmp_path / f"{cut}" / store / "index.bin"
        shutil.copytree(whole, tmp_path / f"{cut}")
        index.write_bytes(data[: size + cut])  # the second entry was being written
        reader = CacheReader(tmp_path / f"{cut}")
        assert list(reader.frames()) == [0]
        with open(index, "ab") as file:
            file.write(data[size + cut : 2 * size])  # now it is whole
        assert reader.refresh() and list(reader.frames()) == [0, 1]
        with open(index, "ab") as file:
            file.write(data[2 * size : 2 * size + cut])  # a kill; the next bake goes on behind it
            file.write(data[3 * size :])
        assert reader.refresh() and list(reader.frames()) == [0, 1, 3]
        check(reader, 3, 3)


def test_an_open_reader_sees_another_index_in_the_same_file(tmp_path: Path) -> None:
    for name, seed, frames in (("a", 0, 3), ("b", 50, 5)):
        with writer(tmp_path / name) as target:
            for frame in range(frames):
                put(target, frame, seed + frame)
            target.finish()
    reader = CacheReader(tmp_path / "a")
    check(reader, 1, 1)
    one, other = (next((tmp_path / name).glob("store-*")) for name in "ab")
    for name in (*FRAME_FILES, "index.bin"):  # as `cp` does: written over, longer than before
        (one / name).write_bytes((other / name).read_bytes())
    for frame in range(5):
        check(reader, frame, 50 + frame)


def test_a_writer_begins_again(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0)
        put(target, 1)
    assert not (tmp_path / "writing.lock").exists()
    target.begin(header())
    with target, pytest.raises(UserError, match="another bake"):
        writer(tmp_path)
    for turn in range(5):
        target.begin(header())
        with target:
            assert target.has(1, key(1)) and target.knows(key(1))
            put(target, 0, 10 * turn + 2)
            put(target, 0, 10 * turn + 3)
            assert target.knows(key(10 * turn + 2))  # a frame that only moved may still want it
    with writer(tmp_path):  # another one has been here
        pass
    target.begin(header())
    with target:
        assert target.has(0, key(43)) and not target.knows(key(42))
        assert target.reuse(7, key(1))
    reader = CacheReader(tmp_path)
    for frame, seed in ((0, 43), (1, 1), (7, 1)):
        check(reader, frame, seed)
    assert (tmp_path / reader.header.store / "motion.bin").stat().st_size <= 4 * 2000


def test_a_writer_that_begins_again_sees_the_bake_that_took_its_place(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0)
    target.begin(header())
    target.close()
    with writer(tmp_path, "b" * 64) as other:
        put(other, 0, seed=5)
        other.finish()
    target.begin(header())
    with target:
        assert not target.is_shown and not target.has(0, key(0))
        put(target, 0, seed=6)
        check(CacheReader(tmp_path), 0, 5)
        target.finish()
    check(CacheReader(tmp_path), 0, 6)


def test_the_lie_of_the_arrays_in_memory_does_not_matter(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        target.put(0, key(0), *motion(3))
        target.put(1, key(1), *(np.asfortranarray(part) for part in motion(3)))
    store = next(tmp_path.glob("store-*"))
    for name in FRAME_FILES:
        data = (store / name).read_bytes()
        assert data[: len(data) // 2] == data[len(data) // 2 :] and any(data), name


def test_frames_share_data_by_key(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0, seed=9)
        assert target.reuse(4, key(9)) and not target.reuse(5, key(10))
        assert target.has(4, key(9)) and not target.has(4, key(8))
    reader = CacheReader(tmp_path)
    check(reader, 4, 9)
    assert (tmp_path / reader.header.store / "motion.bin").stat().st_size == 2000


def test_replaced_slots_are_used_again_by_the_next_bake(tmp_path: Path) -> None:
    for generation in range(6):
        with writer(tmp_path) as target:
            for frame in range(5):
                put(target, frame, seed=100 * generation + frame)
    reader = CacheReader(tmp_path)
    for frame in range(5):
        check(reader, frame, 500 + frame)
    assert (tmp_path / reader.header.store / "motion.bin").stat().st_size <= 2 * 5 * 2000


def test_index_does_not_grow_for_ever(tmp_path: Path) -> None:
    for generation in range(40):
        with writer(tmp_path) as target:
            for frame in range(5):
                put(target, frame, seed=100 * generation + frame)
    store = next(tmp_path.glob("store-*"))
    assert (store / "index.bin").stat().st_size <= (4 * 5 + 64 + 5) * ENTRY.itemsize
    check(CacheReader(tmp_path), 3, 3903)


def test_another_avatar_replaces_the_bake_only_when_it_is_finished(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0)
        target.finish()
    with writer(tmp_path, "b" * 64) as target:
        put(target, 0, seed=50)
        check(CacheReader(tmp_path), 0, 0)
    reader = CacheReader(tmp_path)  # the second bake was cut off before it was finished
    check(reader, 0, 0)
    with writer(tmp_path, "b" * 64) as target:
        assert target.has(0, key(50))
        target.finish()
    assert reader.replaced
    check(CacheReader(tmp_path), 0, 50)
    assert len(list(tmp_path.glob("store-*"))) == 1


def summary_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a summary must say, Gaussian by Gaussian: variances [8,2] and shares [8,4]."""
    *_, aleatoric, epistemic, shares = motion(seed)
    variances, whole = np.zeros((8, 2)), np.zeros((8, 4))
    for region in range(8):
        rows = [i for i, place in enumerate(MOVING) if REGION[place] == region]
        if rows:
            variances[region] = np.mean([(aleatoric[i], epistemic[i]) for i in rows], axis=0)
            whole[region] = np.mean([shares[i] for i in rows], axis=0)
    return variances, whole


def test_a_frame_is_summed_up_by_region(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0)
        put(target, 4)
        reader = CacheReader(tmp_path)
        assert reader.region.tolist() == REGION.tolist()
        assert reader.moving_in_region.tolist() == np.bincount(REGION[MOVING], minlength=8).tolist()
        for frame in (0, 4):
            found, (variances, shares) = reader.summary(frame), summary_of(frame)
            np.testing.assert_allclose(np.stack([found.aleatoric, found.epistemic], 1), variances, rtol=1e-3)
            np.testing.assert_allclose(found.shares, shares, atol=1 / 255)
        assert reader.summary(4) is found
        put(target, 4, seed=9)
        np.testing.assert_allclose(reader.summary(4).epistemic, summary_of(9)[0][:, 1], rtol=1e-3)
        with pytest.raises(FrameMissing):
            reader.summary(1)
    store = next(tmp_path.glob("store-*"))
    for name in ("uncertainty.bin", "shares.bin"):
        data = (store / name).read_bytes()
        (store / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(FrameMissing):
            CacheReader(tmp_path).summary(0)
        (store / name).write_bytes(data)


def test_shares_nothing_is_known_of_are_zero(tmp_path: Path) -> None:
    with CacheWriter(tmp_path, header(), STATIC, BRANCH, MOVING) as target:
        target.put(0, key(0), *motion(0))
        target.put(1, key(1), *motion(1)[:5])
    reader = CacheReader(tmp_path)
    assert reader.at(0).shares.any() and not reader.at(1).shares.any() and not reader.summary(1).shares.any()
    assert [REGIONS[number] for number in np.unique(reader.region)] == ["mouth", "head"]


@given(
    weights=st.lists(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1)), min_size=4, max_size=4).filter(any), min_size=1, max_size=9)
)
@example(weights=[[1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
@settings(max_examples=50, deadline=None)
def test_shares_are_whole_255ths(weights: list[list[float]]) -> None:
    shares = np.array(weights, float)
    shares /= shares.sum(1, keepdims=True)
    for kind in (np.float64, np.float32):
        whole = np.empty((4, len(shares)), np.uint8)
        quantise_shares(shares.astype(kind), whole)
        assert (whole.sum(0, dtype=int) == 255).all()
        assert np.abs(whole.T / 255 - shares).max() < 1.001 / 255
        assert not whole.T[shares == 0].any()


def older(folder: Path) -> None:
    """Make the bake in a folder look like one of version 1."""
    store = next(folder.glob("store-*"))
    store.rename(folder / "store-old")
    text = json.loads((folder / "header.json").read_text()) | {"format_version": 1, "store": "store-old"}
    (folder / "header.json").write_text(json.dumps(text))


def test_a_bake_of_an_older_version_is_refused_and_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0)
        target.finish()
    older(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "store-old").iterdir()} | {"": (tmp_path / "header.json").read_bytes()}
    with pytest.raises(UserError, match="older version of UA-3DTalk. Bake again."):
        CacheReader(tmp_path)
    for _ in range(2):  # cut off before it is whole, and gone on with
        with writer(tmp_path) as target:
            assert not target.is_shown
            put(target, 3)
        kept = {path.name: path.read_bytes() for path in (tmp_path / "store-old").iterdir()}
        assert kept | {"": (tmp_path / "header.json").read_bytes()} == before
    with writer(tmp_path) as target:
        assert target.has(3, key(3))
        target.finish()
        assert target.is_shown
    check(CacheReader(tmp_path), 3, 3)
    assert not (tmp_path / "store-old").exists()


def truncations(folder: Path) -> list[tuple[str, int]]:
    store = next(folder.glob("store-*"))
    entry, slot = ENTRY.itemsize, 2000
    cuts = [("index.bin", size) for size in (0, 1, entry - 1, entry, entry + 1, 3 * entry - 4, 3 * entry - 1)]
    cuts += [("motion.bin", size) for size in (0, 1, slot - 1, slot, slot + 1, 3 * slot - 1)]
    cuts += [(name, size) for name in ("uncertainty.bin", "shares.bin") for size in (0, 399, 400, 401, 1199)]
    return [(f"{store.name}/{name}", size) for name, size in cuts]


def test_truncated_files_never_show_a_wrong_frame(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with writer(whole) as target:
        for frame in range(3):
            put(target, frame)
        target.finish()
    for name, size in truncations(whole):
        cut = tmp_path / "cut"
        shutil.copytree(whole, cut)
        os.truncate(cut / name, size)
        reader = CacheReader(cut)
        shown = 0
        for frame in range(3):
            try:
                check(reader, frame, frame)
                shown += 1
            except FrameMissing:
                pass
        assert shown < 3, (name, size)
        with writer(cut) as target:  # and the bake goes on
            for frame in range(3):
                put(target, frame)
        for frame in range(3):
            check(CacheReader(cut), frame, frame)
        shutil.rmtree(cut)


def test_flipped_bits_are_missing_frames(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        for frame in range(3):
            put(target, frame)
        target.finish()
    store = next(tmp_path.glob("store-*"))
    for name, at in (("motion.bin", 2500), ("uncertainty.bin", 500), ("shares.bin", 700), ("index.bin", ENTRY.itemsize + 30)):
        data = (store / name).read_bytes()
        (store / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        reader = CacheReader(tmp_path)
        with pytest.raises(FrameMissing):
            reader.at(1)
        check(reader, 2, 2)
        (store / name).write_bytes(data)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', '{"format": "ua3dtalk-cache", "format_version": 99}'])
def test_damaged_headers_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "header.json").write_text(text)
    with pytest.raises(UserError, match="header.json"):
        CacheReader(tmp_path)


def test_a_store_outside_the_folder_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path / "real") as target:
        put(target, 0)
        target.finish()
    text = (tmp_path / "real" / "header.json").read_text()
    store = CacheReader(tmp_path / "real").header.store
    (tmp_path / "fake").mkdir()
    for name in (f"../real/{store}", "..", "", f"/{store}"):
        (tmp_path / "fake" / "header.json").write_text(text.replace(store, name))
        with pytest.raises(UserError):
            CacheReader(tmp_path / "fake")


def test_frames_that_are_not_finite_are_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0)
        for part, at, value in itertools.product(range(6), (3, 99), (np.nan, np.inf)):
            parts = motion(1)
            parts[part][at] = value
            with pytest.raises(UserError, match="Frame 0"):
                target.put(0, key(1), *parts)
    check(CacheReader(tmp_path), 0, 0)


def test_one_writer_at_a_time_and_dead_ones_do_not_block(tmp_path: Path) -> None:
    with writer(tmp_path), pytest.raises(UserError, match="another bake"):
        writer(tmp_path)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    import socket

    (tmp_path / "writing.lock").write_text(f"{socket.gethostname()} {gone.stdout.strip()}")
    with writer(tmp_path):
        pass
    assert not (tmp_path / "writing.lock").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_reported_and_the_old_frame_stays(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        put(target, 0)
        target.finish()
    with writer(tmp_path) as target:
        with open("/dev/full", "r+b", buffering=0) as full:
            own, target._files[0] = target._files[0], full
            with pytest.raises(UserError, match="No space left"):
                put(target, 0, seed=8)
            target._files[0] = own
    check(CacheReader(tmp_path), 0, 0)


def test_a_path_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        writer(tmp_path / "x")
