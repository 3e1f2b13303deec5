"""Probes: a smallest request of each operation, to check that an engine works and to measure its batch costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from encodery.base.errors import UserError
from encodery.serve.costs import CostProbe
from encodery.serve.served_model import InferenceRequest, ServedModel


def smallest_requests(
    name: str, operations: Mapping[str, ServedModel], info: Mapping[str, dict[str, Any]]
) -> dict[str, InferenceRequest]:
    """A smallest request of each operation of a model for which one is known; `info` is that of each operation."""
    inputs_of_task = info.get("predict", {}).get("inputs", ())
    candidates: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        *((operation, {"texts": ["a"]}, {}) for operation in ("embed", "sparse", "multi_vector")),
        *(("predict", {"rows": {role: ["a"] for role in roles}}, {}) for roles in inputs_of_task),
        ("fill", {"texts": [info.get("fill", {}).get("mask")]}, {}),
        ("search", {"query": "a"}, {"top_k": 1, "rerank": False}),
    ]
    requests: dict[str, InferenceRequest] = {}
    for operation, inputs, options in candidates:
        if operation not in operations or operation in requests:
            continue
        request = InferenceRequest(name, operation, inputs, options)
        try:
            if operations[operation].tokenize(request).units:
                requests[operation] = request
        except UserError:  # A task that needs more than one word of each role.
            continue
    return requests


def cost_probe(request: InferenceRequest, depends_on: Mapping[str, Any], info: Mapping[str, Any]) -> CostProbe:
    """How to measure the batch costs of an operation by longer and longer requests like its smallest one."""
    details = {"task": info.get("task"), "pooling": info.get("pooling")}
    return CostProbe(partial(_longer, request), {**depends_on, **details})


def one_probe_per_group(models: Mapping[str, ServedModel], probes: dict[str, CostProbe]) -> None:
    """Keep one probe of the models that share a batch group, since they share its batches."""
    seen: set[int] = set()
    for name in list(probes):
        group = models[name].batch_group
        if group is not None and id(group) in seen:
            del probes[name]
        seen.add(id(group))


def _longer(request: InferenceRequest, words: int) -> InferenceRequest:
    """The request with a text of `words` words; of a task that reads several texts the last one is that text."""
    text = ["a " * words]
    rows = dict(request.inputs.get("rows", {}))
    inputs: dict[str, Any] = {"rows": {**rows, list(rows)[-1]: text}} if rows else {"texts": text}
    return dataclasses.replace(request, inputs=inputs, options={**request.options, "truncate": "right"})
