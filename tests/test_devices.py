"""Devices, precision and memory."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from course_utils import devices
from course_utils.errors import InputError
from course_utils.layers import TransformerBlock


def test_the_processor_is_always_there(monkeypatch):
    assert devices.best_device("cpu").type == "cpu"
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert devices.best_device().type == "cpu"
    assert devices.best_device("cpu") == torch.device("cpu")


def test_unknown_and_absent_devices_are_named(monkeypatch):
    with pytest.raises(ValueError, match="unknown device 'tpu': choose one of cuda, mps, cpu"):
        devices.best_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="has no cuda device"):
        devices.best_device("cuda")


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_precision_can_be_chosen(monkeypatch, name, dtype):
    monkeypatch.setenv("COURSE_PRECISION", name)
    assert devices.mixed_precision(torch.device("cpu")) == dtype
    with devices.autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_an_unknown_precision_is_named(monkeypatch):
    monkeypatch.setenv("COURSE_PRECISION", "fp8")
    with pytest.raises(InputError, match="COURSE_PRECISION must be bf16 or float32, not 'fp8'"):
        devices.mixed_precision(torch.device("cpu"))


def test_precision_follows_the_processor(monkeypatch):
    """The flags that Linux reports and the choice agree; Apple's GPU trains in float32."""
    monkeypatch.delenv("COURSE_PRECISION", raising=False)
    assert devices.mixed_precision(torch.device("mps")) == torch.float32
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("only Linux lists the flags of its processor")
    native = {"avx512_bf16", "amx_bf16"} & set(flags.read_text().split())
    assert (devices.mixed_precision(torch.device("cpu")) == torch.bfloat16) == bool(native)


def test_in_bfloat16_attention_and_losses_stay_in_float32(monkeypatch):
    """What `layers.Attention` asks for: projections in bfloat16, between them attention in float32, mask and all."""
    monkeypatch.setenv("COURSE_PRECISION", "bf16")
    seen = {}

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function in (F.linear, F.conv2d, F.scaled_dot_product_attention):
                seen[function.__name__] = result.dtype
            return result

    block = TransformerBlock(16, 2, context_dim=8)
    x, context = torch.randn(2, 9, 16), torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    expected = block(x, context, mask)
    with Watch(), devices.autocast(torch.device("cpu")):
        y = block(x, context, mask)
        assert F.mse_loss(y, x).dtype == torch.float32
        assert F.conv2d(x[:, None], torch.ones(1, 1, 3, 3)).dtype == torch.bfloat16
        q = torch.randn(1, 2, 4, 8, dtype=torch.bfloat16)
        assert F.scaled_dot_product_attention(q, q, q).dtype == torch.float32
    assert seen["linear"] == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in block.parameters())
    assert 0 < (y - expected).abs().max() < 0.05


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.LayerNorm(8)], ids=["group", "layer"])
def test_norms_compute_in_float32_whatever_they_read(norm):
    """Only their result is rounded: with statistics in bfloat16 it would be off by a tenth, not by the last bit."""
    x = (torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 100).bfloat16()
    torch.testing.assert_close(norm(x).float(), norm(x.float()), rtol=2**-7, atol=1e-3)


def test_memory_runs_out_until_the_batch_fits():
    tried = []

    def work(n):
        tried.append(n)
        if n > 5:
            raise RuntimeError("CUDA out of memory")
        return n

    with pytest.warns(UserWarning, match="batches of 4"):
        assert devices.halve_on_oom(work, 16) == 4
    assert tried == [16, 8, 4]


def test_other_errors_pass_and_too_small_is_told():
    def broken(n):
        raise RuntimeError("shapes do not fit")

    def hungry(n):
        raise MemoryError

    with pytest.raises(RuntimeError, match="shapes"):
        devices.halve_on_oom(broken, 16)
    with pytest.warns(UserWarning), pytest.raises(MemoryError):
        devices.halve_on_oom(hungry, 2)


def test_reports():
    report = devices.memory_report(torch.device("cpu"))
    assert 0 < report["free_gb"] <= report["total_gb"] and report["process_gb"] > 0
    assert "CPU" in devices.describe(torch.device("cpu"))
