"""Llama 3 by Levanter: modules of Equinox with named arrays, scanned layers with remat, and paged decoding.

Levanter chooses its attention by the devices it finds: on CPU its own flash attention, a `custom_vjp` with
two nested loops.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import jmp
import optax
from levanter.inference.page_table import PageBatchInfo, PageTableSpec
from levanter.layers.attention import AttentionMask
from levanter.layers.rotary import DefaultRotaryEmbeddingsConfig
from levanter.models.llama import LlamaConfig, LlamaLMHeadModel
from levanter.models.lm_model import LmExample, compute_next_token_loss

from tests.models.case import Case, Program

LLAMA3_8B_SOURCE = "https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json"
LLAMA3_70B_SOURCE = "https://huggingface.co/meta-llama/Meta-Llama-3-70B/blob/main/config.json"
LLAMA3_8B = LlamaConfig(
    seq_len=2048,
    hidden_dim=4096,
    intermediate_dim=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    rope=DefaultRotaryEmbeddingsConfig(theta=500_000),
)
LLAMA3_70B = dataclasses.replace(
    LLAMA3_8B, hidden_dim=8192, intermediate_dim=28672, num_layers=80, num_heads=64
)
REDUCED = LlamaConfig(
    seq_len=32,
    hidden_dim=64,
    intermediate_dim=128,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    flash_attention_block_size=16,
    rope=DefaultRotaryEmbeddingsConfig(theta=500_000),
)
VOCAB = hax.Axis("vocab", 128256)
REDUCED_VOCAB = hax.Axis("vocab", 256)
PAGE_SIZE = 128  # the default of levanter.inference.engine
REDUCED_PAGE_SIZE = 4
SERVING = jmp.get_policy("p=bfloat16,c=bfloat16")
TRAINING = jmp.get_policy("p=f32,c=bfloat16")  # of the configurations that come with Levanter
FULL_PRECISION = jmp.get_policy("f32")
OPTIMIZER = optax.adamw(1e-4)


def forward(model: LlamaLMHeadModel, tokens: hax.NamedArray) -> hax.NamedArray:
    """The logits of every position."""
    return model(tokens, attn_mask=AttentionMask.causal())


def decode(model: Any, cache: Any, tokens: Any, pages: PageBatchInfo, positions: Any) -> Any:
    """One token for each sequence, whose keys and values go into the pages of `cache` that `pages` names."""
    return model.decode(tokens, cache, pages, positions)


def train_step(
    policy: jmp.Policy, model: Any, opt_state: Any, batch: LmExample
) -> tuple[Any, Any, jax.Array]:
    """One step of AdamW, with the loss and the mixed precision of Levanter's trainer."""

    def loss_of(model: LlamaLMHeadModel) -> Any:
        # As levanter.eval does: its trainer's own mean has a mask of numbers, which jnp.mean no longer takes.
        losses = compute_next_token_loss(
            policy.cast_to_compute(model), batch, reduction=None, reduction_axis=()
        )
        return (hax.sum(losses) / hax.sum(batch.loss_mask)).scalar()

    loss, gradients = jax.value_and_grad(loss_of)(model)
    updates, opt_state = OPTIMIZER.update(gradients, opt_state, model)
    return optax.apply_updates(model, updates), opt_state, loss


def tokens_of(vocab: hax.Axis, key: jax.Array, *axes: hax.Axis) -> hax.NamedArray:
    """Made-up tokens."""
    return hax.random.randint(key, axes, 0, vocab.size)


def forward_arguments(
    config: LlamaConfig, vocab: hax.Axis, batch: int, policy: jmp.Policy, key: jax.Array
) -> Any:
    """Arguments of `forward`."""
    model = policy.cast_to_param(config.build(vocab, key=key))
    return model, tokens_of(vocab, key, hax.Axis("batch", batch), config.Pos)


def train_arguments(
    config: LlamaConfig, vocab: hax.Axis, batch: int, policy: jmp.Policy, key: jax.Array
) -> Any:
    """Arguments of `train_step`."""
    model, tokens = forward_arguments(config, vocab, batch, policy, key)
    mask = LmExample.causal_loss_mask(config.Pos).astype(jnp.int32).broadcast_axis(hax.Axis("batch", batch))
    return model, OPTIMIZER.init(model), LmExample(tokens, mask, AttentionMask.causal())


