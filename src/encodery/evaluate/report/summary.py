"""Summarises a run in sentences: what was trained, on which data, for how long, how good it is and how fast it was."""

from __future__ import annotations

import math
from typing import Any

from encodery.evaluate.report.number_format import duration, number, percentage, plural, size
from encodery.evaluate.report.run_facts import RunFacts
from encodery.evaluate.report.run_metrics import final_train_loss

PLATEAU = 0.005
"""Relative decrease of the held-out loss, over the last fifth of the run, below which it has stopped falling."""
MIN_GAIN = 0.3
"""Nats that the held-out loss must be below the unigram baseline for the model to have learned more than it."""
OVERFITTING = 0.10
"""Relative excess of the held-out loss over the training loss above which the model overfits."""
EVALUATION_MASK_RATE = 0.15
EMBEDDING_METRICS = (
    ("ndcg", "nDCG@10 on held-out rows"),
    ("spearman", "rank correlation on held-out rows"),
    ("test_ndcg", "nDCG@10 on test rows"),
    ("test_spearman", "rank correlation on test rows"),
)


def summary(facts: RunFacts) -> list[str]:
    """Return sentences on model, quality, convergence, diagnostics and speed; what is not recorded is left out."""
    sentences = (_training(facts), _quality(facts), _convergence(facts), *_diagnostics(facts), _speed(facts))
    return [sentence for sentence in sentences if sentence]


def _training(facts: RunFacts) -> str:
    model = _model_settings(facts)
    count, tokens, elapsed = facts.metric("parameters"), facts.metric("tokens"), facts.metric("seconds", "elapsed")
    encoder = "An encoder"
    if count:
        encoder += f" with {number(count)} parameters"
    if model.get("depth") and model.get("width"):
        encoder += f" ({plural(int(model['depth']), 'layer')}, width {int(model['width'])})"
    parts = [encoder + ", trained"]
    if tokens:
        parts.append(f"on {number(tokens)} tokens")
    parts += _rows(facts) if _is_supervised(facts) else _text(facts, tokens)
    if elapsed:
        parts.append(f"in {duration(elapsed)}")
    machine = facts.metrics.get("machine")
    if isinstance(machine, dict) and machine.get("device"):
        parts.append(f"on {plural(machine.get('threads'), 'thread')} of {machine['device']}")
    return " ".join(parts) + "."


def _is_supervised(facts: RunFacts) -> bool:
    """Return whether the run trained a task or an encoder on rows; the text of its ancestors is then not its data."""
    return any(isinstance(facts.settings.get(kind), dict) for kind in ("task", "encoder"))


def _rows(facts: RunFacts) -> list[str]:
    rows, epochs = facts.metric("rows"), facts.metric("epoch")
    parts = [f"from {plural(int(rows), 'row')}"] if rows else []
    return parts + ([f"({_epochs(epochs)})"] if epochs else [])


def _epochs(epochs: float) -> str:
    return f"{number(epochs, 2)} {'epoch' if epochs == 1 else 'epochs'}"


def _text(facts: RunFacts, tokens: float | None) -> list[str]:
    parts = []
    store, corpus = facts.ancestor("tokens"), facts.ancestor("corpus")
    available = store.manifest.metrics.get("train", {}).get("tokens") if store is not None else None
    if tokens and available:
        parts.append(f"({_epochs(tokens / available)})")
    if corpus is not None:
        metrics = corpus.manifest.metrics
        parts.append(f"from {plural(metrics.get('documents'), 'document')} ({size(metrics.get('bytes'))} of text)")
    return parts


