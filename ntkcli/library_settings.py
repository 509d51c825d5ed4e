"""Environment variables of libraries that would change values: taken away while they compute, given back after.

What a spec does not hold must not change a value. Found in accelerate 1.15, transformers 5.24, peft 0.21 and torch
2.13 by searching their sources for what they read of the environment. Threads (OMP_NUM_THREADS, MKL_NUM_THREADS) and
visible devices stay: they are the machine's. Must not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_PREFIXES = (
    "ACCELERATE_",  # mixed precision, gradient accumulation, FSDP, DeepSpeed, Megatron, dynamo, ...
    "FSDP_",
    "DEEPSPEED_",
    "KUBEFLOW_",
    "MEGATRON_LM_",
    "PARALLELISM_CONFIG_",
    "FP8_",
    "XLA_",
    "TORCHDYNAMO_",
    "TORCHINDUCTOR_",
    "TORCH_COMPILE_",
    "TRANSFORMERS_DISABLE_",
    "TRANSFORMERS_TEST_",
    "DNNL_",
    "ONEDNN_",  # DEFAULT_FPMATH_MODE: float32 products in bfloat16
    "MKL_CBWR",
)
_NAMES = (
    "ATEN_CPU_CAPABILITY",
    "FLASH_ATTENTION_DETERMINISTIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "PT_HPU_LAZY_MODE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_BLAS_PREFER_HIPBLASLT",
    "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
    "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_LINALG_PREFER_CUSOLVER",
    "TORCH_LINALG_PREFER_HIPSOLVER",
    "TORCH_LINEAR_FLATTEN_3D",
    "TORCH_MKLDNN_MATMUL_MIN_DIM",
    "TORCH_MKLDNN_MATMUL_MIN_SIZE",
    "TRANSFORMERS_SDPA_FORCE_GQA",
    "USE_HUB_KERNELS",
    "USE_TORCH_XLA",
)
_RANK_PREFIXES = (
    "TORCHELASTIC_",
    "TORCHCOMM_",
    "PMI_",
    "OMPI_COMM_WORLD_",
    "MV2_COMM_WORLD_",
    "SMDATAPARALLEL_",
    "SM_",
)
_RANK_NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "CCL_WORKER_COUNT",
    "FORK_LAUNCHED",
)
"""With these accelerate waits for other processes, which we never start."""


@contextmanager
def without_library_settings(*, ranks: bool = True) -> Iterator[list[str]]:
    """Within, no such variable is set, and afterwards the environment is what it was; yields the names, sorted.

    Without `ranks` those stay that say which of several processes this is.
    """
    before = dict(os.environ)
    found = sorted(name for name in before if _changes_values(name) or (ranks and _is_of_ranks(name)))
    for name in found:
        del os.environ[name]
    try:
        yield found
    finally:  # also what a library has set meanwhile: transformers writes its settings there for the next training
        for name in [name for name in os.environ if name not in before and _changes_values(name)]:
            del os.environ[name]
        os.environ.update({name: before[name] for name in found})


def _changes_values(name: str) -> bool:
    return name in _NAMES or name.startswith(_PREFIXES)


def _is_of_ranks(name: str) -> bool:
    return name in _RANK_NAMES or name.startswith(_RANK_PREFIXES)
