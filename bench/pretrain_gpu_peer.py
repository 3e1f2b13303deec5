"""Run the peer of `bench/pretrain_gpu.py`: `transformers.ModernBertForMaskedLM` in a bare loop with its best settings.

bf16 autocast, SDPA, fused AdamW, TF32 products for what stays in fp32. Sequences of one length without padding are on
the device before the clock starts, and masks are drawn there: no data loader slows it down. `compiled`: the whole model
with torch.compile, logits at every token. `sparse`: logits at masked tokens only (`sparse_prediction`), not compiled,
since their number changes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

WARMUP_STEPS = 10  # Before the clock starts.
MASK_RATE = 0.3


def model_for(shape: list[int], length: int, tokenizer: Any, sparse: bool) -> torch.nn.Module:
    """Return ModernBERT with random weights."""
    depth, width, heads, intermediate_size = shape
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=length,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        sparse_prediction=sparse,
    )
    model: torch.nn.Module = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shape", type=int, nargs=4, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--micro", type=int, required=True)
    parser.add_argument("--variant", choices=("compiled", "sparse"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.tokenizer)
    stored = np.load(options.rows)
    sequences = torch.from_numpy(stored[: 2**28 // stored.shape[1]].astype(np.int64)).to(device)
    count = max(1, options.micro // sequences.shape[1])
    model = model_for(options.shape, sequences.shape[1], tokenizer, options.variant == "sparse").to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    run = torch.compile(model) if options.variant == "compiled" else model
    model.train()

    def step() -> None:
        ids = sequences[torch.randint(len(sequences), (count,), device=device)]
        masked = torch.rand(ids.shape, device=device) < MASK_RATE
        labels = ids.masked_fill(~masked, -100)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = run(input_ids=ids.masked_fill(masked, tokenizer.mask_token_id), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARMUP_STEPS if device.type == "cuda" else 1):
        step()
    wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < options.seconds:
        step()
        steps += 1
        if steps % 10 == 0:
            wait()
    wait()
    seconds = time.perf_counter() - start
    metrics = {
        "variant": options.variant,
        "steps": steps,
        "seconds": seconds,
        "tokens_per_s": steps * count * sequences.shape[1] / seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    options.out.write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
