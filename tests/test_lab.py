"""`make lab` serves the course: over HTTP with its token only, and a notebook runs through the server's own kernel.

COURSE_LAB_CELLS sets how many code cells of notebook 02 are run (all: a large number); the rest is nbval's work.
"""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "02_noise_predictor.ipynb"
CELLS = int(os.environ.get("COURSE_LAB_CELLS", 6))


@pytest.fixture(scope="module")
def server():
    """Start `make lab` without a browser, yield (address, token), stop it."""
    command = ["make", "-s", "lab", "LAB_ARGS=--no-browser --ServerApp.port_retries=50"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        found = None
        for line in process.stdout:
            if found := re.search(r"(http://(?:localhost|127\.0\.0\.1):\d+)/lab\S*\?token=(\w+)", line):
                break
        assert found, "the server said no address"
        yield found.groups()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(server, path, token=True, body=None):
    """Return (status, decoded JSON or text) of a request to the server."""
    address, secret = server
    request = urllib.request.Request(address + path, None if body is None else json.dumps(body).encode())
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
    cells = [c.source for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    for code in cells[:CELLS]:
        reply = run_cell(socket, code)
        assert reply["status"] == "ok", f"{code[:200]}\n{reply.get('ename')}: {reply.get('evalue')}"
    socket.close()
