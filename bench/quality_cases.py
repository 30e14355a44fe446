"""The cases that plans are held against the layouts of people on: model, phase, slice.

Those of `bench.fidelity_cases`, and for what they lack: a mixture of experts (`bench.mixtral`), as many
key-value heads as heads (Llama 2 7B: Touvron et al. 2023, arXiv:2307.09288, section 2), 32 and 256 chips.
Slices have HBM for the model and its cache, batches are what one would serve there.
"""

from __future__ import annotations

from bench import mixtral
from bench.fidelity_cases import CASES as FIDELITY_CASES
from bench.fidelity_cases import decode_case, prefill_case
from examples import llama, palm

LLAMA2_7B = llama.Config(
    layers=32, d_model=4096, d_ff=11_008, heads=32, kv_heads=32, vocab=32_000, rope_base=10_000.0
)

CASES = (
    *FIDELITY_CASES,
    prefill_case(mixtral, "mixtral_8x7b", mixtral.MIXTRAL_8X7B, "v5p:2x2x4", 32, 4096),
    decode_case(mixtral, "mixtral_8x7b", mixtral.MIXTRAL_8X7B, "v6e:2x4", 64, 4096),
    decode_case(llama, "llama2_7b", LLAMA2_7B, "v5e:2x4", 32, 4096),
    decode_case(llama, "llama3_70b", llama.LLAMA3_70B, "v5p:2x4x4", 128, 8192),
    prefill_case(llama, "llama3_70b", llama.LLAMA3_70B, "v5e:16x16", 64, 4096),
    decode_case(palm, "palm_540b", palm.PALM_540B, "v4:4x8x8", 512, 2048),
)
