"""What manufacturers state of their cards."""

import re
from collections.abc import Mapping

STATED_RATES: dict[str, Mapping[str, float]] = {
    r"B200": {"bf16": 2250.0, "tf32": 1125.0, "fp32": 75.0},
    r"H200|GH200|H100.*HBM3|H800.*HBM3": {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9},
    r"H100 NVL": {"bf16": 835.5, "tf32": 417.5, "fp32": 60.0},
    r"H100 PCIe": {"bf16": 756.0, "tf32": 378.0, "fp32": 51.2},
    r"A100|A800": {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5},
    r"A40": {"bf16": 149.7, "tf32": 74.8, "fp32": 37.4},
    r"A30": {"bf16": 165.0, "tf32": 82.0, "fp32": 10.3},
    r"A10": {"bf16": 125.0, "tf32": 62.5, "fp32": 31.2},
    r"RTX A6000": {"bf16": 154.8, "tf32": 77.4, "fp32": 38.7},
    r"L40S": {"bf16": 362.0, "tf32": 183.0, "fp32": 91.6},
    r"L40": {"bf16": 181.0, "tf32": 90.5, "fp32": 90.5},
    r"L4": {"bf16": 121.0, "tf32": 60.0, "fp32": 30.3},
    r"RTX 6000 Ada": {"bf16": 364.2, "tf32": 182.1, "fp32": 91.1},
    r"RTX 5090": {"bf16": 209.5, "tf32": 104.8, "fp32": 104.8},
    r"RTX 4090": {"bf16": 165.2, "tf32": 82.6, "fp32": 82.6},
    r"RTX 3090": {"bf16": 71.0, "tf32": 35.6, "fp32": 35.6},
}
"""TFLOP/s of dense matrix products that are summed in fp32, by a pattern of the card's name, from
NVIDIA's data sheets; fp16 is as fast as bf16. The first pattern that fits counts."""


def stated_rates(name: str) -> Mapping[str, float] | None:
    """TFLOP/s by arithmetic that the manufacturer states of a card.

    None of a card that is not known, and of a part of one (MIG).

    Args:
        name: of the card, as the driver says it.
    """
    if "MIG" in name:
        return None
    for pattern, rates in STATED_RATES.items():
        if re.search(rf"\b(?:{pattern})\b", name):
            return rates
    return None
