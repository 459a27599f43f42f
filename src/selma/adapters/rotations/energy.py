"""Hyperspherical energy of a layer's neurons: what OFT leaves as it was."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 1024


def hyperspherical_energy(weight: Tensor) -> float:
    """Σ over i ≠ j of 1 / ‖ŵ_i - ŵ_j‖, with ŵ the rows of [out, in] scaled to length one.

    arXiv:2306.07280, section 3. Rows of zero length have no direction and are left out; two of
    equal direction make it infinite. float64, a few rows at a time.
    """
    rows = weight.detach().flatten(1)
    rows = (rows.cpu() if rows.device.type == "mps" else rows).double()  # which mps has not
    norms = rows.norm(dim=1)
    rows = rows[norms > 0] / norms[norms > 0, None]
    total = 0.0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE]
        # ‖a - b‖² = 2 - 2 a·b for unit vectors; exact to 1e-8 in the distance, with float64.
        inverse = (2 - 2 * block @ rows.mT).clamp(min=0).rsqrt()
        own = torch.arange(len(block), device=rows.device)
        inverse[own, own + start] = 0
        total += float(inverse.sum())
    return total
