"""A few faults of the campaign (tests/faults, docs/faults.md), so that its script keeps running."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from support import STAGE

from ua3dtalk.engine.cache import CachedFrame

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the campaign looks at processes in /proc")
FEW = 25


def nearly(frame: CachedFrame) -> str:
    """A process that has just compiled the kernels may differ in the last bit from one that loads them; the campaign loads them everywhere."""
    arrays = (frame.means, frame.quats, frame.scales, frame.uncertainty, frame.shares)
    return hashlib.sha256(b"".join((np.round(array, 3) + 0.0).tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A worker at work on short shots."""
    from faults import disk, ground, worker
    from faults.case import MARK

    with pytest.MonkeyPatch.context() as patched:
        for module in (ground, worker, disk):
            patched.setattr(module, "FRAMES", FEW)
        for module in (ground, disk):
            patched.setattr(module, "digest", nearly)
        folder = tmp_path_factory.mktemp("faults")
        patched.setenv("UA3DTALK_CACHE", str(folder / "tracks"))
        patched.setenv(MARK, mark := folder.name)
        made = worker.Desk(ground.Ground(folder, mark, Path(sys.executable), STAGE / "ua3dtalk"))
        yield made
        made.stop()


@pytest.mark.parametrize("name", ["data-lost", "folder-deleted", "lock-left-behind", "kill-worker-baking", "hung-worker-that-goes-on"])
def test_a_fault_does_no_harm(desk: object, name: str) -> None:
    from faults.case import CHECKS, Case
    from faults.plan import FAULTS

    case = Case(name, 0, Random(f"{name}/smoke"))
    FAULTS[name][2](case, desk)
    assert case.findings == []
    assert {"answers", "right", "orphans", "handles"} <= case.checked <= set(CHECKS)


def test_what_is_wrong_is_found(desk: object) -> None:
    """The checks can fail: a frame that is another's, one that is gone, a line that is none."""
    from faults.case import Case

    case, ground = Case("none", 0, Random(0)), desk.ground
    keys = list(ground.truth)
    real = ground.truth[keys[0]]
    ground.truth[keys[0]] = ground.truth[keys[1]]
    ground.look(case, ground.baked["new"], {FEW + 3})
    ground.truth[keys[0]] = real
    case.line("Traceback (most recent call last)\nKeyError: 3")
    ground.whole(case, ground.baked["older"], ground.new)
    assert {finding.split(":")[0] for finding in case.findings} == {"right", "kept", "told", "answers"}
