"""Which column plays which role for a task: told by the user, or guessed by its name; what was guessed is said.

Shapes: R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from encodery.base.errors import InputError, nearest
from encodery.base.parts import name_of
from encodery.finetune.tasks import Form, Task

NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "review", "content", "body", "message", "document", "passage", "utterance", "tweet"),
    "text_b": ("text_b", "text2", "text_2", "sentence2", "sentence_2", "hypothesis", "b", "second"),
    "label": ("label", "class", "category", "intent", "sentiment", "target", "topic", "gold", "answer", "y"),
    "labels": ("labels", "tags", "categories", "topics", "classes", "label"),
    "score": ("score", "similarity", "similarity_score", "rating", "stars", "relevance", "grade", "target", "label"),
    "tokens": ("tokens", "words", "token"),
    "tags": ("tags", "ner_tags", "bio", "ner", "pos_tags", "pos", "labels", "tag"),
    "spans": ("spans", "entities", "annotations"),
    "question": ("question", "query", "stem"),
    "context": ("context", "passage", "paragraph", "article", "document"),
    "answers": ("answers", "answer"),
    "choices": ("choices", "options", "endings", "candidates", "answers"),
    "query": ("query", "question", "search"),
}
FIRST = ("text_a", "text1", "text_1", "sentence1", "sentence_1", "premise", "a", "first", "text", "sentence")
"""Names of the first text of a pair."""


def guess(task: Task, columns: Sequence[str], given: Mapping[str, str], targets: bool) -> tuple[dict[str, str], str]:
    """Role -> column, and that in words.

    Raises `InputError` naming a column or role that is none, with the nearest, or what no column was found for.
    """
    roles = {role for form in task.forms for role in (*form.inputs, *form.targets)}
    for role, column in given.items():
        if role not in roles:
            raise InputError(
                f"columns.{role}: task '{name_of(task)}' has no such role.{nearest(role, roles)} "
                f"Known: {', '.join(sorted(roles))}."
            )
        if column not in columns:
            raise InputError(
                f"columns.{role} = {column}: the data has no such column.{nearest(column, columns)} "
                f"It has {', '.join(columns)}."
            )
    best: tuple[str, ...] = ()
    for form in task.forms:
        found = _fitted(form, columns, given, targets)
        wanted = (*form.inputs, *(form.targets if targets else ()))
        if len(found) == len(wanted) and set(given) <= {*form.inputs, *form.targets}:
            said = ", ".join(
                f"{role} = {column}" + (" (told)" if role in given else "") for role, column in found.items()
            )
            return found, said
        if not best or len(wanted) - len(found) < len(best):
            best = tuple(role for role in wanted if role not in found)
    raise InputError(
        f"task '{name_of(task)}': no column was found for {', '.join(best) or ', '.join(given)}; "
        f"the data has {', '.join(columns)}. Say which it is: columns.{(best or ('text',))[0]}=COLUMN."
    )


def _fitted(form: Form, columns: Sequence[str], given: Mapping[str, str], targets: bool) -> dict[str, str]:
    """The columns of a form's roles, as far as they are found; none is taken twice."""
    lower = {column.lower(): column for column in reversed(columns)}
    wanted = (*form.inputs, *(form.targets if targets else ()))
    found = {role: given[role] for role in wanted if role in given}
    for role in wanted:
        names = FIRST if role == "text" and "text_b" in form.inputs else NAMES.get(role, (role,))
        free = [lower[name] for name in names if name in lower and lower[name] not in found.values()]
        if role not in found and free:
            found[role] = free[0]
    return {role: found[role] for role in wanted if role in found}