def decode_arguments(
    config: LlamaConfig, vocab: hax.Axis, batch: int, page_size: int, policy: jmp.Policy, key: jax.Array
) -> Any:
    """Arguments of `decode` for caches of `config.seq_len` positions, three quarters of them used.

    The pages of all sequences are interleaved, as they are when sequences grow together.
    """
    model = policy.cast_to_param(config.build(vocab, key=key))
    sequences, tokens = hax.Axis("seq", batch), hax.Axis("position", batch)
    pages = hax.Axis("page", config.seq_len // page_size)
    cache = model.initial_cache(PageTableSpec(pages.size * batch, page_size), dtype=policy.param_dtype)
    cache = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape, leaf.dtype), cache)
    position = 3 * config.seq_len // 4
    page_indices = hax.arange(pages).broadcast_axis(sequences) * batch + hax.arange(sequences)
    last_page = page_indices["page", position // page_size].rename({"seq": "position"})
    batch_info = PageBatchInfo(
        slot_ids=hax.arange(sequences),
        page_indices=page_indices,
        seq_lens=hax.full(sequences, position + 1, dtype=jnp.int32),
        cu_q_lens=hax.arange(sequences.resize(batch + 1)),
        num_seqs=jnp.array(batch, jnp.int32),
        new_token_dests=last_page * page_size + position % page_size,
        page_size=page_size,
    )
    positions = hax.full(tokens, position, dtype=jnp.int32)
    return model, cache, tokens_of(vocab, key, tokens), batch_info, positions


def program(fn: Any, arguments_of: Any, donated: tuple[str, ...] = ()) -> Program:
    """The program of `fn` for arguments which `arguments_of` makes of a key."""
    return Program(
        fn=fn,
        args=jax.eval_shape(arguments_of, jax.random.key(0)),
        options={"donate_argnames": donated},
        values=lambda seed: (arguments_of(jax.random.key(seed)), {}),
    )


def forward_program(config: LlamaConfig, vocab: hax.Axis, batch: int, policy: jmp.Policy) -> Program:
    """Logits of `batch` sequences."""
    return program(forward, partial(forward_arguments, config, vocab, batch, policy))


def train_program(config: LlamaConfig, vocab: hax.Axis, batch: int, policy: jmp.Policy) -> Program:
    """A training step on `batch` sequences."""
    arguments_of = partial(train_arguments, config, vocab, batch, policy)
    return program(partial(train_step, policy), arguments_of, ("model", "opt_state"))


def decode_program(
    config: LlamaConfig, vocab: hax.Axis, batch: int, page_size: int, policy: jmp.Policy
) -> Program:
    """One token for each of `batch` sequences."""
    return program(decode, partial(decode_arguments, config, vocab, batch, page_size, policy), ("cache",))


def cases() -> tuple[Case, ...]:
    """Forward of Llama 3 8B; train and decode of Llama 3 70B."""
    return (
        Case(
            name="levanter.llama3_8b.forward",
            phase="forward",
            source=LLAMA3_8B_SOURCE,
            full=partial(forward_program, LLAMA3_8B, VOCAB, 8, SERVING),
            reduced=partial(forward_program, REDUCED, REDUCED_VOCAB, 8, FULL_PRECISION),
        ),
        Case(
            name="levanter.llama3_70b.train",
            phase="train",
            source=LLAMA3_70B_SOURCE,
            full=partial(train_program, LLAMA3_70B, VOCAB, 64, TRAINING),
            reduced=partial(train_program, REDUCED, REDUCED_VOCAB, 8, FULL_PRECISION),
        ),
        Case(
            name="levanter.llama3_70b.decode",
            phase="decode",
            source=LLAMA3_70B_SOURCE,
            full=partial(decode_program, LLAMA3_70B, VOCAB, 64, PAGE_SIZE, SERVING),
            reduced=partial(decode_program, REDUCED, REDUCED_VOCAB, 8, REDUCED_PAGE_SIZE, FULL_PRECISION),
        ),
    )
