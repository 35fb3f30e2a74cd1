"""Why a counting tool differs from the exact count."""

from utils.complexity.formulas import CAUSES


def reconcile(analysis, counts, macs):
    """Why a tool's total differs from the exact count, in FLOPs (its MACs × 2); every figure is an integer.

    `counts` are the tool's MACs by (module path, cause) and `macs` is the total that it reports itself. Where a tool counts
    something for a (module, cause), the difference is charged to the cause; where it counts nothing, all of the exact count
    is charged to "not counted". Returns {"counted": {cause: FLOPs}, "difference": {cause or "not counted": FLOPs}, "total":
    2 · macs − exact, "unexplained": what the rows leave of it, "left_out": [{"module", "type", "cause", "flops"}]}.
    "unexplained" is 0 unless a tool's own total is not the sum of its parts.
    """
    exact = {(layer.module, cause): n for layer in analysis.layers for cause, n in layer.flops.items() if n}
    types = {layer.module: layer.type for layer in analysis.layers}
    counted = dict.fromkeys(CAUSES, 0)
    difference = dict.fromkeys((*CAUSES, "not counted"), 0)
    left_out = []
    for key in [*exact, *(key for key in counts if key not in exact)]:
        module, cause = key
        flops = 2 * counts.get(key, 0)
        counted[cause] += flops
        if flops:
            difference[cause] += flops - exact.get(key, 0)
        elif key in exact:
            difference["not counted"] -= exact[key]
            left_out.append({"module": module, "type": types[module], "cause": cause, "flops": exact[key]})
    total = 2 * macs - analysis.flops
    unexplained = total - sum(difference.values())
    return {"counted": counted, "difference": difference, "total": total, "unexplained": unexplained, "left_out": left_out}
