"""The run in words: what was trained, on what, for how long, how good it is, how fast it went."""

from __future__ import annotations

import math
from typing import Any

from encodery.evaluate.report.number_format import duration, number, plural, share, size
from encodery.evaluate.report.run_facts import RunFacts
from encodery.evaluate.report.run_metrics import late_loss

FLAT = 0.005  # A fall of the held-out loss, over the last fifth of the run, below which it counts as flat.
LITTLE = 0.3  # Nats below the loss of guessing by frequency, under which hardly anything was learnt.
APART = 0.10  # Held-out loss above the training loss by more than this share: it learns its text by heart.
OF_VECTORS = (
    ("ndcg", "nDCG@10 on held-out rows"),
    ("spearman", "rank correlation on held-out rows"),
    ("test_ndcg", "nDCG@10 on test rows"),
    ("test_spearman", "rank correlation on test rows"),
)


def summary(facts: RunFacts) -> list[str]:
    """Sentences, the first about the model, then quality, course and speed. What is not recorded is left out."""
    return [
        sentence
        for sentence in (_trained(facts), _quality(facts), _course(facts), *_doctor(facts), _speed(facts))
        if sentence
    ]


def _trained(facts: RunFacts) -> str:
    model = model_table(facts)
    count, tokens, elapsed = facts.metric("parameters"), facts.metric("tokens"), facts.metric("seconds", "elapsed")
    what = "An encoder"
    if count:
        what += f" of {number(count)} parameters"
    if model.get("depth") and model.get("width"):
        what += f" ({plural(int(model['depth']), 'layer')}, {int(model['width'])} wide)"
    parts = [what + ", trained"]
    if tokens:
        parts.append(f"on {number(tokens)} tokens")
    parts += _from_rows(facts) if _taught(facts) else _from_text(facts, tokens)
    if elapsed:
        parts.append(f"in {duration(elapsed)}")
    machine = facts.metrics.get("machine")
    if isinstance(machine, dict) and machine.get("device"):
        parts.append(f"on {plural(machine.get('threads'), 'thread')} of {machine['device']}")
    return " ".join(parts) + "."


def _taught(facts: RunFacts) -> bool:
    """Whether the run learnt a task or vectors from rows: what its ancestors were trained on is not what it was."""
    return any(isinstance(facts.settings.get(kind), dict) for kind in ("task", "encoder"))


def _from_rows(facts: RunFacts) -> list[str]:
    rows, epochs = facts.metric("rows"), facts.metric("epoch")
    told = [f"from {plural(int(rows), 'row')}"] if rows else []
    return told + ([f"({number(epochs, 2)} passes over the rows)"] if epochs else [])


def _from_text(facts: RunFacts, tokens: float | None) -> list[str]:
    parts = []
    store, corpus = facts.ancestor("tokens"), facts.ancestor("corpus")
    size_of = store.manifest.metrics.get("train", {}).get("tokens") if store is not None else None
    if tokens and size_of:
        parts.append(f"({number(tokens / size_of, 2)} passes over the text)")
    if corpus is not None:
        figures = corpus.manifest.metrics
        parts.append(f"from {plural(figures.get('documents'), 'document')} ({size(figures.get('bytes'))} of text)")
    return parts


def _quality(facts: RunFacts) -> str:
    loss, accuracy, bits = (facts.metric(n) for n in ("heldout_loss", "heldout_accuracy", "bits_per_byte"))
    if loss is None:
        if isinstance(facts.settings.get("task"), dict):
            return f"It was fine-tuned for the task '{facts.settings['task'].get('is')}'."
        if isinstance(facts.settings.get("encoder"), dict):
            told = [f"{words} {number(facts.metric(name))}" for name, words in OF_VECTORS if facts.metric(name)]
            return f"It was trained to embed texts{': ' if told else ''}{', '.join(told)}."
        return "Its quality on held-out text was not recorded."
    said = "On held-out text it "
    said += f"gets {share(accuracy)} of the hidden tokens right" if accuracy is not None else "was measured"
    said += f", with a perplexity of {number(math.exp(min(loss, 100.0)))}"
    said += f" and {number(bits)} bits per byte." if bits is not None else "."
    if facts.unigram is not None:
        guess = facts.unigram
        said += (
            f" Guessing by frequency alone would get {share(guess.accuracy)} right, "
            f"with a perplexity of {number(math.exp(guess.loss))}."
        )
        if loss > guess.loss - LITTLE:
            said += " So far it has learnt little more than these frequencies: it needs more training."
    return said


def _course(facts: RunFacts) -> str:
    scores = [(line.get("tokens", 0), line["heldout_loss"]) for line in facts.scores]
    if len(scores) < 4 or scores[-1][0] <= 0:
        return ""
    before = [loss for tokens, loss in scores if tokens <= 0.8 * scores[-1][0]]
    if not before:
        return ""
    last = scores[-1][1]
    fall = (before[-1] - last) / before[-1]
    said = (
        "The held-out loss was still falling at the end: more training would make it better."
        if fall > FLAT
        else "The held-out loss had stopped falling by the end."
        if fall > -FLAT
        else "The held-out loss rose towards the end: the model was trained too long, or its learning rate is too high."
    )
    late = late_loss(facts)
    if late is not None and _masks_as_scored(facts) and last > (1 + APART) * late:
        said += " It does better on the text it was trained on than on held-out text: more text would help."
    return said


def _doctor(facts: RunFacts) -> list[str]:
    """What the run said of itself: how its loss compares with that of other runs, what its steps were bound by."""
    return [
        said
        for said in (facts.metrics.get(name) for name in ("loss_assessment", "bottleneck"))
        if isinstance(said, str)
    ]


def _masks_as_scored(facts: RunFacts) -> bool:
    """Whether training hid as many tokens as the scoring does, so that the two losses can be compared."""
    rates = [line["mask_rate"] for line in facts.steps[-20:] if "mask_rate" in line]
    return bool(rates) and abs(rates[-1] - 0.15) < 0.02


def _speed(facts: RunFacts) -> str:
    speed, peak = facts.metric("tokens_per_s"), facts.metric("mfu")
    if speed is None:
        return ""
    said = f"It went through {number(speed)} tokens a second"
    return said + (
        f", at {share(peak)} of what the machine reaches in a plain matrix product." if peak is not None else "."
    )


def model_table(facts: RunFacts) -> dict[str, Any]:
    """The settings of the model, of the recipe or of the model's manifest."""
    table = facts.settings.get("model")
    return table if isinstance(table, dict) else {}
