"""build.py: what ships, the environments' pins, missing libraries, the sum over all test runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from support import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "build.py"), *arguments], capture_output=True, text=True)


@pytest.fixture
def tree(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project folder in the place of this one."""
    root = tmp_path / "tree"
    for name, text in {
        "LICENSE": "licence",
        "blender_manifest.toml": 'version = "1.2.3"\n',
        "engine/__init__.py": '__version__ = "1.2.3"\n',
        "engine/__pycache__/x.pyc": "",
        "engine/tests/test_x.py": "",
        "addon/__init__.py": "A = 1\n",
        "addon/assets/a.bin": "x",
        "addon/.hidden": "",
        "character/recipe.py": "",
        "tests/test_y.py": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(build, "ROOT", root)
    return root


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


SHIPPED = {"LICENSE", "__init__.py", "blender_manifest.toml", "engine/__init__.py", "addon/__init__.py", "addon/assets/a.bin"}


def test_stage_holds_what_ships(build: ModuleType, tree: Path, tmp_path: Path) -> None:
    assert files_of(build.stage(tmp_path / "stage")) == SHIPPED


def test_stage_follows_the_tree(build: ModuleType, tree: Path, tmp_path: Path) -> None:
    stage = build.stage(tmp_path / "stage")
    kept = (stage / "addon/assets/a.bin").stat()
    (tree / "addon/__init__.py").write_text("A = 22\n")
    (tree / "engine/new.py").write_text("")
    (tree / "LICENSE").unlink()
    (stage / "engine/stale.py").write_text("")
    (stage / "engine/__pycache__").mkdir()
    (stage / "engine/__pycache__/new.pyc").write_text("")
    (tree / "addon/assets/b").mkdir()
    (tree / "LICENSE").write_text("other")
    build.stage(stage)
    assert files_of(stage) - {"engine/__pycache__/new.pyc"} == SHIPPED | {"engine/new.py"}
    assert (stage / "addon/__init__.py").read_text() == "A = 22\n"
    assert (stage / "LICENSE").read_text() == "other"
    assert (stage / "addon/assets/a.bin").stat().st_ino == kept.st_ino, "an unchanged file is left alone"


def test_versions_must_agree(build: ModuleType, tree: Path) -> None:
    assert build.version() == "1.2.3"
    (tree / "blender_manifest.toml").write_text('version = "1.2.4"\n')
    with pytest.raises(build.BuildError, match="the same version"):
        build.version()


def test_zip_depends_on_the_content_alone(build: ModuleType, tmp_path: Path) -> None:
    def make(name: str, order: list[str], date: int) -> bytes:
        with zipfile.ZipFile(tmp_path / f"{name}-raw.zip", "w") as out:
            for entry in order:
                out.writestr(zipfile.ZipInfo(entry, (date, 1, 1, 0, 0, 0)), entry * 100)
        build.normalise_zip(tmp_path / f"{name}-raw.zip", tmp_path / f"{name}.zip")
        return (tmp_path / f"{name}.zip").read_bytes()

    assert make("a", ["x", "y/z"], 1990) == make("b", ["y/z", "x"], 2024)
    assert make("a", ["x", "y/z"], 1990) != make("c", ["x", "y/w"], 1990)


def needs_blender(build: ModuleType) -> None:
    if not any(e.python.exists() for e in build.BLENDERS):
        pytest.skip("no Blender environment is here; `python3 build.py test` makes one")


def test_package(build: ModuleType, tmp_path: Path) -> None:
    """Blender's builder, validator and repository generator run on the real tree; twice gives the same bytes."""
    needs_blender(build)
    first = build.package(tmp_path / "a")
    second = build.package(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in first.parent.iterdir()) == ["index.json", first.name]
    with zipfile.ZipFile(first) as held:
        names = held.namelist()
        assert {n.split("/")[0] for n in names} == {"LICENSE", "__init__.py", "blender_manifest.toml", "addon", "engine"}
        assert not [n for n in names if "__pycache__" in n or n.endswith(".pyc") or "/tests/" in n]
        assert held.read("engine/requirements.txt") == (ROOT / "engine/requirements.txt").read_bytes()
    listed = json.loads((first.parent / "index.json").read_text())["data"]
    assert [(e["id"], e["version"], e["archive_url"]) for e in listed] == [("ua3dtalk", build.version(), f"./{first.name}")]
    assert listed[0]["archive_hash"] == "sha256:" + hashlib.sha256(first.read_bytes()).hexdigest()


def test_a_broken_manifest_builds_nothing(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed build leaves the last good zip as it was."""
    needs_blender(build)
    good = build.package(tmp_path / "dist").read_bytes()
    stage = build.stage(tmp_path / "stage")
    manifest = stage / "blender_manifest.toml"
    manifest.write_text(manifest.read_text().replace('type = "add-on"', 'type = "nothing"'))
    monkeypatch.setattr(build, "stage", lambda: stage)
    with pytest.raises(build.BuildError, match="extension builder failed"):
        build.package(tmp_path / "dist")
    assert (tmp_path / "dist" / f"ua3dtalk-{build.version()}.zip").read_bytes() == good
    assert len(list((tmp_path / "dist").iterdir())) == 2


def test_pins_are_met_by_what_pip_lists(build: ModuleType) -> None:
    frozen = "numpy==2.4.6\ntorch==2.13.0+cpu\nTyping_Extensions==4.1\n"
    assert build.satisfied(["torch==2.13.0", "numpy==2.4.6", "typing-extensions==4.1"], frozen)
    assert not build.satisfied(["torch==2.13.1"], frozen)
    assert not build.satisfied(["numpy==2.4"], frozen)
    assert not build.satisfied(["scipy==1.17.1"], frozen)


def test_pins_of_another_system_are_left_out(build: ModuleType, tmp_path: Path) -> None:
    names = {"here": build.platform.system(), "elsewhere": "Plan9"}
    lines = [f'{name}==1.0 ; platform_system == "{system}"  # a remark' for name, system in names.items()]
    (tmp_path / "requirements.txt").write_text("\n".join(["# a remark", "everywhere==2.0", "", *lines]))
    assert build.pins_of(str(tmp_path / "requirements.txt")) == ("everywhere==2.0", "here==1.0")


def make_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with one module and nothing else."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_environment_is_made_used_again_and_renewed(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real environment and a real pip, with packages from a local folder."""
    for number in ("1.0", "2.0"):
        make_wheel(tmp_path, "smallthing", number)
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(build, "VENV", tmp_path)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    here = (sys.version_info[:2],)

    def installed(environment: object) -> str:
        code = "import smallthing; print(smallthing.VERSION)"
        return subprocess.run([str(environment.python), "-c", code], capture_output=True, text=True).stdout.strip()

    first = build.ensure(build.Environment("e", here, ("smallthing==1.0",)))
    assert installed(first) == "1.0" and json.loads(first.stamp.read_text())["pins"] == ["smallthing==1.0"]

    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    build.ensure(first)  # the stamp says that all is there
    first.stamp.unlink()
    build.ensure(first)  # pip's list says so
    assert first.stamp.exists()
    changed = build.Environment("e", here, ("smallthing==2.0",))
    with pytest.raises(build.BuildError, match="installing into e failed"):
        build.ensure(changed)

    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    build.ensure(changed)
    assert installed(changed) == "2.0"
    changed.stamp.unlink()
    shutil.rmtree(next(changed.folder.glob("[Ll]ib/**/site-packages")))
    assert installed(build.ensure(changed)) == "2.0", "what an interrupted installation left is made anew"
    with pytest.raises(build.BuildError, match=r"needs Python 2\.9"):
        build.ensure(build.Environment("other", ((2, 9),), ()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shared libraries of Linux")
def test_missing_library_is_named_with_its_package(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    line = build.missing_library_line("ImportError: libXi.so.6: cannot open shared object file: No such file or directory")
    assert "libXi.so.6" in line and line.endswith("apt-get install libxi6")
    real = subprocess.run(
        [sys.executable, "-c", "import ctypes; ctypes.CDLL('libnot-there.so.3')"], capture_output=True, text=True
    )
    assert "libnot-there.so.3" in build.missing_library_line(real.stderr)
    assert build.missing_library_line("ImportError: something else") is None
    monkeypatch.setitem(build.SYSTEM_LIBRARIES, "libnot-there.so.3", "libnot-there3")
    assert build.missing_system_packages()["libnot-there.so.3"] == "libnot-there3"
    with pytest.raises(build.BuildError, match=r"apt-get install .*libnot-there3"):
        build.check_system_libraries()


def test_paths_go_to_the_right_python(build: ModuleType) -> None:
    everything = (["-q"], ["tests"], ["tests/blender"])
    assert build.split_arguments(["-q"]) == everything
    assert build.split_arguments(["-k", "stage", "tests/test_build.py::test_x"]) == (["-k", "stage"], ["tests/test_build.py::test_x"], [])
    assert build.split_arguments(["tests/blender/conftest.py"]) == ([], [], ["tests/blender/conftest.py"])


def test_counts_add_up(build: ModuleType, tmp_path: Path) -> None:
    """A real report of one passed, failed, erring and skipped test each; a crashed run leaves none and counts as failed."""
    module = tmp_path / "test_four.py"
    module.write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken():\n    raise OSError\n"
        "def test_a(): pass\n"
        "def test_b(): assert 0\n"
        "def test_c(broken): pass\n"
        "@pytest.mark.skip\n"
        "def test_d(): pass\n"
    )
    report = tmp_path / "report.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--rootdir={tmp_path}", str(module)],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
    )
    assert build.counts(report) == (1, 2, 1)
    assert build.counts(tmp_path / "absent.xml") == (0, 1, 0)
    report.write_text("<testsuites><testsuite")
    assert build.counts(report) == (0, 1, 0)


def test_a_wrong_command_is_one_clear_line() -> None:
    done = run("bake")
    assert done.returncode == 2 and "invalid choice: 'bake'" in done.stderr and "Traceback" not in done.stderr


def test_help_names_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0 and all(word in done.stdout for word in ("demo", "test", "package"))
