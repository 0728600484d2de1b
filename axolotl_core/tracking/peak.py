"""Floating-point operations that a device can make in a second, which a model's are compared with (MFU)."""

import re
import time

import torch

TFLOPS_16 = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "A40": 150,
    "A10G": 70,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "V100": 125,
    "T4": 65,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense products of 16 bits that are added up in fp32, by words of the card's name (makers' data sheets); the first that fits."""
SIDE = {"cuda": 4096, "mps": 2048, "cpu": 1024}
"""Of the product of matrices by which a device that is not in the table is measured."""


def tflops_16(name: str) -> int | None:
    """Of a card of this name; None for one that is not in the table."""
    words = set(re.split(r"[\s-]+", name))
    return next((tflops for card, tflops in TFLOPS_16.items() if words.issuperset(card.split()) and "Laptop" not in words), None)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Per second, in products of this dtype: from the table, or measured with a product of matrices, which takes a fraction of a second."""
    in_table = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if in_table and (known := tflops_16(torch.cuda.get_device_name(device))):
        return known * 1e12
    side = SIDE[device.type]
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    return 2.0 * side**3 / min(_seconds(matrix) for _ in range(3))


def _seconds(matrix: torch.Tensor) -> float:
    started = time.perf_counter()
    float((matrix @ matrix)[0, 0])  # waits for the device
    return time.perf_counter() - started
