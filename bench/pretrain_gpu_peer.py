"""The peer of `bench/pretrain_gpu.py`: `transformers.ModernBertForMaskedLM` in a bare loop with its best settings.

bf16 autocast, SDPA, fused AdamW, TF32 products where something stays in fp32. Rows of one length without padding lie on
the device before the clock starts, and so do the draws for masks: no data loader slows it. `compiled`: the whole model
by torch.compile, logits at every token. `sparse`: logits at masked tokens only (`sparse_prediction`), not compiled,
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

WARM = 10  # steps before the clock starts
RATE = 0.3


def model_for(shape: list[int], length: int, tokenizer: Any, sparse: bool) -> torch.nn.Module:
    """ModernBERT with random weights."""
    depth, width, heads, inner = shape
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=inner,
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
    rows = torch.from_numpy(stored[: 2**28 // stored.shape[1]].astype(np.int64)).to(device)
    count = max(1, options.micro // rows.shape[1])
    model = model_for(options.shape, rows.shape[1], tokenizer, options.variant == "sparse").to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    run = torch.compile(model) if options.variant == "compiled" else model
    model.train()

    def step() -> None:
        ids = rows[torch.randint(len(rows), (count,), device=device)]
        hidden = torch.rand(ids.shape, device=device) < RATE
        labels = ids.masked_fill(~hidden, -100)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = run(input_ids=ids.masked_fill(hidden, tokenizer.mask_token_id), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM if device.type == "cuda" else 1):
        step()
    wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < options.seconds:
        step()
        steps += 1
        if steps % 10 == 0:
            wait()
    wait()
    spent = time.perf_counter() - start
    metrics = {
        "variant": options.variant,
        "steps": steps,
        "seconds": spent,
        "tokens_per_s": steps * count * rows.shape[1] / spent,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    options.out.write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
