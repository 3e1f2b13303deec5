"""Sizes by rule: how wide, how deep, what rate and what batch a model of so many parameters gets.

Width is a multiple of 64, a head has 64 of it, and there is a layer for every 36 of width, about as ModernBERT-base has
(22 x 768). The peak rate falls as 0.512 / width, and is never above 3e-3. A step has 2,048 tokens up to 2.6 M
parameters outside the tables and as many more as those are more, rounded to a power of two; from 65,536 on it begins
there and grows to eight times that, at most 524,288, in the first tenth of the run. Where the budget is in tokens there
are at least 500 steps. Rate and batch go through those of the recipes tiny, mini and small; beyond, the rule is not
measured.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from encodery.base.errors import SettingsError
from encodery.model import count
from encodery.model.settings import ModelSettings
from encodery.train.budget import Budget

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
HEAD = 64
ASPECT = 36  # of width for a layer
MAX_WIDTH = 4096
LR_TIMES_WIDTH, MAX_LR = 0.512, 3e-3
MIN_BATCH, MIN_BATCH_PARAMETERS = 2048, 2.6e6
RAMP_FROM, MAX_BATCH = 65_536, 524_288
MIN_STEPS_OF_TOKEN_BUDGET = 500


def parse_size(size: str) -> int:
    """`30M` → 30,000,000. Raises `SettingsError`."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmb]?)", size.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise SettingsError(f"size '{size}': write how many parameters, such as 1M, 30M or 0.4B.")
    return round(float(match[1]) * UNITS[match[2]])


def model_for_size(size: str, like: ModelSettings) -> ModelSettings:
    """`like` with the width and depth that come nearest to `size` parameters, tables counted; the feed-forward layers
    keep their share of the width. Raises `SettingsError` where even the narrowest is more than half too large."""
    wanted = parse_size(size)
    best = _at(HEAD, like)
    for width in range(2 * HEAD, MAX_WIDTH + 1, HEAD):
        if count.num_parameters(best) >= wanted:
            break
        best = min(best, _at(width, like), key=lambda each: abs(math.log(count.num_parameters(each) / wanted)))
        if best.width != width:
            break
    found = count.num_parameters(best)
    layer = count.num_parameters(dataclasses.replace(best, depth=best.depth + 1)) - found
    best = dataclasses.replace(best, depth=max(2, best.depth + round((wanted - found) / layer)))
    if count.num_parameters(best) > 1.5 * wanted:
        raise SettingsError(
            f"size {size}: with a vocabulary of {like.vocab_size:,} even a model of width {best.width} has "
            f"{count.num_parameters(best) / 1e6:.1f} M parameters. Train a smaller vocabulary, or ask for more."
        )
    return best


def settings_for_size(size: str, like: ModelSettings, budget: str, max_length: int) -> dict[str, Any]:
    """The settings that `size` decides, to be laid over a recipe whose model is `like` and whose sequences have at most
    `longest` tokens."""
    model = model_for_size(size, like)
    sizes = {name: getattr(model, name) for name in ("width", "depth", "heads", "head_size", "intermediate_size")}
    batch = _batch(count.num_parameters(model, embeddings=False))
    whole = Budget.parse(budget)
    if whole.kind == "tokens":
        batch = min(batch, _power(whole.amount / MIN_STEPS_OF_TOKEN_BUDGET, math.floor))
    batch = max(batch, max_length)
    ramp, top = f"{batch} -> {min(8 * batch, MAX_BATCH)} linear @ 10%", min(8 * batch, MAX_BATCH)
    train: dict[str, Any] = {"batch_tokens": batch if batch < RAMP_FROM or top <= batch else f"{ramp}; {top}"}
    if batch >= RAMP_FROM:
        train["micro_batch_tokens"] = max(32_768, max_length)
    return {"model": sizes, "optim": {"lr": default_lr(model.width)}, "train": train}


def default_lr(width: int) -> float:
    """The peak rate of a model so wide."""
    return float(f"{min(LR_TIMES_WIDTH / width, MAX_LR):.2g}")


def _at(width: int, like: ModelSettings) -> ModelSettings:
    inner = (
        None
        if like.intermediate_size is None
        else max(HEAD, round(like.intermediate_size / like.width * width / HEAD) * HEAD)
    )
    depth = max(2, round(width / ASPECT))
    return dataclasses.replace(
        like, width=width, depth=depth, heads=width // HEAD, head_size=None, intermediate_size=inner
    )


def _batch(parameters: int) -> int:
    return min(max(MIN_BATCH, _power(MIN_BATCH * parameters / MIN_BATCH_PARAMETERS, round)), MAX_BATCH)


def _power(value: float, to_whole: Any) -> int:
    """The power of two next to `value`."""
    return int(2 ** max(to_whole(math.log2(max(value, 1.0))), 0))
