"""The article's models: folders of their form are opened, pickles only when it is allowed, and what is gone is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from safetensors.torch import load_file

from course_utils.errors import CheckpointError
from course_utils.interop.article import LORA_FILE, MODEL, Pinned, fetch, open_article

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"粉色的蝴可爱狗漂亮猫小精灵卡通,"]


def to_pickles(folder):
    """Put what `save_pretrained` wrote into pickles, as folders of 2023 have it."""
    for path in folder.glob("*.safetensors"):
        name = "pytorch_model.bin" if path.stem == "model" else f"{path.stem}.bin"
        torch.save(load_file(path), folder / name)
        path.unlink()


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def article(tmp_path_factory):
    """A tiny folder of Taiyi's form, a BERT for a text encoder and pickles all through, and a LoRA of March 2023."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import BertConfig, BertModel, CLIPConfig

    torch.manual_seed(0)
    top = tmp_path_factory.mktemp("article")
    model, small = top / "model", {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {"hidden_size": 16, "image_size": 32, "patch_size": 16, **small}
    parts = {
        "text_encoder": BertModel(
            BertConfig(vocab_size=len(VOCAB), hidden_size=32, max_position_embeddings=16, **small)
        ),
        "unet": UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=2,
        ),
        "vae": AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8),
        "safety_checker": StableDiffusionSafetyChecker(
            CLIPConfig(vision_config=vision, text_config={"hidden_size": 16, **small}, projection_dim=8)
        ),
    }
    for name, part in parts.items():
        part.save_pretrained(model / name)
        to_pickles(model / name)
    PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1).save_pretrained(
        model / "scheduler"
    )
    write_json(
        model / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 16}
    )
    (model / "tokenizer" / "vocab.txt").write_text("\n".join(VOCAB), encoding="utf-8")
    processor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    write_json(model / "feature_extractor" / "preprocessor_config.json", processor)
    classes = {
        "feature_extractor": ("transformers", "CLIPImageProcessor"),
        "safety_checker": ("stable_diffusion", "StableDiffusionSafetyChecker"),
        "scheduler": ("diffusers", "PNDMScheduler"),
        "text_encoder": ("transformers", "BertModel"),
        "tokenizer": ("transformers", "BertTokenizer"),
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.11.1", **classes}
    write_json(model / "model_index.json", index)
    lora, attention = {}, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor"
    for layer, width in {"to_q": 16, "to_k": 32, "to_v": 32, "to_out": 16}.items():
        lora[f"{attention}.{layer}_lora.down.weight"] = torch.randn(4, width)
        lora[f"{attention}.{layer}_lora.up.weight"] = torch.randn(16, 4)
    (top / "lora").mkdir()
    torch.save(lora, top / "lora" / LORA_FILE)
    return model, top / "lora"


def test_the_form_of_the_articles_models_is_opened_and_the_lora_acts(article):
    model, lora = article
    pipe = open_article(read_pickles=True, device="cpu", model=model, lora=lora)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.safety_checker is not None and pipe.unet.dtype == torch.float32

    def draw():
        generator = torch.Generator().manual_seed(0)
        return pipe("粉色的蝴蝶,小精灵,卡通", num_inference_steps=2, generator=generator, output_type="latent").images

    with_lora = draw()
    pipe.disable_lora()
    assert not torch.equal(draw(), with_lora)


def test_pickles_are_not_read_unasked(article):
    with pytest.raises(CheckpointError, match="as pickles only"):
        open_article(model=article[0], lora=article[1])


def test_a_checker_that_is_not_whole_is_refused(article, tmp_path):
    import shutil

    shutil.copytree(article[0], tmp_path / "model")
    weights = tmp_path / "model" / "safety_checker" / "pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    torch.save({key: value for key, value in state.items() if "visual_projection" not in key}, weights)
    with pytest.raises(CheckpointError, match=r"safety checker .* is not read whole \(visual_projection"):
        open_article(read_pickles=True, device="cpu", model=tmp_path / "model", lora=article[1])


# ------------------------------------------------------------------ what is gone
class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does where something is not there: by a status and a header that says what."""

    ANSWERS = {"gone": (404, "RepoNotFound"), "other": (404, "RevisionNotFound"), "gated": (403, "GatedRepo")}

    def do_GET(self):
        status, code = next(answer for word, answer in self.ANSWERS.items() if word in self.path)
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # which tests set; the loopback is open to them
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("someone/gone", "someone/gone is gone from huggingface.co"),
        ("someone/other", "no longer has the commit 0123456789ab"),
        ("someone/gated", "wants its terms agreed to"),
    ],
)
def test_what_is_gone_is_told_in_one_sentence(hub, name, words):
    with pytest.raises(CheckpointError, match=words):
        fetch(Pinned(name, "0123456789abcdef0123456789abcdef01234567", ("*.json",)))


def test_no_network_is_told_in_one_sentence(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CheckpointError, match=r"could not be fetched from huggingface.co: connect to a network"):
        fetch(MODEL)
