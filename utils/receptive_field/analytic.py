"""Receptive fields by analysis of the exported graph, from the image to every layer."""

import torch

from utils.core.errors import UserError
from utils.receptive_field import rules  # noqa: F401  they register themselves
from utils.receptive_field.graph import Analysis, Value
from utils.receptive_field.inspecting import device_of, inspecting
from utils.receptive_field.spans import HEIGHT, WIDTH, Field


def receptive_fields(model, image_size):
    """Field of every layer: {name as in `model.named_modules()`: Field}, in the order of execution, by graph analysis.

    `model` takes (1, 3, image_size, image_size) and is left as it was. A module called more than once has the field of its
    last call; modules that compute nothing at inference (Identity, StochasticDepth) are left out. Raises UserError for a
    model that torch.export refuses.
    """
    return analytic_fields(model, image_size)[0]


def analytic_fields(model, image_size):
    """`receptive_fields`, and what there is to say about them: ({name: Field}, [note, …])."""
    device = device_of(model)
    with inspecting(model), torch.no_grad():
        try:
            program = torch.export.export(model, (torch.zeros(1, 3, image_size, image_size, device=device),), strict=False)
        except Exception as error:  # whatever a model's forward or the tracer may raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            sentence = f"the graph of this model cannot be exported at {image_size} px ({reason})"
            raise UserError(f"{sentence}; try the gradient method or another image size", option="method") from None
    analysis = Analysis()
    results = analysis.run(program)
    fields = {}
    for name, node in _module_outputs(program.graph).items():
        value = results[node]
        if isinstance(value, Value) and value.spans:
            units, dims = ((of(HEIGHT), of(WIDTH)) for of in (value.units, value.dim))
            fields[name] = Field(*value.spans, units, dims)
    return fields, list(analysis.notes)


def _module_outputs(graph):
    """{module name: the node that leaves its last call}, in the order in which modules finish."""
    calls, last = {}, {}
    for node in graph.nodes:
        for key, (name, _) in (node.meta.get("nn_module_stack") or {}).items():
            calls.setdefault(key, []).append(node)
            last[name] = key
    outputs = {}
    for name, key in last.items():
        members = set(calls[key])
        leaving = [node for node in calls[key] if any(user not in members for user in node.users)]
        if name and leaving:
            outputs[name] = leaving[-1]
    order = {node: i for i, node in enumerate(graph.nodes)}
    return dict(sorted(outputs.items(), key=lambda item: (order[item[1]], -item[0].count("."))))
