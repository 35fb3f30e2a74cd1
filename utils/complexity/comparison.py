"""The exact count and all counters side by side: as one dict, and as text."""

import torch

from utils.complexity.counters import COUNTERS
from utils.complexity.exact import analyse, measure_peak_bytes
from utils.complexity.formulas import CAUSES, PRODUCTS
from utils.complexity.reconcile import reconcile
from utils.core.text import plural, table


def measure(network, name, image_size):
    """The exact count and what every counter says of a network, on the device that it is on: one dict for JSON."""
    analysis = analyse(network, image_size, name)
    device = next(network.parameters()).device
    tools = {}
    for tool, count in COUNTERS.items():
        profile = count(network, image_size)
        tools[tool] = {
            "version": profile.version,
            "parameters": profile.parameters,
            "macs": profile.macs,
            "flops": 2 * profile.macs,
            "dmas": profile.dmas,
            "remarks": list(profile.remarks),
        } | reconcile(analysis, profile.counts, profile.macs)
    return {
        "model": name,
        "input_shape": list(analysis.input_shape),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "exact": {
            "parameters": analysis.parameters,
            "macs": analysis.macs,
            "flops": analysis.flops,
            "dmas": analysis.elements_moved,
            "flops_by_cause": analysis.flops_by_cause,
            "unknown_operators": analysis.unknown,
        },
        "memory": {
            "weight_bytes": analysis.weight_bytes,
            "peak_activation_bytes": analysis.peak_bytes,
            "peak_activation_bytes_eager": analysis.eager_peak_bytes,
            "peak_activation_bytes_measured": measure_peak_bytes(network, image_size) if device.type == "cuda" else None,
            "bytes_moved": analysis.bytes_moved,
            "flops_per_byte": analysis.intensity,
        },
        "tools": tools,
        "layers": [
            {
                "module": layer.module,
                "type": layer.type,
                "kind": _kind(layer),
                "output_shape": layer.output_shape,
                "parameters": layer.parameters,
                "macs": layer.macs,
                "flops": dict(layer.flops),
                "bytes": layer.bytes,
            }
            for layer in analysis.layers
        ],
    }


def _kind(layer):
    return next((cause for cause in (*PRODUCTS, "normalisation") if layer.flops[cause]), "other")


def describe(result):
    """The measurements as text."""
    exact, tools = result["exact"], result["tools"].values()
    header = ("", "exact", *result["tools"])
    causes = [cause for cause in CAUSES if exact["flops_by_cause"][cause] or any(tool["counted"][cause] for tool in tools)]
    totals = [
        ("parameters", exact["parameters"]["all"], *(tool["parameters"] for tool in tools)),
        *((name, exact[name.lower()], *(tool[name.lower()] for tool in tools)) for name in ("MACs", "FLOPs", "DMAs")),
    ]
    counted = [
        *((cause, exact["flops_by_cause"][cause], *(tool["counted"][cause] for tool in tools)) for cause in causes),
        ("sum", exact["flops"], *(sum(tool["counted"].values()) for tool in tools)),
    ]
    differences = [
        *((name, *(tool["difference"][name] for tool in tools)) for name in (*causes, "not counted")),
        *([("unexplained", *(tool["unexplained"] for tool in tools))] if any(tool["unexplained"] for tool in tools) else []),
        ("sum", *(tool["total"] for tool in tools)),
    ]
    return f"""{result["model"]}, input {"×".join(map(str, result["input_shape"]))}, {result["device"]}

{table(header, map(_figures, totals))}

FLOPs by cause: the exact count, and 2 × the MACs that each tool files there
{table(header, map(_figures, counted))}

Difference from the exact FLOPs, by cause: too much (+) or too little (−) of what the tool counts
{table(header[:1] + header[2:], [_figures(row, "+") for row in differences])}

{_memory(result["memory"])}""" + "".join(
        f"\nNot in our table of operators, counted as 0: {name} ({plural(calls, 'call')})"
        for name, calls in exact["unknown_operators"].items()
    )


def _figures(row, sign=""):
    name, *values = row
    return name, *("–" if value is None else f"{value:{sign if value else ''},}" for value in values)


def _memory(memory):
    measured = memory["peak_activation_bytes_measured"]
    return f"""Weights                    {_mib(memory["weight_bytes"])} (parameters and buffers)
Peak activations, batch 1  {_mib(memory["peak_activation_bytes"])} by liveness over the graph
                           {_mib(memory["peak_activation_bytes_eager"])} as eager PyTorch holds them
                           {"not measured (no GPU)" if measured is None else _mib(measured) + " measured, work space included"}
Memory traffic             {_mib(memory["bytes_moved"])} unfused
Arithmetic intensity       {memory["flops_per_byte"]:.2f} FLOPs a byte"""


def _mib(size):
    return f"{size / 2**20:.2f} MiB"
