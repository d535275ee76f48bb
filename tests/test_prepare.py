"""What a video's landmarks, sound and pictures say: pose and lens, action units, the part that is used, masks. See test_prepare_video.py, too."""

from __future__ import annotations

import wave
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.prepare.action_units import action_units
from ua3dtalk.engine.prepare.landmarks import LIPS_INNER, LIPS_OUTER, OVAL
from ua3dtalk.engine.prepare.masks import (
    BACKGROUND, FACE, HAIR, MOUTH, NECK, TORSO, background_picture, learn_colours, over, parse, polygon, refine, torso_picture,
)  # fmt: skip
from ua3dtalk.engine.prepare.pipeline import PrepareSettings, choose_window
from ua3dtalk.engine.prepare.pose import fit_poses
from ua3dtalk.engine.prepare.quality import LEAD, sound_offset
from ua3dtalk.engine.prepare.shape import HeadShape, fit_shape, project
from ua3dtalk.engine.prepare.tracking import Track, read_piece, write_piece, choose_shot, shots
from ua3dtalk.engine.prepare.video import FPS, VideoInfo

from support.talking_head import Film, face, film

CENTRE = (200.0, 200.0)


@pytest.fixture(scope="module")
def head() -> Film:
    return film()


@cache
def head_shape() -> HeadShape:
    """Of the head, whose lens is not known."""
    return fit_shape(film().landmarks, CENTRE)


# Pose, shape and lens


def test_a_known_lens_gives_the_pose_back(head: Film) -> None:
    shape = fit_shape(head.landmarks, CENTRE, head.focal)
    poses = fit_poses(head.landmarks, shape)
    assert shape.focal == pytest.approx(head.focal, rel=1e-3)
    off = np.degrees((Rotation.from_rotvec(poses.rotation) * Rotation.from_rotvec(head.rotation).inv()).as_rotvec())
    # Which way "straight ahead" is may differ by a little; the motion may not.
    assert np.abs(off.mean(0)).max() < 1.5 and off.std(0).max() < 0.6
    assert np.abs(poses.translation - head.translation).max() < 0.03
    assert np.sqrt(np.mean(poses.error**2)) < 0.5  # noise of 0.2 px in x and y each
    assert np.abs(shape.points - head.points).mean(0).max() < 0.003


def test_an_unknown_lens_is_plausible_and_explains_the_points(head: Film) -> None:
    shape = head_shape()
    assert 0.5 < shape.distance / 0.85 < 2 and shape.focal == pytest.approx(head.focal * shape.distance / 0.85, rel=0.1)
    assert np.sqrt(np.mean(fit_poses(head.landmarks, shape).error ** 2)) < 0.5


def test_head_space_is_upright_and_looks_along_z() -> None:
    points = head_shape().points
    assert points[4, 2] > points[[33, 263], 2].mean() > points[[234, 454], 2].mean()  # nose before eyes before ears
    assert points[10, 1] > points[4, 1] > points[152, 1]  # forehead over nose over chin
    assert points[263, 0] > 0.04 > -0.04 > points[33, 0]  # the person's left is +X
    assert np.abs(points).max() < 0.15


def test_cameras_in_the_data_set_see_the_landmarks(head: Film) -> None:
    """The 4 x 4 matrices are camera to world in OpenGL's axes: read back as `engine.dataset` does, they project onto the landmarks."""
    shape = head_shape()
    poses = fit_poses(head.landmarks, shape)
    for k in (0, 50, 119):
        camera = poses.camera_to_world[k]
        viewmat = np.linalg.inv(camera @ np.diag([1.0, -1.0, -1.0, 1.0]))
        assert np.linalg.det(camera[:3, :3]) == pytest.approx(1) and camera[2, 3] > 0.5, "the camera is in front of the face"
        seen = shape.points @ viewmat[:3, :3].T + viewmat[:3, 3]
        pixels = seen[:, :2] / seen[:, 2:] * shape.focal + CENTRE
        assert np.allclose(pixels, project(shape.points, poses.rotation[k : k + 1], poses.translation[k : k + 1], shape.focal, CENTRE)[0])
        assert np.abs(pixels - head.landmarks[k, :468, :2]).mean() < 1.0


