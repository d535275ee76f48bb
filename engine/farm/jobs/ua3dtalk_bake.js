// Flamenco 3 job type: bakes shot files, one task for each, as `python -m engine bake --shot` does.
//
// Put this file into the folder `scripts` beside the program flamenco-manager, and give the manager two variables (flamenco-manager.yaml):
//
//     variables:
//       ua3dtalk:          # the extension's folder on the workers, which holds the folder `engine`
//         values: [{platform: linux, value: /farm/ua3dtalk}, {platform: windows, value: 'C:\ua3dtalk'}]
//       ua3dtalk_python:   # a Python on the workers with the packages of engine/requirements.txt
//         values: [{platform: linux, value: /farm/ua3dtalk-env/bin/python}, {platform: windows, value: 'C:\ua3dtalk-env\Scripts\python.exe'}]

const JOB_TYPE = {
    label: "UA-3DTalk Bake",
    settings: [
        { key: "folder", type: "string", subtype: "dir_path", required: true, visible: "submission",
          eval: "bpy.path.abspath('//')", evalInfo: { showLinkButton: true, description: "Folder of the Blend file" },
          description: "Folder of the shot files, the same on all machines or in a two-way variable" },
        { key: "shots", type: "string", required: true, visible: "submission",
          eval: "'; '.join(sorted(file.name for file in Path(bpy.path.abspath('//')).glob('*.json')))",
          evalInfo: { showLinkButton: true, description: "All .json files beside the Blend file" },
          description: "Shot files in that folder, separated by ';'" },
        { key: "root", type: "string", subtype: "dir_path", required: false, visible: "submission",
          description: "Folder that the shots may write in, and read files from whose hash they do not name; empty: that of each shot file" },
        { key: "device", type: "string", required: true, default: "auto", choices: ["auto", "cpu", "cuda"], visible: "submission",
          description: "Where the networks run" },
        { key: "resume", type: "bool", default: false, visible: "submission",
          description: "Go on in folders that hold the bake of another avatar or sound" },
    ]
};

// Flamenco starts programs in no particular folder, and `python -m engine` wants to find `engine`.
const START = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('engine', run_name='__main__', alter_sys=True)";

function compileJob(job) {
    const settings = job.settings;
    const folder = settings.folder.replace(/[\\/]+$/, "");
    for (const name of shotNames(settings.shots)) {
        const args = ["-c", START, "{ua3dtalk}", "bake", "--shot", `${folder}/${name}`, "--device", settings.device, "--json"];
        if (settings.root) {
            args.push("--root", settings.root);
        }
        if (settings.resume) {
            args.push("--resume");
        }
        const task = author.Task(`bake-${name}`, "blender");
        task.addCommand(author.Command("exec", { exe: "{ua3dtalk_python}", args: args }));
        job.addTask(task);
    }
}

function shotNames(text) {
    const names = text.split(";").map((name) => name.trim()).filter((name) => name !== "");
    if (names.length === 0) {
        throw "No shot files: name some, separated by ';'";
    }
    for (const name of names) {
        if (/^([\\/]|[A-Za-z]:)/.test(name) || name.split(/[\\/]/).includes("..")) {
            throw `Shot file "${name}" does not lie in the folder`;
        }
    }
    return [...new Set(names)];
}
