"""The count of memory: what lives at once, and nothing that was there before or is gone."""

import torch
import torch.nn.functional as F

from course_utils.evaluation.memory import PeakMemory


def test_what_lives_at_once_is_counted_and_what_dies_is_taken_off():
    with PeakMemory() as memory:
        a = torch.ones(1000)
        b = a + 1
        assert memory.now == memory.peak == 8000
        del a
        assert (memory.now, memory.peak) == (4000, 8000)
        del b
    assert (memory.now, memory.peak) == (0, 8000)


def test_views_and_what_was_there_before_cost_nothing():
    weight = torch.ones(100, 100)
    with PeakMemory() as memory:
        rows = weight.T[:50].view(-1, 100) if weight.T[:50].is_contiguous() else weight[:50].view(-1, 100)
        assert memory.peak == 0
        weight.mul_(2)
        assert memory.peak == 0
    assert rows.sum() == 2 * 5000


def test_a_smaller_type_takes_less():
    peaks = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(1, 4, 16, 16, dtype=dtype)
        with torch.inference_mode(), PeakMemory() as memory:
            F.silu(x) + 1
        peaks.append(memory.peak)
    assert peaks == [8192, 4096]


def test_pictures_one_at_a_time_take_less_than_all_at_once():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(16, 3, 3))
    x = torch.ones(8, 3, 16, 16)
    with torch.no_grad():
        with PeakMemory() as together:
            network(x)
        with PeakMemory() as apart:
            torch.cat([network(one) for one in x.split(1)])
    assert 4 * apart.peak < 3 * together.peak
