"""`course export`: the folder, its model card, and --push, to a hub on this machine that answers as the real one."""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file

from course_utils import checkpoints, cli
from course_utils.app import model_card
from course_utils.app.export import push
from course_utils.app.generate import EXAMPLES
from course_utils.decoder.vae import VAE
from course_utils.errors import InputError
from course_utils.systems.stable_diffusion import CONDITIONS, make_unet
from course_utils.systems.text_pixel import TextPixel
from tests.test_folder import opened_by_diffusers

TOKEN = "hf_a_token_of_nobody"
SEEN = {"concept": 0.9, "concept_interval": [0.83, 0.94], "style": 0.5}
FIGURES = {"seen, English, 100": SEEN, "training_loss": 0.25}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder of checkpoints with random weights, and cards that say what was measured of the first."""
    folder = tmp_path_factory.mktemp("checkpoints")
    took = {"minutes": 124.01, "hardware": "2-core x86_64 CPU", "steps": 9802, "pictures": 313664, "metrics": FIGURES}
    checkpoints.save("text-pixel", TextPixel(), {}, folder=folder)
    checkpoints.save("vae", VAE(), {"scaling_factor": 0.5}, folder=folder)
    parents = {name: checkpoints.card(name, folder)["sha256"] for name in ("vae", "text-pixel")}
    checkpoints.save("stable-diffusion", make_unet(), {**took, "parents": parents}, folder=folder)
    checkpoints.save("inpaint", CONDITIONS["inpaint"](), {}, folder=folder)
    return folder


@pytest.fixture(scope="module")
def exported(shop, tmp_path_factory):
    """An export of each kind, by the command."""
    folder = tmp_path_factory.mktemp("exports")
    for name in ("stable-diffusion", "inpaint"):
        assert cli.main(["export", name, str(folder / name), "--from", str(shop)]) == 0
    return folder


# ------------------------------------------------------------------ the command
def test_course_export(exported, shop):
    for name, kind in (("stable-diffusion", ""), ("inpaint", "Inpaint")):
        weights = load_file(shop / f"{name}.safetensors")
        opened = opened_by_diffusers(exported / name, kind).unet.state_dict()
        assert opened.keys() == weights.keys()
        assert all(torch.equal(opened[key], weights[key].float()) for key in weights)


def test_course_export_with_bad_input(shop, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for arguments, words in (
        (("dalle9", "x"), ("unknown system to export 'dalle9'", "stable-diffusion")),
        (("inpaint", "mine", "--from", str(shop)), ("holds something else", "new folder")),
        (("stable-diffusion", "x", "--from", "no-such-folder"), ("no checkpoint 'stable-diffusion'", "course train")),
    ):
        where = [str(tmp_path / arguments[1]), *arguments[2:]]
        assert cli.main(["export", arguments[0], *where]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


# ------------------------------------------------------------------ the model card
def card_of(folder):
    """The head of a model card, and its text."""
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_model_card_says_what_the_checkpoints_card_says(exported, shop):
    head, text = card_of(exported / "stable-diffusion")
    assert head["license"] == "mit" and head["library_name"] == "diffusers" and head["language"] == ["en", "zh"]
    assert head["pipeline_tag"] == "text-to-image"
    card = checkpoints.card("stable-diffusion", shop)
    for said in (card["sha256"], card["parents"]["vae"], "124.01 minutes on 2-core x86_64 CPU", "9,802", "313,664"):
        assert said in text
    assert "| seen, English, 100 | 90 % [83, 94] | 50 % |" in text and "training_loss: 0.25" in text
    for licence in (
        "Apache-2.0",
        "CC-BY-4.0",
        "MIT",
        "Unicode-3.0",
        "Mozilla Foundation",
        "The weights are under the MIT",
    ):
        assert licence in text
    assert "](licenses/" not in text and "{" not in text.split("```")[0]
    with Image.open(exported / "stable-diffusion" / "example.png") as example:
        assert example.width / example.height == pytest.approx(len(EXAMPLES), rel=0.05)
    head, text = card_of(exported / "inpaint")
    assert head["pipeline_tag"] == "image-to-image" and "Nothing yet." in text and "example.png" not in text


@pytest.mark.parametrize("name", ["stable-diffusion", "inpaint"])
def test_the_code_of_the_model_card_runs(exported, tmp_path, monkeypatch, name):
    (code,) = re.findall(r"```python\n(.+?)```", card_of(exported / name)[1], re.S)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (200, 100), "orange").save("picture.png")
    Image.new("L", (64, 64), 255).save("mask.png")
    for long, short in (
        ("path/of/this/folder", str(exported / name)),
        ("num_inference_steps=20", "num_inference_steps=2"),
        ('"num_inference_steps": 20', '"num_inference_steps": 2'),
    ):
        code = code.replace(long, short)
    exec(code, {})
    with Image.open("filled.png" if name == "inpaint" else "picture.png") as drawn:
        assert drawn.size == (64, 64)


def test_no_model_card_without_the_licences(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_card, "DATA_DIR", tmp_path)
    assert cli.main(["export", "stable-diffusion", str(tmp_path / "x"), "--from", str(shop)]) == 2
    assert "does not say whose pictures these are" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ a hub on this machine
class Hub(BaseHTTPRequestHandler):
    """What huggingface.co answers to an upload: repositories, large files, commits; kept in memory."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Stay silent."""

    def body(self):
        """The bytes that came with the request, whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, content, status=200):
        """Send JSON."""
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", len(data))):
            self.send_header(name, str(value))
        if status >= 400:
            self.send_header("X-Error-Message", content["error"])
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self):
        """A large file."""
        content, name = self.body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == name
        self.server.large[name] = content
        self.answer({})

    def do_POST(self):
        """A new repository, questions about files, or a commit."""
        asked = self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.create(json.loads(asked))
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(asked)["files"]]
            modes = {name: "lfs" if name.endswith((".safetensors", ".png")) else "regular" for name in names}
            self.answer({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(asked)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.server.address}/large/{item['oid']}"}}
            self.answer({"transfer": "basic", "objects": objects})
        else:
            name = re.fullmatch(r"/api/models/(.+)/commit/main", self.path)[1]
            self.commit(name, [json.loads(line) for line in asked.splitlines()])

    def create(self, asked):
        """Make a repository unless it is there, or is somebody else's."""
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            return self.answer({"error": f"You cannot write to {asked['organization']}"}, 403)
        there = name in self.server.repositories
        empty = {"files": {}, "commits": [], "visibility": asked.get("visibility")}
        self.server.repositories.setdefault(name, empty)
        return self.answer({"url": f"{self.server.address}/{name}", "error": "exists"}, 409 if there else 200)

    def commit(self, name, lines):
        """Keep the files of a commit: small ones come with it, large ones came before."""
        repository = self.server.repositories[name]
        repository["commits"].append(next(line["value"]["summary"] for line in lines if line["key"] == "header"))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository["files"][value["path"]] = self.server.large[value["oid"]]
        self.answer({"commitUrl": f"{self.server.address}/{name}/commit/1", "commitOid": "1" * 40, "success": True})


