"""What the processor of this machine lacks, asked as the engine asks it."""

import pytest
import torch
from spotesm.model.products import has_fused_products


def _needs(dtype: torch.dtype) -> pytest.MarkDecorator:
    name = str(dtype).removeprefix("torch.")
    return pytest.mark.skipif(
        not has_fused_products(dtype), reason=f"needs a processor with oneDNN's products in {name}"
    )


fused_bfloat16 = _needs(torch.bfloat16)
fused_float32 = _needs(torch.float32)
