"""Devices, precision, seeds and memory."""

import pytest
import torch

from course_utils import devices


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


def test_a_seed_repeats_every_source_of_chance():
    import random

    import numpy as np

    def numbers(seed):
        generator = devices.seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, generator=generator).item()

    assert numbers(3) == numbers(3) != numbers(4)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "7", None, True])
def test_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match="the seed must be a whole number"):
        devices.seed_everything(seed)


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
    with devices.autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