@pytest.fixture
def hub(monkeypatch):
    """The hub, in the place of huggingface.co, and somebody who is logged in there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories, server.large = {}, {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose own protocol this hub does not speak
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def test_push_uploads_what_the_export_wrote_and_nothing_else(hub, exported, tmp_path):
    folder = shutil.copytree(exported / "stable-diffusion", tmp_path / "ours")
    written = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    (folder / "notes.txt").write_text("mine")
    (folder / "unet" / "thesis.pdf").write_text("mine too")
    assert push(folder, "me/my-emoji", private=True) == f"{hub.address}/me/my-emoji"
    (repository,) = hub.repositories.values()
    assert repository["files"] == {name: path.read_bytes() for name, path in written.items()}
    assert {"README.md", "example.png", "unet/diffusion_pytorch_model.safetensors"} < set(written)
    assert repository["visibility"] == "private" and len(repository["commits"]) == 1
    push(folder, "me/my-emoji")
    assert len(repository["commits"]) == 2, "a repository that is there is taken"


def test_course_export_push(hub, shop, tmp_path, capsys):
    command = ["export", "inpaint", str(tmp_path / "ours"), "--from", str(shop), "--push", "me/inpaint"]
    assert cli.main(command) == 0
    assert f"Pushed: {hub.address}/me/inpaint" in capsys.readouterr().out
    (repository,) = hub.repositories.values()
    assert repository["files"]["README.md"] == (tmp_path / "ours" / "README.md").read_bytes()


def test_what_keeps_a_push_from_the_hub_is_said_before_the_work(hub, shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for arguments, words in (
        (("--push", "my emoji!"), "such as me/my-emoji, and not 'my emoji!'"),
        (("--private",), "say --push ME/NAME too"),
        (("--push", "me/my-emoji"), "`hf auth login` first"),
    ):
        if "login" in words:
            monkeypatch.delenv("HF_TOKEN")
        assert cli.main(["export", "inpaint", str(tmp_path / "ours"), "--from", str(shop), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert not (tmp_path / "ours").exists() and not hub.repositories


def test_a_hub_that_refuses_or_is_out_of_reach_gets_one_sentence(hub, exported, monkeypatch):
    folder = exported / "inpaint"
    with pytest.raises(InputError, match=r"the hub refuses stranger/x \(You cannot write to stranger\): may you"):
        push(folder, "stranger/x")
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(InputError, match=r"the hub refuses me/x \(Invalid credentials\)"):
        push(folder, "me/x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="the hub is out of reach .*offline mode is enabled"):
        push(folder, "me/x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    with pytest.raises(InputError, match=f"the hub is out of reach .*{folder} stays") as raised:
        push(folder, "me/x")
    assert "\n" not in str(raised.value) and (folder / "model_index.json").is_file()