def test_turning_left_is_positive_yaw(head: Film) -> None:
    poses = fit_poses(head.landmarks, head_shape())
    nose = head.landmarks[:, 4, 0] - head.landmarks[:, [234, 454], 0].mean(1)  # to the picture's right: the person's left
    assert np.corrcoef(poses.angles[:, 0], nose)[0, 1] > 0.98


def test_lost_pictures_are_bridged(head: Film) -> None:
    landmarks = head.landmarks.copy()
    landmarks[[0, 40, 41, 42]] = np.nan
    shape = fit_shape(landmarks[np.isfinite(landmarks).all((1, 2))], CENTRE, head.focal)
    whole, holed = fit_poses(head.landmarks, shape), fit_poses(landmarks, shape)
    assert np.isnan(holed.error[[0, 40, 41, 42]]).all() and np.isfinite(holed.error).sum() == 116
    assert np.degrees(np.abs(whole.rotation - holed.rotation)).max() < 1.5
    assert all(np.isfinite(values).all() for values in action_units(landmarks, shape, holed).values())


def test_smoothing_takes_shaking_out_and_leaves_motion() -> None:
    shaken = film(noise=0.2)
    jitter = np.random.default_rng(3).standard_normal((len(shaken.landmarks), 1, 2)) * 1.0  # all points together, as detectors shake
    shaken.landmarks[..., :2] += jitter
    poses = fit_poses(shaken.landmarks, fit_shape(shaken.landmarks, CENTRE, shaken.focal))

    def unsteady(x: np.ndarray) -> float:
        return float(np.diff(x[:, 0], 2).std())

    raw = shaken.translation + np.pad(jitter[:, 0], ((0, 0), (0, 1))) / shaken.focal * 0.85
    assert unsteady(poses.translation) < 0.6 * unsteady(raw)
    assert np.corrcoef(poses.translation[:, 0], shaken.translation[:, 0])[0, 1] > 0.99


# Action units


def acted(**moves: tuple[tuple[int, ...], tuple[float, float, float]]) -> dict[str, np.ndarray]:
    """AUs of a film whose pictures 80 .. 99 move the given points (x mirrored for the person's right), while the head turns."""
    shift = np.zeros((120, 468, 3))
    home = face()
    for points, (x, y, z) in moves.values():
        for p in points:
            shift[80:100, p] = np.sign(home[p, 0]) * x, y, z
    seen = film(moves=shift)
    return action_units(seen.landmarks, head_shape(), fit_poses(seen.landmarks, head_shape()))


def test_a_still_face_that_turns_has_no_units(head: Film) -> None:
    shape = head_shape()
    units = action_units(head.landmarks, shape, fit_poses(head.landmarks, shape))
    assert {name for name in units} >= {"AU01", "AU04", "AU12", "AU26", "AU45"} and len(units) == 17
    assert max(float(values.max()) for values in units.values()) < 0.6


LOWER = (152, 148, 377, 199, 200, 17, 84, 314, 14, 87, 317)


