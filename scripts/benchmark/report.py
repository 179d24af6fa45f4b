"""The table, the JSON and the chart of one run."""

import html
from statistics import median

SLOW = 0.2  # GB/s; below, a row is in MB/s
COLOURS = {"raw file": "#8c8c8c", "nullfs": "#d09a2d", "moefs": "#2f6fb5"}
OTHER_COLOURS = ["#4a9d66", "#a84f9c", "#b5482f", "#5f5f9f"]


def ratio(results, system, base):
    """The median of the ratios within each repetition, where neighbours in time are compared."""
    a, b = results.get(system), results.get(base)
    if not a or not b or system == base:
        return None
    return median(x["rate"] / y["rate"] for x, y in zip(a, b))


def summary(results):
    """{system: {"rate", "cpu"...}} of the medians of one row."""
    found = {}
    for system, runs in results.items():
        found[system] = {key: median(run[key] for run in runs) for key in runs[0]}
        for base in ("raw file", "nullfs", "moefs"):
            if (value := ratio(results, system, base)) is not None:
                found[system][f"to {base}"] = value
    return found


def print_row_table(title, rows, systems):
    """rows: {label: {system: [run, ...]}}. A cell is the rate, and CPU-seconds per GB behind it; the last two say how many
    bytes moefs read of the source, and how many came from the disk, for each byte that was asked for."""
    has = [base for base in ("nullfs", "raw file") if base in systems]
    others = systems[systems.index("moefs") + 1 :]
    ratios = [("moefs", base) for base in has]
    ratios += [(system, "raw file" if system == "passthrough" else "moefs") for system in others]
    print(f"\n### {title}\n")
    print("| " + " | ".join(["GB/s (CPU s/GB)", *systems, *(f"{a} / {b}" for a, b in ratios), "source read", "from disk"]) + " |")
    print("|" + "---|" * (3 + len(systems) + len(ratios)))
    for label, results in rows.items():
        medians = summary(results)
        slow = max(value["rate"] for value in medians.values()) < SLOW
        cells = [label + (", MB/s" if slow else "")]
        for system in systems:
            value = medians.get(system)
            cells.append(f"{value['rate'] * (1000 if slow else 1):.2f} ({value['cpu']:.2f})" if value else "")
        for system, base in ratios:
            value = medians.get(system, {}).get(f"to {base}")
            cells.append(f"{value:.2f}" if value else "")
        cells += [f"{medians['moefs'][key]:.2f}" for key in ("amplification", "from disk")]
        print("| " + " | ".join(cells) + " |", flush=True)


def print_plain_table(title, header, rows):
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def bars(panel, systems, colours, x, y, width):
    """SVG of one panel: a group of bars a row."""
    title, rows = panel
    parts = [f'<text x="{x}" y="{y - 14}" class="title">{html.escape(title)}</text>']
    top = max(value["rate"] for row in rows.values() for value in row.values())
    at = y
    for label, row in rows.items():
        parts.append(f'<text x="{x + 240}" y="{at + 9 * len(row) / 2 + 4}" text-anchor="end">{html.escape(label)}</text>')
        for system in systems:
            if system not in row:
                continue
            length = max(1, row[system]["rate"] / top * width)
            parts.append(f'<rect x="{x + 250}" y="{at}" width="{length:.1f}" height="8" fill="{colours[system]}"/>')
            parts.append(f'<text x="{x + 255 + length:.1f}" y="{at + 8}" class="value">{row[system]["rate"]:.2f}</text>')
            at += 9
        at += 8
    return parts, at


def write_svg(path, panels, systems, subtitle):
    """panels: [(title, {label: {system: summary}})], one below the other; random reads do not fit the scale."""
    others = iter(OTHER_COLOURS * len(systems))
    colours = {system: COLOURS.get(system) or next(others) for system in systems}
    parts, y = [], 60
    legend_x = 24
    for system in systems:
        parts.append(f'<rect x="{legend_x}" y="16" width="12" height="12" fill="{colours[system]}"/>')
        parts.append(f'<text x="{legend_x + 17}" y="26">{html.escape(system)}</text>')
        legend_x += 40 + 8 * len(system)
    for panel in panels:
        more, y = bars(panel, systems, colours, 24, y + 20, 430)
        parts += more
        y += 24
    parts.append(f'<text x="24" y="{y}" class="value">{html.escape(subtitle)}</text>')
    style = "text{font:12px sans-serif;fill:#333}.title{font-weight:bold}.value{font-size:10px;fill:#666}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {y + 16}" width="780" height="{y + 16}">\n')
        file.write(f'<style>{style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n')
        file.write("\n".join(parts) + "\n</svg>\n")
