"""The report of one counter: its own table, our summary, and what it leaves out; as text and as JSON."""

from utils.complexity.counters import COUNTERS
from utils.complexity.exact import analyse
from utils.complexity.reconcile import reconcile
from utils.core.files import RESULTS, write_json, write_text
from utils.core.text import si, table


def write_report(tool, network, card, max_depth=None, **options):
    """Run one counter, print its report, and write that to `results/complexity/<name>_complexity_<tool>.txt` and `.json`.

    The report is the tool's own table, complete or down to `max_depth`, then the summary. `options` go to the counter.
    """
    analysis = analyse(network, card.image_size, card.architecture)
    profile = COUNTERS[tool](network, card.image_size, **options)
    difference = reconcile(analysis, profile.counts, profile.macs)
    name, device = card.architecture, next(network.parameters()).device
    shown = "\n".join(line.rstrip() for line in profile.text(max_depth).splitlines())
    text = "\n\n".join((shown, _summary(profile, analysis, name, device), _left_out(difference, analysis)))
    print(f"{text}\n")  # first: it is not lost where the files cannot be written
    path = str(RESULTS / "complexity" / f"{card.result_name}_complexity_{tool}")
    write_text(f"{path}.txt", text + "\n")
    write_json(f"{path}.json", as_json(profile, analysis, difference, name, device))
    print(f"written to {path}.txt and .json")


def as_json(profile, analysis, difference, name, device):
    """What is known of one tool's count, ready for `write_json`."""
    return {
        "tool": profile.tool,
        "version": profile.version,
        "model": name,
        "input_shape": list(analysis.input_shape),
        "device": str(device),
        "parameters": analysis.parameters | {"by the tool": profile.parameters},
        "macs": profile.macs,
        "flops": 2 * profile.macs,
        "dmas": profile.dmas,
        "exact": {"macs": analysis.macs, "flops": analysis.flops},
        "difference": difference,
        "by_operator": profile.by_operator,
        "remarks": list(profile.remarks),
        "rows": profile.rows,
    }


def _summary(profile, analysis, name, device):
    shape = "×".join(map(str, analysis.input_shape))
    parameters = analysis.parameters
    lines = [
        f"{name}, input {shape}, {device}: {profile.tool} {profile.version}",
        f"  parameters          {parameters['all']:,} ({parameters['trainable']:,} of them trainable)",
        f"  MACs                {profile.macs:,} ({si(profile.macs, 'MAC', 5)})",
        f"  FLOPs               {2 * profile.macs:,} ({si(2 * profile.macs, 'FLOP', 5)}), 1 MAC = 2 FLOPs",
        f"  weights             {analysis.weight_bytes / 2**20:.2f} MiB (parameters and buffers)",
        f"  activations         {analysis.peak_bytes / 2**20:.2f} MiB at the peak of one inference, batch 1 (our count)",
    ]
    if profile.dmas is not None:
        lines.append(f"  DMAs                {profile.dmas:,} (elements read and written, by the tool's formulas)")
    lines += [f"  {operator:<19} {macs:,} MACs" for operator, macs in (profile.by_operator or {}).items()]
    return "\n".join([*lines, *profile.remarks])


def _left_out(difference, analysis):
    rows = [
        (row["module"] or "(the network)", row["type"], row["cause"], f"{row['flops']:,}") for row in difference["left_out"]
    ]
    missed = -difference["difference"]["not counted"]
    title = f"Left out by the tool: {missed:,} FLOPs, {missed / analysis.flops:.2%} of the exact {analysis.flops:,}"
    return f"{title}\n{table(('module', 'type', 'cause', 'FLOPs'), rows, '<<<>')}" if rows else "Left out by the tool: nothing"
