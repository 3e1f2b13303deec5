"""Sizes by rule: width, depth, learning rate and batch of a model with a given number of parameters.

Width is a multiple of 64, heads have size 64, and there is one layer for every 36 of width, about as in ModernBERT-base
(22 layers of width 768). The peak learning rate is 0.512 / width, at most 3e-3. A step has 2,048 tokens up to 2.6 M
parameters outside the embeddings and proportionally more beyond, rounded to a power of two; from 65,536 tokens on it
grows from there to eight times as many, at most 524,288, in the first tenth of the run. With a budget in tokens there
are at least 500 steps. The rules for learning rate and batch pass through the recipes tiny, mini and small; beyond
these they are not measured."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from encodery.base.errors import SettingsError
from encodery.model import count
from encodery.model.settings import ModelSettings
from encodery.train.budget import Budget

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
HEAD_SIZE = 64
ASPECT = 36  # width per layer
MAX_WIDTH = 4096
LR_TIMES_WIDTH, MAX_LR = 0.512, 3e-3
MIN_BATCH, MIN_BATCH_PARAMETERS = 2048, 2.6e6
RAMP_FROM, MAX_BATCH = 65_536, 524_288
MIN_STEPS_OF_TOKEN_BUDGET = 500


def parse_size(size: str) -> int:
    """`30M` → 30,000,000. Raises `SettingsError`."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmb]?)", size.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise SettingsError(f"size '{size}': must be a number of parameters, such as 1M, 30M or 0.4B.")
    return round(float(match[1]) * UNITS[match[2]])


def model_for_size(size: str, like: ModelSettings) -> ModelSettings:
    """`like` with the width and depth that come closest to `size` parameters, embeddings counted; the feed-forward
    layers keep their ratio to the width. Raises `SettingsError` if even the narrowest model is more than half too
    large."""
    target = parse_size(size)
    for name in ("layers", "layer_groups"):
        if getattr(like, name):
            raise SettingsError(
                f"size {size}: model.{name} lists {like.depth} layers, whose number a size would change. Give one of "
                "the two."
            )
    best = _at_width(HEAD_SIZE, like)
    for width in range(2 * HEAD_SIZE, MAX_WIDTH + 1, HEAD_SIZE):
        if count.num_parameters(best) >= target:
            break
        best = min(best, _at_width(width, like), key=lambda model: abs(math.log(count.num_parameters(model) / target)))
        if best.width != width:
            break
    parameters = count.num_parameters(best)
    layer = count.num_parameters(dataclasses.replace(best, depth=best.depth + 1)) - parameters
    best = dataclasses.replace(best, depth=max(2, best.depth + round((target - parameters) / layer)))
    if count.num_parameters(best) > 1.5 * target:
        raise SettingsError(
            f"size {size}: with a vocabulary of {like.vocab_size:,} even a model of width {best.width} has "
            f"{count.num_parameters(best) / 1e6:.1f} M parameters. Train a smaller vocabulary, or choose a larger size."
        )
    return best


def settings_for_size(size: str, like: ModelSettings, budget: str, max_length: int) -> dict[str, Any]:
    """The settings that `size` decides, as overrides of a recipe whose model is `like` and whose sequences have at most
    `max_length` tokens."""
    model = model_for_size(size, like)
    sizes = {name: getattr(model, name) for name in ("width", "depth", "heads", "head_size", "intermediate_size")}
    batch = _batch_tokens(count.num_parameters(model, embeddings=False))
    whole = Budget.parse(budget)
    if whole.kind == "tokens":
        batch = min(batch, _power_of_two(whole.amount / MIN_STEPS_OF_TOKEN_BUDGET, math.floor))
    batch = max(batch, max_length)
    top = min(8 * batch, MAX_BATCH)
    ramps = batch >= RAMP_FROM and top > batch
    train: dict[str, Any] = {"batch_tokens": f"{batch} -> {top} linear @ 10%; {top}" if ramps else batch}
    if batch >= RAMP_FROM:
        train["micro_batch_tokens"] = max(32_768, max_length)
    return {"model": sizes, "optim": {"lr": default_lr(model.width)}, "train": train}


def default_lr(width: int) -> float:
    """The peak learning rate of a model of this width."""
    return float(f"{min(LR_TIMES_WIDTH / width, MAX_LR):.2g}")


def _at_width(width: int, like: ModelSettings) -> ModelSettings:
    inner = like.intermediate_size
    if inner is not None:
        inner = max(HEAD_SIZE, round(inner / like.width * width / HEAD_SIZE) * HEAD_SIZE)
    depth, heads = max(2, round(width / ASPECT)), width // HEAD_SIZE
    return dataclasses.replace(like, width=width, depth=depth, heads=heads, head_size=None, intermediate_size=inner)


def _batch_tokens(parameters: int) -> int:
    return min(max(MIN_BATCH, _power_of_two(MIN_BATCH * parameters / MIN_BATCH_PARAMETERS, round)), MAX_BATCH)


def _power_of_two(value: float, to_whole: Callable[[float], int]) -> int:
    """A power of two near `value`; `to_whole` rounds its exponent."""
    return int(2 ** max(to_whole(math.log2(max(value, 1.0))), 0))
