"""Run the peer of `bench/pretrain.py`: `transformers.Trainer` on the run_mlm recipe, for a number of seconds.

It reads prepared data from a folder: `tokenizer/` and `<layout>.npz` (ids and offsets). Padding, collation, masking and
loss are stock: `DataCollatorForLanguageModeling(mlm_probability=0.15)`, `BertForMaskedLM`, AdamW, linear decay. A short
calibration run measures the steps per second, so that the schedule ends with the seconds.
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

SHAPES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8)}
CALIBRATION_STEPS = 6


class TokenSequences(torch.utils.data.Dataset[dict[str, Any]]):
    """Each item is one chunk or one line, as token ids with [CLS] and [SEP]."""

    def __init__(self, path: Path) -> None:
        stored = np.load(path)
        self._ids, self._offsets = stored["ids"], stored["offsets"]

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self._ids[self._offsets[index] : self._offsets[index + 1]].tolist()}


class StopAfterSeconds(transformers.TrainerCallback):
    """Counts tokens other than padding, and stops the run after its seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.tokens, self.steps = seconds, 0, 0
        self.start = 0.0
        self.spent = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps += 1
        self.spent = time.perf_counter() - self.start
        if self.spent >= self.seconds:
            control.should_training_stop = True


class CountingCollator:
    """The stock collator, which also counts the tokens of every batch before padding."""

    def __init__(self, collator: Any, clock: StopAfterSeconds) -> None:
        self._collator, self._clock = collator, clock

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        self._clock.tokens += sum(len(row["input_ids"]) for row in rows)
        return self._collator(rows)


def model_for(options: argparse.Namespace, pad: int) -> transformers.BertForMaskedLM:
    depth, width, heads = SHAPES[options.shape]
    config = transformers.BertConfig(
        vocab_size=options.vocab,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=options.length,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        pad_token_id=pad,
    )
    return transformers.BertForMaskedLM(config)


def train(options: argparse.Namespace, seconds: float, max_steps: int) -> tuple[StopAfterSeconds, Any]:
    transformers.set_seed(options.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.data / "tokenizer")
    model = model_for(options, tokenizer.pad_token_id)
    clock = StopAfterSeconds(seconds)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    arguments = transformers.TrainingArguments(
        output_dir=str(options.out / "trainer"),
        per_device_train_batch_size=options.batch,
        learning_rate=options.lr,
        warmup_steps=max(1, int(0.06 * max_steps)),
        lr_scheduler_type="linear",
        weight_decay=0.01,
        max_steps=max_steps,
        logging_steps=50,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=options.bf16,
        seed=options.seed,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=TokenSequences(options.data / f"{options.layout}.npz"),
        data_collator=CountingCollator(collator, clock),
        callbacks=[clock],
    )
    trainer.train()
    return clock, trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--layout", choices=("chunks", "lines"), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--vocab", type=int, required=True)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    calibration, _ = train(options, 1e9, CALIBRATION_STEPS)
    steps = max(20, int(options.seconds / (calibration.spent / CALIBRATION_STEPS)))
    clock, trainer = train(options, options.seconds, steps)
    trainer.save_model(str(options.out / "export"))
    metrics = {
        "tokens": clock.tokens,
        "steps": clock.steps,
        "planned_steps": steps,
        "seconds": clock.spent,
        "tokens_per_s": clock.tokens / clock.spent,
    }
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
