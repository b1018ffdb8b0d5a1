"""Where bfloat16 is computed in hardware."""

import torch


def native_bfloat16(device_type: str) -> bool:
    """Whether a device type computes in bfloat16: CUDA's Ampere and later, CPUs with AVX512-BF16 or AMX."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in native)
    return False
