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
from encodery.model.network import ModelSettings
from encodery.train.budget import Budget

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
HEAD = 64
ASPECT = 36  # of width for a layer
WIDEST = 4096
RATE, HIGHEST = 0.512, 3e-3
BATCH, BATCH_AT = 2048, 2.6e6
RAMPED, LARGEST = 65_536, 524_288
STEPS = 500


def parse(size: str) -> int:
    """`30M` → 30,000,000. Raises `SettingsError`."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmb]?)", size.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise SettingsError(f"size '{size}': write how many parameters, such as 1M, 30M or 0.4B.")
    return round(float(match[1]) * UNITS[match[2]])


def model_of(size: str, like: ModelSettings) -> ModelSettings:
    """`like` with the width and depth that come nearest to `size` parameters, tables counted; the feed-forward layers
    keep their share of the width. Raises `SettingsError` where even the narrowest is more than half too large."""
    wanted = parse(size)
    best = _at(HEAD, like)
    for width in range(2 * HEAD, WIDEST + 1, HEAD):
        if count.parameters(best) >= wanted:
            break
        best = min(best, _at(width, like), key=lambda each: abs(math.log(count.parameters(each) / wanted)))
        if best.width != width:
            break
    found = count.parameters(best)
    layer = count.parameters(dataclasses.replace(best, depth=best.depth + 1)) - found
    best = dataclasses.replace(best, depth=max(2, best.depth + round((wanted - found) / layer)))
    if count.parameters(best) > 1.5 * wanted:
        raise SettingsError(
            f"size {size}: with a vocabulary of {like.vocab:,} even a model of width {best.width} has "
            f"{count.parameters(best) / 1e6:.1f} M parameters. Train a smaller vocabulary, or ask for more."
        )
    return best


def settings_of(size: str, like: ModelSettings, budget: str, longest: int) -> dict[str, Any]:
    """The settings that `size` decides, to be laid over a recipe whose model is `like` and whose sequences have at most
    `longest` tokens."""
    model = model_of(size, like)
    sizes = {name: getattr(model, name) for name in ("width", "depth", "heads", "head_size", "inner")}
    batch = _batch(count.parameters(model, tables=False))
    whole = Budget.parse(budget)
    if whole.kind == "tokens":
        batch = min(batch, _power(whole.amount / STEPS, math.floor))
    batch = max(batch, longest)
    ramp, top = f"{batch} -> {min(8 * batch, LARGEST)} linear @ 10%", min(8 * batch, LARGEST)
    train: dict[str, Any] = {"batch_tokens": batch if batch < RAMPED or top <= batch else f"{ramp}; {top}"}
    if batch >= RAMPED:
        train["micro_tokens"] = max(32_768, longest)
    return {"model": sizes, "optim": {"lr": usual_rate(model.width)}, "train": train}


def usual_rate(width: int) -> float:
    """The peak rate of a model so wide."""
    return float(f"{min(RATE / width, HIGHEST):.2g}")


def _at(width: int, like: ModelSettings) -> ModelSettings:
    inner = None if like.inner is None else max(HEAD, round(like.inner / like.width * width / HEAD) * HEAD)
    depth = max(2, round(width / ASPECT))
    return dataclasses.replace(like, width=width, depth=depth, heads=width // HEAD, head_size=None, inner=inner)


def _batch(parameters: int) -> int:
    return min(max(BATCH, _power(BATCH * parameters / BATCH_AT, round)), LARGEST)


def _power(value: float, to_whole: Any) -> int:
    """The power of two next to `value`."""
    return int(2 ** max(to_whole(math.log2(max(value, 1.0))), 0))
