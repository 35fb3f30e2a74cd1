"""torchscan.crawl_module: formulas for the leaves of the module tree.

It counts products without bias; batch norm 2 · in; pooling as (k − 1) · out with k one side only of a window that is given
as one number; hard swish, SiLU, group norm nothing, whereupon it calls its totals partial.
"""

from collections import defaultdict
from importlib.metadata import version

from utils.complexity.counters.profile import COUNTERS, Profile, cause_of_module, copy_of, input_for, module_rows, whole


@COUNTERS.register("torchscan")
def count_torchscan(model, image_size, fields=None):
    """torchscan.crawl_module: formulas for the leaves of the module tree.

    `fields` are our receptive fields ({layer: Field}); they take the place of torchscan's own, which are each layer's kernel.
    """
    from torchscan import crawl_module
    from torchscan.utils import aggregate_info, format_info

    network = copy_of(model)
    report = crawl_module(network, args=(input_for(network, image_size),))
    modules, counts, extra, dmas = dict(model.named_modules()), defaultdict(int), {}, 0
    for layer in report["layers"]:
        path, metrics = layer["path"], layer["metrics"]
        known = {name: metrics[name]["known_value"] for name in ("macs", "dmas", "module_flops") if name in metrics}
        if known.get("macs"):
            counts[path, cause_of_module(modules[path])] += whole(known["macs"])
        dmas += known.get("dmas") or 0
        extra[path] = {
            "output_shape": layer["output"].get("shape"),
            "dmas": known.get("dmas"),
            "tool_flops": known.get("module_flops"),  # by its own formulas, not 2 · MACs
            "status": metrics["macs"]["status"] if "macs" in metrics else "container",
        }
        if fields is not None:
            size = fields[path].size if path in fields else None
            extra[path]["receptive_field"] = None if size is None else [None if s == float("inf") else s for s in size]
            metrics["receptive_field"] = {"status": "complete", "value": None if size is None else _Extent(max(size))}

    def text(max_depth):
        deepest = max(layer["depth"] for layer in report["layers"])
        view = report if max_depth is None else aggregate_info(report, min(max_depth, deepest))
        return format_info(view, receptive_field=fields is not None)

    totals = report["totals"]
    partial = sorted(
        {layer["type"] for layer in report["layers"] if layer["metrics"].get("macs", {}).get("status") == "partial"}
    )
    remarks = ['torchscan\'s "Param #" has the buffers in it, and its own FLOPs follow other formulas than 2 · MACs.']
    if partial:
        remarks.append(
            f"torchscan knows no {', '.join(partial)}: its totals are partial, and those here are the sums of its rows."
        )
    return Profile(
        tool="torchscan",
        version=version("torchscan"),
        macs=whole(totals["macs"]["known_value"]),
        counts=dict(counts),
        rows=module_rows(model, counts, extra),
        text=text,
        parameters=totals["parameters"]["value"],
        dmas=dmas,
        remarks=tuple(remarks),
    )


class _Extent(float):
    """A receptive field in pixels; the infinite one of a layer that sees the whole image prints as a word."""

    def __format__(self, spec):
        return "global" if self == float("inf") else super().__format__(spec)
