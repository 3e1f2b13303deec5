"""Many rows in bounded memory: from a file of 100,000 rows to examples, in a separate process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

ROWS = 100_000
MEASURE = """
import resource, sys
from encodery.finetune.data import read_data
from encodery.finetune.planning import plan_prepared
from encodery.finetune.prepared import prepare_data
from encodery.finetune.settings import initial_settings
from encodery.model.load import load_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

early, loaded = initial_settings("classify", {}), load_model(sys.argv[2])
before = peak()
data = read_data(sys.argv[1], early)
plan = plan_prepared(early, {}, prepare_data(early, loaded, data), sys.argv[1], sys.argv[2])
print(len(data.train["text"]), peak() - before)
"""


def test_100_000_rows_take_little_more_than_themselves(model_folder: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    words = ["red", "orange", "blue", "green", "cat", "dog", "sky", "sun", "one", "two", "six"]
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number in range(ROWS):
            text = f"{' '.join(draw.choices(words, k=12))} {number}"
            file.write(json.dumps({"text": text, "label": "ab"[number % 2], "split": "train"}) + "\n")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "rows.jsonl"), str(model_folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows, grown = map(int, done.stdout.split())
    assert 60_000 < rows < ROWS
    assert grown < 1_000 * ROWS, f"{grown >> 20} MiB"
