"""Killed at 20 seeded moments, nothing is lost that was saved, and no half file bears its final name.

A kill leaves no chance to clean up. One process imports everything and stays; it forks a child for every moment, kills
it there, and looks at what lies on the disk. So 20 kills take seconds, and the test's own process is never forked.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KILLS = 20
LIMIT = (
    1200  # seconds for a script: far beyond the ten that it takes, so that a hang ends and a busy machine does not fail
)

NURSERY = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)  # threads do not survive a fork
folder, moments = Path(sys.argv[1]), random.Random(20)


def killed(work, longest):
    "Do the work over and over in a child, which is killed at a random moment after its first announcement."
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        announce = os.fdopen(writer, "w", buffering=1)
        try:
            work(lambda word: print(word, file=announce))
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as said:
        words = [said.readline()]
        time.sleep(moments.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        words += said.readlines()
    assert os.WIFSIGNALED(status), "the child ended by itself"
    return [word.strip() for word in words if word.endswith("\\n")]


def files(folder):
    "All that lies there under a final name; what is being written ends in .part or begins with .tmp, locks in .lock."
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".tmp"))
    return [p for p in found if not any(part.endswith((".part", ".lock")) for part in p.relative_to(folder).parts)]
"""


def run_killed(script: str, folder: Path) -> dict:
    """Run a script after the nursery's lines, and return what it prints as JSON."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", NURSERY + script, str(folder), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


TRAINING = """
from course_utils.runs import load_run
from course_utils.training import EMA, train
from tests.test_training import tiny


def work(announce):
    resume = (folder / "tiny.run.safetensors").exists()
    for state in train(tiny(), 60, run_dir=folder, device="cpu", save_every=0.0, resume=resume):
        announce(state.step)  # the step before was saved when this one was taken


lost, steps = [], []
for _ in range(int(sys.argv[2])):
    said = [int(word) for word in killed(work, 0.15)]
    model, path = tiny().model(), folder / "tiny.run.safetensors"
    if path.exists() or steps:  # the first step may be the only one, and not be saved yet
        progress = load_run(path, model, EMA(model), torch.optim.AdamW(model.parameters()))
        steps.append(progress["step"])
    lost.append(said[-1] - (steps[-1] if steps else 0))
names = sorted({path.name for path in files(folder)})
print(json.dumps({"lost": lost, "steps": steps, "names": names}))
"""


def test_a_training_run_loses_one_step_at_most(tmp_path):
    """The run is saved after every step here; as a rule every 30 seconds."""
    found = run_killed(TRAINING, tmp_path)
    assert len(found["lost"]) == KILLS and max(found["lost"]) <= 1, found
    assert found["steps"] == sorted(found["steps"]) and found["steps"][-1] > 1, "each goes on where one was killed"
    assert found["names"] == ["tiny.run.safetensors"]


CHECKPOINT = """
from safetensors.torch import load_file
from course_utils import checkpoints


def work(announce):
    for i in range(10**6):
        checkpoints.save("net", {"w": torch.full((100_000,), float(i % 100))}, {"steps": i}, folder=folder)
        announce(i)


checkpoints.git_commit = lambda: "none"  # asking git takes longer than saving
kept = []
for _ in range(int(sys.argv[2])):
    said = killed(work, 0.05)
    (w,) = load_file(folder / "net.safetensors").values()
    kept.append(len(w.unique()) == 1 and checkpoints.card("net", folder)["steps"] >= int(said[-1]))
print(json.dumps({"kept": kept, "names": sorted(path.name for path in files(folder))}))
"""


def test_a_checkpoint_is_the_old_one_or_the_new(tmp_path):
    found = run_killed(CHECKPOINT, tmp_path)
    assert found == {"kept": [True] * KILLS, "names": ["net.json", "net.safetensors"]}


EXPORT = """
import dataclasses
from safetensors.torch import load_file
from course_utils.interop.folder import export_folder
from tests.test_stable_diffusion import tiny_system

export_folder(tiny_system(), folder / "first")  # imports what it needs
target = folder / "ours"


def filled(value):
    system = tiny_system()
    for module in (system.text_encoder, system.unet, system.vae):
        for weight in module.parameters():
            weight.data.fill_(value)
    return system


def work(announce):
    announce("go")
    for i in range(10**6):
        export_folder(filled(float(i)), target)


def values(path):
    return {float(x) for tensor in load_file(path).values() if tensor.is_floating_point() for x in tensor.unique()}


whole, opening = {path.relative_to(folder / "first") for path in files(folder / "first")}, 0
for _ in range(int(sys.argv[2])):
    killed(work, 0.6)
    found = {}
    for path in files(target):
        found[path.relative_to(target)] = values(path) if path.suffix == ".safetensors" else path.read_bytes()
        assert path.suffix != ".json" or json.loads(found[path.relative_to(target)]), path
    if Path("model_index.json") in found:  # what opens is whole, and of one export
        opening += 1
        assert set(found) == whole, whole - set(found)
        assert len(set.union(*(x for x in found.values() if isinstance(x, set)))) == 1
export_folder(filled(1.0), target)  # whatever a kill left there
print(json.dumps({"opening": opening, "missing": [str(path) for path in whole if not (target / path).is_file()]}))
"""


def test_an_export_that_opens_is_whole_and_of_one_system(tmp_path):
    found = run_killed(EXPORT, tmp_path)
    assert found["opening"] <= KILLS and not found["missing"], found


NOTEBOOK = """
import nbclient, nbformat
from tools import notebooks

notebooks.NOTEBOOKS = folder
cells = [nbformat.v4.new_code_cell("print('x' * 200_000)"), nbformat.v4.new_markdown_cell("# A tiny notebook")]
path = folder / "01_tiny.ipynb"
path.write_text(nbformat.writes(notebooks.tidy(nbformat.v4.new_notebook(cells=cells))))


class Client(nbclient.NotebookClient):
    "Without a kernel, which takes seconds to start: a cell's output is there at once."

    def execute(self):
        text = str(self.nb.metadata.get("course", "")) + "x" * 2_000_000
        self.nb.cells[0].outputs = [nbformat.v4.new_output("stream", text=text)]


def work(announce):
    announce("go")
    while True:
        notebooks.run("01_tiny")
        path.touch()
        notebooks.write(path, path.read_text() + "\\n")  # other content, so that the next run writes again


nbclient.NotebookClient = Client
for _ in range(int(sys.argv[2])):
    killed(work, 0.3)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in cells]
print(json.dumps({"names": sorted(path.name for path in files(folder))}))
"""


def test_a_notebook_stays_one(tmp_path):
    assert run_killed(NOTEBOOK, tmp_path) == {"names": ["01_tiny.ipynb"]}


def test_a_notebook_with_a_kernel_that_is_killed_keeps_its_outputs(tmp_path):
    """The whole command, killed while its kernel computes: what was there before is untouched."""
    script = (
        "import sys, pathlib; from tools import notebooks; notebooks.NOTEBOOKS = pathlib.Path(sys.argv[1]);"
        "sys.exit(notebooks.main(['run', '01']))"
    )
    import nbformat

    path, mark = tmp_path / "01_tiny.ipynb", tmp_path / "started"
    cell = nbformat.v4.new_code_cell(f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(600)")
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[cell])))
    before = path.read_bytes()
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT) as process:
        while not mark.exists():
            assert process.poll() is None, "it ended before its cell began"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        process.kill()
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["01_tiny.ipynb", "started"]
