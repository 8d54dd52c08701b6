"""What people read: a table of medians and ratios, and a chart."""

from statistics import median

TITLES = {
    "tps": "tps",
    "failed": "failed",
    "cpu_us": "proxy µs/txn",
    "db_us": "db µs/txn",
    "client_us": "client µs/txn",
    "connects": "upstream connects",
    "time_wait": "TIME_WAIT",
    "rss_kb": "RSS kB",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "mb_s": "MB/s",
    "cpu_ms": "proxy ms",
    "bytes_per_client": "B/client",
    "idle_cpu_us_per_s": "idle µs/s",
    "burst_ms": "ms",
    "rss_start_kb": "RSS at start",
    "rss_warm_kb": "after 5 %",
    "rss_end_kb": "at the end",
    "start_ms": "ms",
}


def medians(runs):
    """The median of each figure over the runs of a case and peer."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def ratio(ours, theirs, name):
    """The median of a figure's ratio, run by run: runs of one round are neighbours, and met the machine in one mood."""
    if name not in ours[0] or not all(run.get(name) for run in theirs):
        return None
    return median(a[name] / b[name] for a, b in zip(ours, theirs))


def shown(value):
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def table(results, cases, names):
    """Lines of text: a block per case, a line per peer, and pgferry's ratio to each other peer."""
    lines = []
    for case, peers in results.items():
        figures = {peer: medians(runs) for peer, runs in peers.items()}
        columns = [name for name in TITLES if any(name in one for one in figures.values())]
        lines += ["", cases[case][2]]
        rows = [["", *(TITLES[name] for name in columns)]]
        for peer, one in figures.items():
            rows.append([names[peer], *(shown(one[name]) if name in one else "" for name in columns)])
        for peer, runs in peers.items():
            if peer == "pgferry" or "pgferry" not in peers:
                continue
            ratios = [ratio(peers["pgferry"], runs, name) for name in columns]
            rows.append([f"pgferry : {names[peer]}", *("" if one is None else f"{one:.2f}" for one in ratios)])
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        for row in rows:
            first, *others = row
            cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
            lines.append("  " + "  ".join(cells).rstrip())
    return lines


BARS = [
    ("short", "tps", "short connections/s"),
    ("short-session", "tps", "short connections/s, session mode"),
    ("short-password", "tps", "the same with passwords"),
    ("short", "cpu_us", "proxy CPU µs each"),
    ("long-prepared", "tps", "transactions/s, prepared statements"),
    ("copy-out", "mb_s", "COPY out, MB/s"),
]
COLOURS = {"pgferry": "#0b7a75", "pgbouncer": "#8d99ae", "direct": "#d9822b"}


def chart(results, names, caption):
    """An SVG with a group of bars per figure, each group to its own scale."""
    width, left, bar, gap = 790, 280, 18, 22
    parts, y = [], 34
    for case, figure, title in BARS:
        peers = {peer: medians(runs).get(figure) for peer, runs in results.get(case, {}).items()}
        peers = {peer: value for peer, value in peers.items() if value is not None}
        if not peers:
            continue
        parts.append(f'<text x="0" y="{y + 13}" class="t">{title}</text>')
        most = max(peers.values())
        for peer, value in sorted(peers.items(), key=lambda item: item[0] != "pgferry"):
            length = max(1, round(value / most * (width - left - 190)))
            colour = COLOURS.get(peer, "#b56576")
            parts.append(f'<rect x="{left}" y="{y}" width="{length}" height="{bar - 4}" rx="2" fill="{colour}"/>')
            parts.append(f'<text x="{left + length + 6}" y="{y + 12}">{shown(value)} {names[peer]}</text>')
            y += bar
        y += gap - 6
    style = "text{font:12px system-ui,sans-serif;fill:#5c6470}.t{font-weight:600}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 6}" role="img">'
    title = f'<title>pgferry against its peers</title><text x="0" y="14">{caption}</text>'
    return f"{head}<style>{style}</style>{title}{''.join(parts)}</svg>\n"