@pytest.mark.parametrize(
    ("wanted", "moves"),
    [
        (("AU01", "AU02"), {"brows": ((107, 55, 336, 285, 66, 296, 70, 63, 300, 293, 105, 334), (0, 0.006, 0))}),
        (("AU04",), {"brows": ((107, 55, 336, 285, 66, 296, 105, 334), (-0.002, -0.005, 0))}),
        (("AU12",), {"corners": ((61, 291), (0.006, 0.008, -0.002))}),
        (("AU15",), {"corners": ((61, 291), (0, -0.005, 0))}),
        (("AU26", "AU25"), {"jaw": (LOWER, (0, -0.015, 0)), "corners": ((61, 291), (0, -0.00375, 0))}),
        (("AU45",), {"up": ((159, 386, 158, 385, 160, 387), (0, -0.0085, 0)), "low": ((145, 374, 153, 380, 144, 373), (0, 0.001, 0))}),
        (("AU05",), {"up": ((159, 386, 158, 385, 160, 387), (0, 0.003, 0))}),
        (("AU09",), {"nose": ((129, 98, 358, 327), (0, 0.004, 0))}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_a_movement_is_its_unit(wanted: tuple[str, ...], moves: dict) -> None:
    units = acted(**moves)
    for name in wanted:
        assert units[name][84:96].mean() > 1.5 > 0.4 > units[name][:76].mean(), (name, {n: round(float(v[90]), 2) for n, v in units.items()})
    opposite = {"AU01": "AU04", "AU04": "AU01", "AU12": "AU15", "AU15": "AU12", "AU45": "AU05", "AU05": "AU45"}
    if wanted[0] in opposite:
        assert units[opposite[wanted[0]]][84:96].mean() < 0.4
    upper, lower = {"AU01", "AU02", "AU04", "AU05", "AU45"}, {"AU12", "AU15", "AU25", "AU26"}
    for name in lower if set(wanted) <= upper else upper if set(wanted) <= lower else ():
        assert units[name][84:96].mean() < 0.5, name
    assert units["AU45"].max() <= 2.5 and all(v.min() >= 0 and v.max() <= 5 and v.dtype == np.float32 for v in units.values())


def test_a_closed_eye_is_a_whole_blink_for_the_networks() -> None:
    units = acted(up=((159, 386, 158, 385, 160, 387), (0, -0.0095, 0)))
    assert units["AU45"][84:96].min() >= 2.0


# Choosing what is used


def tracked(count: int = 200, size: float = 100.0) -> Track:
    points = face()[None, :, :2] * [1, -1] * size / 0.17 + [200, 200]
    landmarks = np.zeros((count, 478, 3), np.float32)
    landmarks[:, :468, :2] = points
    landmarks[:, 468:, :2] = points[:, :1]
    still = np.full(count, 0.01, np.float32)
    return Track(landmarks, np.ones(count, np.int32), np.zeros(count, np.float32), still, still + 0.3, still + 0.5, still * 0)


def test_one_shot_is_used_whole() -> None:
    shot = choose_shot(Path("v.mp4"), tracked(), 25, False)
    assert (shot.first, shot.last, shot.cuts, shot.notes) == (25, 225, (), ())


def test_cuts_are_found_and_the_longest_part_is_used() -> None:
    found = tracked()
    found.change[60] = 0.4
    found.landmarks[180:, :, 0] += 90  # the same room, another place: the face jumps
    assert shots(found) == [(0, 60), (60, 180), (180, 200)]
    shot = choose_shot(Path("v.mp4"), found, 0, False)
    assert (shot.first, shot.last) == (60, 180) and shot.cuts == (2.4, 7.2)
    assert "2.40, 7.20 s" in shot.notes[0]


def test_a_zoom_is_a_cut_and_a_shaking_camera_is_none() -> None:
    found = tracked()
    found.change[:] = 0.09 + 0.02 * np.sin(np.arange(200))
    assert shots(found) == [(0, 200)]
    found.landmarks[100:, :, :2] = (found.landmarks[100:, :, :2] - 200) * 1.4 + 200
    assert shots(found) == [(0, 100), (100, 200)]


def without(found: Track, *numbers: int) -> Track:
    for k in numbers:
        found.landmarks[k], found.faces[k] = np.nan, 0
    return found


def test_edges_without_a_face_are_left_off_and_gaps_are_told() -> None:
    shot = choose_shot(Path("v.mp4"), without(tracked(), 0, 1, 2, 50, 51, 199), 0, False)
    assert (shot.first, shot.last) == (3, 199) and "No face in 2 of 196 pictures" in shot.notes[0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: without(t, *range(200)), "no face is found"),
        (lambda t: without(t, *range(20, 200)), "a face is seen for 0.8 s only"),
        (lambda t: without(t, *range(10, 190, 2)), "the face is not found in 45%"),
        (lambda t: t.change.__setitem__(slice(0, 200, 50), 0.5), "cut at 2.00, 4.00, 6.00 s"),
        (lambda t: (t.second.__setitem__(slice(0, 200), 0.8), t.faces.__setitem__(slice(0, 200), 2)), "two faces of about the same size in 100%"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(spoil, words: str) -> None:
    found = tracked()
    spoil(found)
    with pytest.raises(UserError, match=words) as refusal:
        choose_shot(Path("v.mp4"), found, 0, False)
    assert refusal.value.remedy and "\n" not in str(refusal.value) and "v.mp4" in str(refusal.value)


def test_a_second_face_may_be_allowed_and_a_small_one_is_only_told() -> None:
    found = tracked()
    found.faces[:], found.second[:] = 2, 0.8
    assert "A second face in 200" in choose_shot(Path("v.mp4"), found, 0, True).notes[0]
    found.second[:] = 0.05
    assert "A second face in 200" in choose_shot(Path("v.mp4"), found, 0, False).notes[0]


def test_pieces_of_a_track_come_back_or_are_made_again(tmp_path: Path) -> None:
    piece, path = tracked(30), tmp_path / "piece.npz"
    write_piece(path, piece)
    again = read_piece(path, 30)
    assert again is not None and np.array_equal(again.landmarks, piece.landmarks) and np.array_equal(again.change, piece.change)
    assert read_piece(path, 29) is None
    path.write_bytes(path.read_bytes()[:1000])
    assert read_piece(path, 30) is None and read_piece(tmp_path / "none.npz", 30) is None


def info_of(width: int, height: int) -> VideoInfo:
    return VideoInfo(width, height, 0, 200, 25.0, False, 0.0, 8.0, True)


def test_the_window_holds_the_head_and_is_never_enlarged() -> None:
    found = tracked(size=200)
    found.landmarks[..., 0] += 700
    window = choose_window(found, info_of(1920, 1080), PrepareSettings(size=256))
    assert window.width == window.height and (window.out_width, window.out_height) == (256, 256)
    moved = window.points(found.landmarks)
    assert moved[..., :2].min() > 0.15 * 256 and moved[..., :2].max() < 0.85 * 256
    assert choose_window(tracked(), info_of(400, 400), PrepareSettings(whole=True)).scale == 1
    with pytest.raises(UserError, match="px high"):
        choose_window(tracked(size=30), info_of(400, 400), PrepareSettings())


# Sound


def speech(path: Path, seconds: float = 12.0) -> np.ndarray:
    """Vowel-like noise with a syllable rhythm; returns the [F] opening of a jaw that is ahead by what jaws are ahead."""
    random = np.random.default_rng(5)
    times = np.arange(int(seconds * 16000)) / 16000

    def syllables(t: np.ndarray) -> np.ndarray:
        beats = np.cumsum(random_steps)
        return np.exp(-0.5 * ((t[:, None] - beats) / 0.06) ** 2) @ heights

    random_steps, heights = random.uniform(0.15, 0.45, int(seconds * 3)), random.uniform(0.3, 1, int(seconds * 3))
    tone = sum(np.sin(2 * np.pi * f * times + k) for k, f in enumerate((550, 700, 850, 1000)))
    samples = (np.clip(syllables(times) * tone * 0.15, -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
        file.writeframes(samples.tobytes())
    return syllables(np.arange(int(seconds * FPS)) / FPS + LEAD)


def test_the_sounds_offset_is_found(tmp_path: Path) -> None:
    opening = speech(tmp_path / "s.wav")
    found, agreement = sound_offset(opening, tmp_path / "s.wav")
    assert found is not None and abs(found) <= 0.03 and agreement > 0.7
    late, _ = sound_offset(np.roll(opening, 5), tmp_path / "s.wav")  # the mouth 200 ms later
    assert late is not None and late == pytest.approx(0.2, abs=0.03)


def test_another_voice_has_no_offset(tmp_path: Path) -> None:
    speech(tmp_path / "s.wav", 30.0)
    found, agreement = sound_offset(np.random.default_rng(1).standard_normal(750).cumsum() / 10, tmp_path / "s.wav")
    assert found is None and agreement < 0.3


# Masks


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(picture, alpha, landmarks): a person in plain colours before a green wall, mouth open."""
    moves = np.zeros((1, 468, 3))
    moves[0, [14, 87, 317], 1] = -0.016
    landmarks = film(1, noise=0, turning=0, moves=moves, focal=900).landmarks[0].astype(np.float64)
    inner, outer = landmarks[[61, 291], :2], landmarks[[0, 17], :2]
    ring = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    middle = (inner.mean(0) + outer.mean(0)) / 2
    for numbers, radius in ((LIPS_INNER, (20, 9)), (LIPS_OUTER, (26, 15))):
        landmarks[numbers, :2] = middle - np.column_stack([np.cos(ring), np.sin(ring)]) * radius
    landmarks[[82, 13, 312], 1], landmarks[[87, 14, 317], 1] = middle[1] - 9, middle[1] + 9
    high = wide = 400
    y, x = np.mgrid[:high, :wide] + 0.5
    chin, top = landmarks[152, 1], landmarks[10, 1]
    left, right = landmarks[234, 0], landmarks[454, 0]
    centre = (left + right) / 2
    oval = polygon(landmarks[OVAL], (high, wide))
    hair = ((x - centre) / (0.62 * (right - left))) ** 2 + ((y - top - 30) / (0.5 * (chin - top))) ** 2 < 1
    neck = (abs(x - centre) < 0.28 * (right - left)) & (y > chin - 60)
    shirt = y > chin + 38 + 0.004 * (x - centre) ** 2
    random = np.random.default_rng(2)
    picture = np.empty((high, wide, 3))
    picture[:] = 40, 150, 60
    for area, colour in ((neck, (185, 130, 105)), (shirt, (50, 70, 160)), (hair & (y < landmarks[58, 1]), (50, 35, 25)), (oval, (215, 165, 140))):
        picture[area] = colour
    alpha = (neck | shirt | (hair & (y < landmarks[58, 1])) | oval).astype(np.float32)
    picture[polygon(landmarks[LIPS_INNER], (high, wide))] = 60, 20, 20
    return (picture + random.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8), alpha, landmarks[:, :2]


def test_a_drawn_person_is_parsed() -> None:
    picture, alpha, landmarks = drawn()
    colours = learn_colours([(picture, alpha, landmarks)])
    parsing = parse(picture, alpha, landmarks, colours)
    x, y = (int(v) for v in landmarks[152])
    top = int(landmarks[10, 1])
    for part, (px, py) in {
        FACE: (x + 25, y - 40), HAIR: (x, top - 30), MOUTH: (x, int(landmarks[[13, 14], 1].mean())), NECK: (x, y + 14), TORSO: (x - 50, y + 60), BACKGROUND: (15, 15),
    }.items():  # fmt: skip
        assert parsing[py, px] == part, (part, parsing[py, px])
    assert ((parsing == BACKGROUND) == (alpha <= 0.5)).all()
    closed = landmarks.copy()
    closed[[87, 14, 317]] = closed[[82, 13, 312]]
    assert not (parse(picture, alpha, closed, colours) == MOUTH).any()


def test_the_torso_goes_on_behind_the_chin_and_holds_no_head() -> None:
    picture, alpha, landmarks = drawn()
    parsing = parse(picture, alpha, landmarks, learn_colours([(picture, alpha, landmarks)]))
    torso = torso_picture(picture, alpha, parsing, landmarks)
    x, y = (int(v) for v in landmarks[152])
    assert torso[y - 15, x, 3] == 255, "the neck goes on under the chin"
    assert np.abs(torso[y - 15, x, :3].astype(int) - (185, 130, 105)).max() < 30, "in the neck's colour"
    assert not torso[int(landmarks[4, 1]), x, 3] and not torso[int(landmarks[10, 1]) - 30, x, 3]
    assert torso[395, x, 3] == 255 and np.array_equal(torso[395, x, :3], picture[395, x])


def test_the_background_is_what_was_behind() -> None:
    random = np.random.default_rng(0)
    wall = np.linspace(0, 200, 64, dtype=np.float32)[None, :, None] + np.zeros((48, 64, 3), np.float32)
    samples = []
    for k in range(12):
        alpha = np.zeros((48, 64), np.float32)
        alpha[10:, 8 + 3 * k : 18 + 3 * k] = 1
        picture = np.where(alpha[..., None] > 0, 255, wall + random.normal(0, 3, wall.shape)).clip(0, 255).astype(np.uint8)
        samples.append((picture, alpha))
    found, known = background_picture(samples)
    assert known.all() and np.abs(found - wall).mean() < 3
    still = [(picture, samples[0][1]) for picture, _ in samples[:1]] * 5
    found, known = background_picture(still)
    assert not known[30, 12] and found[30, 12].max() < 120, "behind the person it comes from the sides"


def test_edges_follow_the_picture_and_the_face_stays_in() -> None:
    picture, alpha, landmarks = drawn()
    rough = np.roll(alpha, 3, 1)  # off by three pixels
    mean_off = np.abs(refine(rough, picture, landmarks) - alpha).mean()
    assert mean_off < 0.8 * np.abs(rough - alpha).mean()
    assert refine(np.zeros_like(alpha), picture, landmarks)[polygon(landmarks[OVAL], alpha.shape)].min() == 1
    assert np.array_equal(over(picture, np.ones_like(alpha), picture * 0), picture)
