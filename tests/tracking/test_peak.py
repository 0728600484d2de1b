"""What a device can compute, and what a run makes of it."""

import time

import pytest
import torch

from axolotl_core.tracking import peak
from axolotl_core.tracking.tracker import StepMetrics, Tracker


def test_a_known_card_is_looked_up_and_any_other_is_measured(monkeypatch: pytest.MonkeyPatch):
    gpu = torch.device("cuda")
    known = {
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA A100-SXM4-80GB": 312,
        "NVIDIA L4": 121,
        "NVIDIA L40": 181,
        "NVIDIA L40S": 362,
        "NVIDIA A10G": 70,
        "NVIDIA GeForce RTX 4090": 165,
        "Tesla V100-SXM2-16GB": 125,
    }
    for name, tflops in known.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak.peak_flops(gpu, torch.bfloat16) == tflops * 1e12
    monkeypatch.setattr(peak, "_seconds", lambda matrix: 0.5)
    for other in ("NVIDIA RTX A4000", "NVIDIA RTX A1000", "NVIDIA T400", "NVIDIA GeForce RTX 4090 Laptop GPU"):
        assert peak.tflops_16(other) is None
    assert peak.peak_flops(torch.device("cpu"), torch.float32) == 2 * 1024**3 / 0.5


def test_the_share_of_what_a_device_can_make(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log: list[dict] = []
    tracker = Tracker(2, 0, log, 1, quiet=True, peak_flops=1e12)
    now[0] += 2
    tracker.step(1, 0.5, StepMetrics(1.0, 1.0, 10, 100, 0, False, 4e11, 0.1, 1.5, 0.3), 1e-3)
    now[0] += 5
    tracker.saved(5.0)  # is no training time
    now[0] += 1
    tracker.step(2, 1.0, StepMetrics(1.0, 1.0, 10, 100, 0, False, 4e11, 0.1, 0.7, 0.1), 1e-3)
    assert [(row["mfu"], row["step_s"], row["checkpoint_s"]) for row in log] == [(0.2, 2.0, 0.0), (0.4, 1.0, 5.0)]
    found = tracker.throughput()
    assert found["mfu"] == pytest.approx(8e11 / 3 / 1e12, abs=1e-4)
    seconds = {name: found[name] for name in ("data_s", "forward_backward_s", "optimizer_s", "checkpoint_s")}
    assert seconds == {"data_s": 0.2, "forward_backward_s": 2.2, "optimizer_s": 0.4, "checkpoint_s": 5.0}
