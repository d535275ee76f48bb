"""The person's own 3D landmarks and the camera's focal length, from the landmarks of a whole video.

No face model is needed: FaceMesh says of each picture what the face looks like in 3D in weak perspective. Those shapes are
laid over each other (generalised Procrustes analysis), and a bundle adjustment over pictures with different poses then finds
the shape, the poses and ONE focal length that explain the points in the pictures best. What a talking head leaves open is
held by what is known of heads and cameras: the shape stays near FaceMesh's, the distance near what people film from. The
focal length is left open most of all: on two portrait videos the error of the points changes by no more than 5 % between
distances of 0.4 and 5 m, so whoever knows the lens should say so.

Head space (see docs/architecture.md): metres, +Y up, the face looks along +Z, +X is the person's left. Camera space: x right,
y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix
from scipy.spatial.transform import Rotation

from .landmarks import EYE_CORNERS, FACE_POINTS, MOUTH_CORNERS

# Where heads differ little, measured on the mean of the ICT face model (MIT) in the demo avatar's head space: metres.
EYE_WIDTH = 0.0892  # between the outer corners of the eyes
EYE_CENTRE = np.array([0.0, 0.0084, 0.069])  # mean of the four corners
LEAN = np.radians(10.6)  # the line from the middle of the mouth's corners up to the eyes' leans back by this

FLIP = np.array([1.0, -1.0, -1.0])
"""Head space to the space of a camera that looks at the face from the front, both ways."""

DISTANCE, DISTANCE_SPREAD = 0.9, 0.3  # metres; standard deviation of its logarithm
SHAPE_SPREAD = np.array([0.0015, 0.0015, 0.006])  # metres: FaceMesh's depth is a guess
MOST_PICTURES = 48
STEADY, RIGID = 0.6, 120  # share of the points that may tell the pose, and how many do
CORRELATED = 12.0  # landmarks of one picture err together: so many say as much as one independent one
ROBUST = 2.5  # standard deviations from which a residual counts less


@dataclass(frozen=True, eq=False)
class HeadShape:
    """A person's landmarks in 3D and the lens they were seen through.

    Attributes:
        points: [468,3] head space, metres, the mean over the video.
        spread: [468] px by which a point moves in the pictures beyond what the head's pose explains.
        focal: px. centre: (cx, cy) px.
        distance: median distance of the camera, metres (at the assumed width of the eyes).
    """

    points: np.ndarray
    spread: np.ndarray
    focal: float
    centre: tuple[float, float]
    distance: float

    @cached_property
    def rigid(self) -> np.ndarray:
        """Numbers of the 120 points that tell the pose: of the steadier ones, those that lie farthest apart."""
        steady = np.flatnonzero(self.spread <= np.quantile(self.spread, STEADY))
        return np.sort(steady[_farthest(self.points[steady], int(np.argmin(self.spread[steady])), RIGID)])


def project(points: np.ndarray, rotation: np.ndarray, translation: np.ndarray, focal: float, centre: tuple[float, float]) -> np.ndarray:
    """Where points of head space are seen.

    Args:
        points: [P,3]. rotation: [F,3] rotation vectors. translation: [F,3] metres; both head to camera, on top of `FLIP`.

    Returns:
        [F,P,2] px.
    """
    turned = np.einsum("fij,pj->fpi", Rotation.from_rotvec(rotation).as_matrix(), points * FLIP) + translation[:, None]
    return turned[..., :2] / np.maximum(turned[..., 2:], 1e-3) * focal + np.asarray(centre)


def fit_shape(landmarks: np.ndarray, centre: tuple[float, float], focal: float | None = None) -> HeadShape:
    """Find shape and focal length.

    Args:
        landmarks: [F,>=468,3] px of all pictures with a face, z away from the camera in the scale of x (FaceMesh's).
        centre: (cx, cy) of the lens, px. focal: px, where it is known.
    """
    seen = np.asarray(landmarks[:, :FACE_POINTS], np.float64)
    mean, rotations, scales = _align(seen)
    spread = _loose(seen, mean, rotations, scales)
    points, turn, unit = _to_head_space(mean)
    # The Procrustes poses, in metres: scale is px a metre.
    rotation = rotations @ turn.T
    scale = scales * unit
    chosen = _spread_out(rotation, scale, MOST_PICTURES)
    observed = seen[chosen, :, :2]
    middle = observed.mean(1) - np.einsum("fij,j->fi", rotation[chosen], points.mean(0) * FLIP)[:, :2] * scale[chosen, None]
    rotvecs = Rotation.from_matrix(rotation[chosen]).as_rotvec()

    count, faces = len(chosen), len(points)
    typical = float(np.median(scale[chosen]))
    # Per point weight; together they say as much as fewer independent points would.
    weight = 1 / (spread * np.sqrt(CORRELATED))
    away = points[:, 2].mean() - points[:, 2]

    # A known lens holds the distance.
    usual, usual_spread = (DISTANCE, DISTANCE_SPREAD) if focal is None else (focal / typical, 1e-4)

    def unpack(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        distance = usual * np.exp(x[0])
        pose = x[1 : 1 + 6 * count].reshape(count, 6)
        # Depth as a share of the distance: it and the focal length then hardly depend on each other.
        depth = distance * typical / scale[chosen] * np.exp(pose[:, 5])
        lens = distance * typical
        place = (middle + pose[:, 3:5] * 10 - centre) / lens * depth[:, None]
        # FaceMesh's x and y are those of the picture: what was far from the camera is larger than it looked.
        grown = points * np.column_stack([1 + away / distance, 1 + away / distance, np.ones(faces)])
        shape = grown + x[1 + 6 * count :].reshape(faces, 3) * SHAPE_SPREAD
        return lens, rotvecs + pose[:, :3], np.column_stack([place, depth]), shape

    def residuals(x: np.ndarray) -> np.ndarray:
        lens, turned, moved, shape = unpack(x)
        error = (project(shape, turned, moved, lens, centre) - observed) * weight[:, None]
        return np.concatenate([_soften(error).ravel(), x[:1] / usual_spread, x[1 + 6 * count :]])

    sparsity = _sparsity(count, faces)
    start = np.zeros(1 + 6 * count + 3 * faces)
    found = least_squares(residuals, start, jac_sparsity=sparsity, tr_solver="lsmr", x_scale="jac", max_nfev=30, ftol=1e-5)
    fitted, _, moved, shape = unpack(found.x)
    # The gauge again, exactly: the shape may have turned or grown a little, which the poses of all pictures then follow.
    shape, _, unit = _to_head_space(shape * FLIP)
    distance = float(np.median(moved[:, 2])) / unit
    return HeadShape(shape, spread, float(fitted), centre, distance)


def _align(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generalised Procrustes analysis with scale: mean shape [P,3] (camera axes, mean eye distance of the video in px), rotations [F,3,3], scales [F]."""
    centred = seen - seen.mean(1, keepdims=True)
    mean = centred[len(centred) // 2]
    size = np.linalg.norm(centred, axis=(1, 2)).mean()
    weights = np.ones(len(mean))
    for _ in range(6):
        mean = mean * (size / np.linalg.norm(mean))
        # scene = scale * R mean, weighted by how little a point moves by itself.
        covariance = np.einsum("fpi,p,pj->fij", centred, weights, mean)
        u, s, vt = np.linalg.svd(covariance)
        sign = np.sign(np.linalg.det(u @ vt))
        s[:, 2] *= sign
        u[:, :, 2] *= sign[:, None]
        rotations = u @ vt
        scales = s.sum(-1) / np.einsum("p,pi,pi->", weights, mean, mean)
        back = np.einsum("fji,fpj->fpi", rotations, centred) / scales[:, None, None]
        mean = back.mean(0)
        off = np.sqrt(((back - mean)[..., :2] ** 2).sum(-1).mean(0))
        weights = 1 / np.maximum(off, np.median(off) / 3) ** 2
        weights /= weights.mean()
        # Moving the middle to the weighted one keeps a talking jaw from pulling the head.
        centred = centred - (weights @ centred.transpose(1, 0, 2).reshape(len(weights), -1)).reshape(-1, 1, 3) / weights.sum()
        mean = mean - weights @ mean / weights.sum()
    return mean, rotations, scales


def _loose(seen: np.ndarray, mean: np.ndarray, rotations: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[P] px by which points are off the rigid head, robustly, in the pictures."""
    rigid = np.einsum("fij,pj->fpi", rotations, mean)[..., :2] * scales[:, None, None]
    off = seen[..., :2] - rigid
    off = off - np.median(off, axis=1, keepdims=True)
    off = off - np.median(off, axis=0)
    size = np.linalg.norm(off, axis=-1)
    found = np.sqrt(np.mean(np.minimum(size, np.quantile(size, 0.98, axis=0)) ** 2, axis=0))
    return np.maximum(found, max(np.median(found) / 3, 1e-3))


def _to_head_space(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Turn, size and shift a shape in camera axes: (points [P,3] in head space, turn [3,3] in camera axes, its units a metre)."""
    eyes, mouth = mean[EYE_CORNERS], mean[MOUTH_CORNERS]
    across = (eyes[2] + eyes[3] - eyes[0] - eyes[1]) / 2
    x = across / np.linalg.norm(across)
    down = mouth.mean(0) - eyes.mean(0)
    down = down - x * (down @ x)
    down /= np.linalg.norm(down)
    forward = np.cross(x, down)  # away from the camera
    # Upright when the line from eyes to mouth comes towards the camera by LEAN on its way down.
    y = np.cos(LEAN) * down + np.sin(LEAN) * forward
    turn = np.stack([x, y, np.cross(x, y)])
    unit = float(np.linalg.norm(eyes[3] - eyes[0])) / EYE_WIDTH
    points = (mean @ turn.T / unit) * FLIP
    return points - points[EYE_CORNERS].mean(0) + EYE_CENTRE, turn, unit


def _spread_out(rotation: np.ndarray, scale: np.ndarray, count: int) -> np.ndarray:
    """Numbers of pictures whose poses are as different as can be (farthest point sampling), in order."""
    vectors = Rotation.from_matrix(rotation).as_rotvec()
    places = np.column_stack([vectors, np.log(scale) * 2])
    # Outliers in pose are mostly failures of the tracker.
    far = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    allowed = np.flatnonzero(far <= np.quantile(far, 0.99))
    return np.sort(allowed[_farthest(places[allowed], int(np.argmin(far[allowed])), count)])


def _farthest(places: np.ndarray, first: int, count: int) -> np.ndarray:
    """Farthest point sampling of [n,k]: numbers of min(count, n) points, beginning with `first`."""
    chosen, gap = [first], np.full(len(places), np.inf)
    while len(chosen) < min(count, len(places)):
        gap = np.minimum(gap, np.linalg.norm(places - places[chosen[-1]], axis=1))
        gap[chosen[-1]] = -1
        chosen.append(int(np.argmax(gap)))
    return np.array(chosen)


def _soften(error: np.ndarray) -> np.ndarray:
    """Residuals [..., 2] whose squares are a soft-L1 of the points' distances."""
    size = np.linalg.norm(error, axis=-1, keepdims=True) / ROBUST
    return error * np.sqrt(2 / (1 + np.sqrt(1 + size**2)))


def _sparsity(count: int, faces: int) -> csr_matrix:
    """Which residual depends on which parameter: [2 * count * faces + 1 + 3 * faces, 1 + 6 * count + 3 * faces]."""
    row = np.arange(2 * count * faces)
    picture, point = row // (2 * faces), row // 2 % faces
    columns = np.column_stack(
        [np.zeros_like(row), *(1 + 6 * picture + k for k in range(6)), *(1 + 6 * count + 3 * point + k for k in range(3))]
    )  # fmt: skip
    rows = np.repeat(row, columns.shape[1])
    below = np.arange(3 * faces)
    rows = np.concatenate([rows, [len(row)], len(row) + 1 + below])
    columns = np.concatenate([columns.ravel(), [0], 1 + 6 * count + below])
    shape = len(row) + 1 + 3 * faces, 1 + 6 * count + 3 * faces
    return csr_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape)
