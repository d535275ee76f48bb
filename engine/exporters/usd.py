"""Frames as one OpenUSD file with time samples: a prim of the schema ParticleField3DGaussianSplat (usd-core 26.3 and later).

Its scales are linear, its opacities 0..1, its quaternions have the real part named; SH is coefficient after coefficient, DC first, for
each Gaussian. Metres, Z up, the face looks along -Y: as in Blender, nothing is turned. The schema has no word for the colour space: it
is 3DGS's own, display-referred sRGB. Time codes are frame numbers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ..avatar import Gaussians
from ..errors import UserError
from ..files import atomic_path
from .frames import Frames

SCHEMA = "ParticleField3DGaussianSplat"
_SAVE_EVERY = 16
"""Frames that are kept in memory until they are written."""
_REACH = 3.0
"""Standard deviations that belong to the extent of a Gaussian."""


def write_usd(source: Frames, path: Path, told: Callable[[int], None]) -> bool:
    """Write all frames of `source` as time samples.

    An older usd-core that does not know the schema writes the same file: a prim of that type name with the schema's attributes.

    Args:
        path: .usd and .usdc are binary, .usda is text.
        told: called with the number of frames done.

    Returns:
        whether this usd-core knows the schema.

    Raises:
        UserError: usd-core is not installed, or the file cannot be written.
    """
    try:
        from pxr import Tf, Usd
    except ImportError as error:
        raise UserError("OpenUSD needs the package usd-core, which is not installed.", "Install engine/requirements-interchange.txt.") from error
    with atomic_path(path) as temporary:
        # The library tells formats by their suffix.
        written = temporary.with_name(f"{temporary.name}{path.suffix.lower()}")
        try:
            _write(source, written, told)
            os.replace(written, temporary)
        except Tf.ErrorException as error:
            # Its own words name places in its sources and not what the system said.
            raise UserError(
                f"Cannot write {path}: OpenUSD could not save it.",
                "Free some space or choose another folder; what was there before is unchanged.",
            ) from error
        finally:
            written.unlink(missing_ok=True)
    return bool(Usd.SchemaRegistry().IsConcrete(SCHEMA))


def _write(source: Frames, path: Path, told: Callable[[int], None]) -> None:
    from pxr import Gf, Sdf, Usd, UsdGeom, Vt

    types = Sdf.ValueTypeNames
    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(source.fps)
    stage.SetFramesPerSecond(source.fps)
    stage.SetStartTimeCode(source.numbers[0])
    stage.SetEndTimeCode(source.numbers[-1])
    name = re.sub(r"\W", "_", source.name, flags=re.ASCII) or "head"
    prim = stage.DefinePrim(f"/{name if not name[0].isdigit() else f'_{name}'}", SCHEMA)
    prim.SetDisplayName(source.name)
    stage.SetDefaultPrim(prim)

    def attribute(name: str, kind: Any, value: Any = None, variability: Any = Sdf.VariabilityVarying) -> Any:
        made = prim.CreateAttribute(name, kind, False, variability)
        if value is not None:
            made.Set(value)
        return made

    uniform = Sdf.VariabilityUniform
    attribute("projectionModeHint", types.Token, "perspective", uniform)
    attribute("sortingModeHint", types.Token, "zDepth", uniform)
    attribute("opacities", types.FloatArray, Vt.FloatArray.FromNumpy(np.ascontiguousarray(source.opacities, np.float32)))
    coefficients = source.sh.shape[1]
    attribute("radiance:sphericalHarmonicsDegree", types.Int, round(coefficients**0.5) - 1, uniform)
    flat = np.ascontiguousarray(source.sh, np.float32).reshape(-1, 3)
    sh = attribute("radiance:sphericalHarmonicsCoefficients", types.Float3Array, Vt.Vec3fArray.FromNumpy(flat))
    UsdGeom.Primvar(sh).SetElementSize(coefficients)
    UsdGeom.Primvar(sh).SetInterpolation(UsdGeom.Tokens.vertex)
    positions, orientations = attribute("positions", types.Point3fArray), attribute("orientations", types.QuatfArray)
    scales, extent = attribute("scales", types.Float3Array), attribute("extent", types.Float3Array)

    before: np.ndarray | None = None
    for done, (number, gaussians) in enumerate(source, 1):
        quats = gaussians.quats / np.linalg.norm(gaussians.quats, axis=1, keepdims=True)
        if before is not None:  # samples are read between, too, and q and -q are one rotation but far apart
            quats *= np.where(np.einsum("nc,nc->n", quats, before) < 0, -1, 1).astype(np.float32)[:, None]
        before = quats
        positions.Set(Vt.Vec3fArray.FromNumpy(gaussians.means), number)
        orientations.Set(Vt.QuatfArray.FromNumpy(np.ascontiguousarray(quats[:, [1, 2, 3, 0]])), number)  # the real part lies last
        scales.Set(Vt.Vec3fArray.FromNumpy(gaussians.scales), number)
        low, high = _extent(gaussians)
        extent.Set(Vt.Vec3fArray([Gf.Vec3f(*low), Gf.Vec3f(*high)]), number)
        if done % _SAVE_EVERY == 0:
            stage.GetRootLayer().Save()
        told(done)
    stage.GetRootLayer().Save()


def _extent(gaussians: Gaussians) -> tuple[list[float], list[float]]:
    reach = _REACH * gaussians.scales.max(1, keepdims=True)
    return (gaussians.means - reach).min(0).tolist(), (gaussians.means + reach).max(0).tolist()