def _quality(facts: RunFacts) -> str:
    loss, accuracy = facts.metric("heldout_loss"), facts.metric("heldout_accuracy")
    if loss is None:
        if isinstance(facts.settings.get("task"), dict):
            return f"It was fine-tuned for the task '{facts.settings['task'].get('is')}'."
        if isinstance(facts.settings.get("encoder"), dict):
            values = [(label, facts.metric(name)) for name, label in EMBEDDING_METRICS]
            metrics = ", ".join(f"{label} {number(value)}" for label, value in values if value)
            return f"It was trained to embed texts{': ' if metrics else ''}{metrics}."
        return "Its quality on held-out text was not recorded."
    if not facts.predicts_tokens:
        objective = facts.settings.get("objective", {}).get("is", "unknown")
        measured = "" if accuracy is None else f" and its accuracy {percentage(accuracy)}"
        own = ", ".join(f"{name} {number(value)}" for name, value in facts.objective_metrics.items())
        more = f" ({own})" if own else ""
        return f"On held-out text the loss of its objective '{objective}' is {number(loss)}{measured}{more}."
    parts = [f"it predicts {percentage(accuracy)} of the masked tokens correctly"] if accuracy is not None else []
    parts.append(f"its perplexity is {number(math.exp(min(loss, 100.0)))}")
    parts.append(f"it needs {number(facts.metric('bits_per_byte'))} bits per byte")
    quality = f"On held-out text {_enumerate(parts)}."
    if facts.unigram is not None:
        baseline = facts.unigram
        quality += (
            f" The unigram baseline predicts {percentage(baseline.accuracy)} correctly, with a perplexity of "
            f"{number(math.exp(baseline.loss))}."
        )
        if loss > baseline.loss - MIN_GAIN:
            quality += " The model is hardly better than this baseline: it needs more training."
    return quality


def _enumerate(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _convergence(facts: RunFacts) -> str:
    losses = [(line.get("tokens", 0), line["heldout_loss"]) for line in facts.evaluations]
    if len(losses) < 4 or losses[-1][0] <= 0:
        return ""
    earlier = [loss for tokens, loss in losses if tokens <= 0.8 * losses[-1][0]]
    if not earlier:
        return ""
    last = losses[-1][1]
    decrease = (earlier[-1] - last) / earlier[-1]
    if decrease > PLATEAU:
        convergence = "The held-out loss was still falling at the end: more training would improve the model."
    elif decrease > -PLATEAU:
        convergence = "The held-out loss had stopped falling by the end."
    else:
        convergence = (
            "The held-out loss rose towards the end: the model was trained too long, or its learning rate is too high."
        )
    train_loss = final_train_loss(facts)
    if train_loss is not None and _mask_rates_agree(facts) and last > (1 + OVERFITTING) * train_loss:
        convergence += " Its loss is lower on the training text than on held-out text (overfitting): use more text."
    return convergence


def _diagnostics(facts: RunFacts) -> list[str]:
    """Return the assessments in the run's own metrics: its loss compared with other runs, and its bottleneck."""
    assessments = (facts.metrics.get(name) for name in ("loss_assessment", "bottleneck"))
    return [assessment for assessment in assessments if isinstance(assessment, str)]


def _mask_rates_agree(facts: RunFacts) -> bool:
    """Return whether training masked the same fraction of tokens as the evaluation, so that losses are comparable."""
    rates = [line["mask_rate"] for line in facts.steps[-20:] if "mask_rate" in line]
    return bool(rates) and abs(rates[-1] - EVALUATION_MASK_RATE) < 0.02


def _speed(facts: RunFacts) -> str:
    speed, utilisation = facts.metric("tokens_per_s"), facts.metric("mfu")
    if speed is None:
        return ""
    sentence = f"The training speed was {number(speed)} tokens per second"
    if utilisation is None:
        return f"{sentence}."
    return f"{sentence}, which is {percentage(utilisation)} of the machine's peak in a plain matrix product."


def _model_settings(facts: RunFacts) -> dict[str, Any]:
    """Return the settings of the model from the recipe or the manifest; empty if there are none."""
    settings = facts.settings.get("model")
    return settings if isinstance(settings, dict) else {}
