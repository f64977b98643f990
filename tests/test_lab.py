"""`make lab` serves the course: over HTTP with its token only, and a notebook runs through the server's own kernel.

What a learner opens and saves there touches no other file, whatever the time stamps say.
COURSE_LAB_CELLS sets how many code cells of notebook 02 are run (all: a large number); the rest is nbval's work.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest

from tools import notebooks

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "02_noise_predictor.ipynb"
CELLS = int(os.environ.get("COURSE_LAB_CELLS", 6))


@contextlib.contextmanager
def lab(course):
    """Start `make lab` in a folder, with this very Python, no browser and no settings of whoever runs the tests.

    Yields (address, token), then stops it.
    """
    settings = tempfile.TemporaryDirectory(prefix="jupyter-")
    command = ["make", "-s", "-o", ".venv/.ready", "lab", f"PY={sys.executable}"]
    process = subprocess.Popen(
        [*command, "LAB_ARGS=--no-browser --ServerApp.port_retries=50"],
        cwd=course,
        env=os.environ | {"JUPYTER_CONFIG_DIR": settings.name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        found = None
        for line in process.stdout:
            if found := re.search(r"(http://(?:localhost|127\.0\.0\.1):\d+)/lab\S*\?token=(\w+)", line):
                break
        assert found, "the server said no address"
        threading.Thread(target=process.stdout.read, daemon=True).start()  # or a full pipe stops the server
        yield found.groups()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        settings.cleanup()


def git(course, *arguments):
    """What a git command says in the repository of a copy, whatever repository or hook the tests run in."""
    if not shutil.which("git"):
        pytest.skip("there is no git here")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = ("-c", "user.name=A learner", "-c", "user.email=learner@example.com", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(course), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def learners_copy(folder):
    """The course as a learner clones it, without its data, in a repository of its own; every notebook is newer than its
    text twin, as git may leave it."""
    for name in ("course_utils", "tools", "tests", "book"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.ttf"))
    for name in ("Makefile", "pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for path in notebooks.export_kept(folder).rglob("*.ipynb"):
        os.utime(path, (time.time() + 3600,) * 2)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "The course")
    return folder


@pytest.fixture(scope="module")
def server():
    """The lab of this very course."""
    with lab(ROOT) as address_and_token:
        yield address_and_token


def ask(server, path, token=True, body=None, method=None):
    """Return (status, decoded JSON or text) of a request to the server."""
    address, secret = server
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, method=method)
    if token:
        request.add_header("Authorization", f"token {secret}")
    for _ in range(60):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read().decode()
                return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] else text
        except urllib.error.HTTPError as error:
            return error.code, None
        except urllib.error.URLError:
            time.sleep(0.5)
    raise AssertionError("the server does not answer")


def test_served_with_its_token_only(server):
    assert ask(server, "/api/status")[0] == 200
    assert ask(server, "/api/contents/notebooks", token=False)[0] == 403
    status, folder = ask(server, "/api/contents/notebooks")
    assert status == 200
    assert {"00_start_here.ipynb", "01_forward_noising.ipynb", NOTEBOOK.name} <= {f["name"] for f in folder["content"]}
    status, page = ask(server, "/lab/tree/notebooks/00_start_here.ipynb")
    assert status == 200 and "JupyterLab" in page


def run_cell(socket, code):
    """Execute code in the kernel behind the socket; return its reply's content."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "",
        "session": "lab",
        "version": "5.3",
        "date": "",
    }
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    socket.send(json.dumps(message))
    while True:
        reply = json.loads(socket.recv())
        if reply["msg_type"] == "execute_reply" and reply["parent_header"].get("msg_id") == header["msg_id"]:
            return reply["content"]


def test_notebook_02_runs_through_the_servers_kernel(server):
    from websocket import create_connection

    body = {
        "path": f"notebooks/{NOTEBOOK.name}",
        "name": NOTEBOOK.name,
        "type": "notebook",
        "kernel": {"name": "python3"},
    }
    status, session = ask(server, "/api/sessions", body=body)
    assert status == 201
    address, token = server
    url = f"{address.replace('http', 'ws')}/api/kernels/{session['kernel']['id']}/channels?token={token}"
    socket = create_connection(url, timeout=600)
    cells = [c.source for c in notebooks.read_text(NOTEBOOK.stem).cells if c.cell_type == "code"]
    for code in cells[:CELLS]:
        reply = run_cell(socket, code)
        assert reply["status"] == "ok", f"{code[:200]}\n{reply.get('ename')}: {reply.get('evalue')}"
    socket.close()


def test_notebooks_newer_than_their_text_open_and_a_save_touches_one_file(tmp_path):
    course = learners_copy(tmp_path)
    path = "/api/contents/notebooks/00_start_here.ipynb"
    with lab(course) as server:
        for name in notebooks.kept_names():
            assert ask(server, f"/api/contents/notebooks/{name}.ipynb")[0] == 200
        # nobody takes the text twin for a notebook: Jupytext is not at work here
        assert ask(server, "/api/contents/notebooks/text/00_start_here.py")[1]["type"] == "file"
        notebook = ask(server, path)[1]["content"]
        notebook["cells"][-1]["source"] += "\n\nMy own note."
        assert ask(server, path, body={"type": "notebook", "content": notebook}, method="PUT")[0] == 200
        assert "My own note." in ask(server, path)[1]["content"]["cells"][-1]["source"]
    assert git(course, "status", "--porcelain").split() == ["M", "notebooks/00_start_here.ipynb"]


def test_a_jupyter_with_jupytext_leaves_the_text_alone_too(tmp_path):
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

    course = learners_copy(tmp_path)
    contents = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(course))
    notebook = contents.get("notebooks/00_start_here.ipynb")
    notebook["content"]["cells"][-1]["source"] += "\n\nMy own note."
    contents.save({"type": "notebook", "content": notebook["content"]}, "notebooks/00_start_here.ipynb")
    assert git(course, "status", "--porcelain").split() == ["M", "notebooks/00_start_here.ipynb"]
