"""Compute the held-out masked-LM loss of an exported folder with stock transformers, for `bench/pretrain.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers

BATCH = 64


@torch.no_grad()
def judge(export: Path, sequences: Path) -> dict[str, float]:
    """Return the mean loss and accuracy over the fixed masked positions of the file `sequences` (`judge_sequences`)."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(export, dtype=torch.float32).eval()
    stored = np.load(sequences)
    offsets = stored["offsets"]
    order = np.argsort(np.diff(offsets), kind="stable")
    loss, correct, count = 0.0, 0, 0
    for start in range(0, len(order), BATCH):
        members = order[start : start + BATCH]
        width = int(np.diff(offsets)[members].max())
        ids, labels = np.zeros((len(members), width), np.int64), np.full((len(members), width), -100, np.int64)
        attention = np.zeros((len(members), width), np.int64)
        for row, member in enumerate(members):
            span = slice(offsets[member], offsets[member + 1])
            size = offsets[member + 1] - offsets[member]
            ids[row, :size], attention[row, :size] = stored["ids"][span], 1
            labels[row, :size] = np.where(stored["masked"][span], stored["labels"][span], -100)
        logits = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(attention)).logits
        expected = torch.from_numpy(labels)
        at = expected >= 0
        loss += torch.nn.functional.cross_entropy(logits[at], expected[at], reduction="sum").item()
        correct += int((logits[at].argmax(-1) == expected[at]).sum())
        count += int(at.sum())
    return {"loss": loss / count, "accuracy": correct / count, "masked": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path, help="A folder that transformers loads.")
    parser.add_argument("sequences", type=Path, help="The file of `judge_sequences`.")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    print(json.dumps(judge(options.export, options.sequences)))


if __name__ == "__main__":
    main()
