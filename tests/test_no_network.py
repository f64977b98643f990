"""The network is blocked while the tests run: here, in child processes and in notebook kernels; loopback is open."""

import os
import socket
import subprocess
import sys
import urllib.request

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

BLOCKED = "The network is blocked while the course's tests run"
ATTEMPTS = {
    "name": "import socket; socket.create_connection(('example.com', 443), timeout=5)",
    "address": "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)",
    "address v6": "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "connect_ex": "import socket; socket.socket().connect_ex(('192.0.2.1', 80))",
    "datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "urllib": "import urllib.request; urllib.request.urlopen('https://huggingface.co', timeout=5)",
    "asyncio": "import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
}


@pytest.mark.parametrize("code", ATTEMPTS.values(), ids=ATTEMPTS)
def test_blocked_in_this_process(code):
    with pytest.raises(OSError, match=BLOCKED):
        exec(code, {})


def test_blocked_in_a_child_process():
    for code in (ATTEMPTS["name"], ATTEMPTS["address"]):
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert child.returncode == 1 and BLOCKED in child.stderr


def test_blocked_in_a_notebook_kernel():
    codes = ("print(6 * 7)", ATTEMPTS["name"], ATTEMPTS["address"], ATTEMPTS["urllib"])
    nb = new_notebook(cells=[new_code_cell(code) for code in codes])
    NotebookClient(nb, kernel_name="python3", allow_errors=True, timeout=60).execute()
    nbformat.validate(nb)
    assert nb.cells[0].outputs[0].text == "42\n"
    for cell in nb.cells[1:]:
        assert cell.outputs[0].output_type == "error" and BLOCKED in cell.outputs[0].evalue


def test_the_hub_is_offline():
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download("nobody/nothing", "config.json")


def test_loopback_is_open():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client,
    ):
        assert client.getpeername()[0] == "127.0.0.1"


def test_no_proxy_leads_out():
    assert not urllib.request.getproxies_environment()
