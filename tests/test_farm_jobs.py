"""The job files for other farms: the Open Job Description template under openjd-cli, the Flamenco job type in a JavaScript engine.

No Flamenco manager runs here. What a job type is given is made again from Flamenco's documentation of job types: `author.Task(name, type)`,
`author.Command(name, parameters)`, `task.addCommand`, `job.addTask`, `job.settings`; the worker's command `exec` with `exe` and `args`;
variables in braces that the manager replaces.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import STAGE
from support.farm import make_show, write_shot

from ua3dtalk.engine.shot.document import read_document
from ua3dtalk.engine.shot.plan import check_bake

EXTENSION = STAGE / "ua3dtalk"
JOBS = EXTENSION / "engine" / "farm" / "jobs"
TEMPLATE, JOB_TYPE = JOBS / "ua3dtalk_bake.openjd.yaml", JOBS / "ua3dtalk_bake.js"

FLAMENCO = """
const author = {
    Task(name, type) {
        if (!name.trim() || !type.trim()) throw new Error("author.Task(name, type): both are required");
        const task = { name: name.trim(), type: type.trim(), commands: [], dependencies: [] };
        task.addCommand = (command) => { task.commands.push(command); };
        task.addDependency = (other) => { task.dependencies.push(other.name); };
        return task;
    },
    Command(name, parameters) { return { name: name, parameters: parameters }; },
};
function compiled(settings) {
    const tasks = [];
    compileJob({ settings: JSON.parse(settings), addTask(task) { tasks.push(task); } });
    return JSON.stringify(tasks);
}
"""


@pytest.fixture
def show(tmp_path: Path) -> Path:
    return make_show(tmp_path)


def is_baked(shot: Path) -> bool:
    document, settings = read_document(shot)
    assert settings.output is not None
    return check_bake(settings.output, document)["ok"]


def openjd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("openjd.cli") is None:
        pytest.skip("openjd-cli is absent")
    return subprocess.run([sys.executable, "-m", "openjd", *map(str, arguments)], capture_output=True, text=True)


def test_the_open_job_description_template_bakes(show: Path) -> None:
    checked = openjd("check", TEMPLATE)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    shot = write_shot(show, "shot", 3)
    given = [f"Root={show}", f"Engine={EXTENSION}", f"Python={sys.executable}", "Device=cpu"]
    options = [part for text in given for part in ("-p", text)]
    baked = openjd("run", TEMPLATE, "-p", f"Shot={shot}", *options)
    assert baked.returncode == 0, baked.stdout + baked.stderr
    assert '"event": "result"' in baked.stdout and is_baked(shot)
    failed = openjd("run", TEMPLATE, "-p", f"Shot={write_shot(show, 'gone', 3, 'gone.safetensors', '0' * 64)}", *options)
    assert failed.returncode != 0 and "There is no avatar file" in failed.stdout + failed.stderr


def test_a_template_with_a_fault_is_seen(tmp_path: Path) -> None:
    """The check above can fail."""
    (tmp_path / "bad.yaml").write_text(TEMPLATE.read_text(encoding="utf-8").replace("Param.Root}}", "Param.Rot}}"), encoding="utf-8")
    assert openjd("check", tmp_path / "bad.yaml").returncode != 0


class JobType:
    """The job type in a JavaScript engine."""

    def __init__(self) -> None:
        quickjs = pytest.importorskip("quickjs")
        self.context = quickjs.Context()
        self.context.eval(FLAMENCO)
        self.context.eval(JOB_TYPE.read_text(encoding="utf-8"))
        self.settings: list[dict[str, Any]] = json.loads(self.context.eval("JSON.stringify(JOB_TYPE.settings)"))

    def tasks(self, **settings: Any) -> list[dict[str, Any]]:
        """What the job type makes of settings; those that are left out have their defaults."""
        known = {setting["key"]: setting.get("default", "") for setting in self.settings}
        assert set(settings) <= set(known)
        return json.loads(self.context.get("compiled")(json.dumps(known | settings)))


def test_the_flamenco_job_type_bakes(show: Path) -> None:
    job, shots = JobType(), [write_shot(show, name, 3) for name in ("a", "b")]
    tasks = job.tasks(folder=f"{show}{os.sep}", shots="a.json; b.json;a.json", device="cpu")
    assert [(task["name"], task["type"], task["dependencies"]) for task in tasks] == [("bake-a.json", "blender", []), ("bake-b.json", "blender", [])]
    variables = {"{ua3dtalk}": str(EXTENSION), "{ua3dtalk_python}": sys.executable}
    for task, shot in zip(tasks, shots):
        (command,) = task["commands"]
        assert command["name"] == "exec" and set(command["parameters"]) == {"exe", "args"}
        line = [variables.get(part, part) for part in (command["parameters"]["exe"], *command["parameters"]["args"])]
        assert not any("{" in part for part in line)
        assert Path(line[line.index("--shot") + 1]) == shot
    done = subprocess.run(line, cwd=show, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_baked(shots[1]) and json.loads(done.stdout.splitlines()[-1])["event"] == "result"


def test_settings_of_the_flamenco_job_type() -> None:
    job = JobType()
    (task,) = job.tasks(folder="/show", shots="part/a.json", device="cuda", resume=True, root="/")
    args = task["commands"][0]["parameters"]["args"]
    assert args[args.index("--shot") + 1] == "/show/part/a.json" and args[-3:] == ["--root", "/", "--resume"]
    for shots, why in ((" ; ", "No shot files"), ("../a.json", "does not lie in"), ("/etc/a.json", "does not lie in"), ("C:\\a.json", "does not lie in")):
        with pytest.raises(Exception, match=why):
            job.tasks(folder="/show", shots=shots)
    kinds = {"string", "int32", "float", "bool"}
    for setting in job.settings:
        assert setting["type"] in kinds and setting["visible"] in {"visible", "hidden", "submission", "web"} and setting["description"]
        if "eval" in setting:
            compile(setting["eval"], setting["key"], "eval")
