#!/usr/bin/env python3
"""Measures what TokenJoule costs, and its peers in the same run; prints one table and writes it as JSON.

    run.py --library DIR --work DIR [--quick] [--no-peers]

One row is one bar, or a figure that is good to know. Nothing is subtracted: the clock's own cost is in every time.
BENCH_5M=0 in the environment leaves out the database of 5,000,000 records, which takes 3 GB for a while.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
REFERENCE = "openjarvis==1.0.4"
MS = 1e6  # in ns


def run(*command):
    """Runs a command and gives the JSON objects that it prints, one a line."""
    command = [str(part) for part in command]
    print("  " + " ".join(os.path.basename(part) for part in command if part[0] != "["), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


class Bench:
    """Where everything is, and the rows so far."""

    def __init__(self, library, work, quick):
        self.library, self.work, self.quick = library.resolve(), work.resolve(), quick
        self.databases = self.work / "databases"
        self.databases.mkdir(parents=True, exist_ok=True)
        self.rows = []
        for name in ("record", "aggregate", "call", "energy"):
            self.compile(name)

    def compile(self, name):
        flags = ["-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O2", "-pthread", "-D_POSIX_C_SOURCE=200809L"]
        # Old-style, because that comes before an LD_LIBRARY_PATH in which another library may lie.
        rpath = f"-Wl,--disable-new-dtags,-rpath,{self.library}"
        compiler = os.environ.get("CC", "cc").split()
        compiler += [*flags, "-I", HERE.parent / "include", HERE / f"{name}.c", "-o", self.work / name]
        subprocess.run([*compiler, "-L", self.library, "-ltokenjoule", rpath], check=True)

    def ours(self, program, *arguments):
        """Runs a benchmark of ours; gives its lines by what they are about."""
        return {line["what"]: line for line in run(self.work / program, *arguments)}

    def often(self, full, quick):
        """How often something is done, or how many there are."""
        return quick if self.quick else full

    def fresh(self, name):
        """A path where no database is."""
        for file in self.databases.glob(f"{name}*"):
            file.unlink()
        return self.databases / name

    def row(self, id, what, value, unit, bar="", most=None, least=None, peers=(), details=None, note=""):
        """Adds a row. `most` and `least` are what the value may be at most and must be at least."""
        met = None
        if value is not None and (most is not None or least is not None):
            met = (most is None or value <= most) and (least is None or value >= least)
        for peer in peers:
            if peer["value"] is not None:
                is_rate = unit == "/s"
                peer["ratio"] = value / peer["value"] if is_rate else peer["value"] / value
        self.rows.append(
            {"id": id, "what": what, "value": value, "unit": unit, "bar": bar, "met": met, "peers": list(peers)}
            | {"details": details or {}, "note": note}
        )


# ---- the peers -------------------------------------------------------------------------------------------------------


class Peer:
    """A peer's program, or why there is none."""

    def __init__(self, command, missing):
        self.command, self.missing = command, missing

    def __call__(self, *arguments):
        """What it prints, or why it prints nothing."""
        if self.missing:
            return self.missing
        try:
            return run(*self.command, *arguments)[0]
        except (subprocess.CalledProcessError, OSError, IndexError) as error:
            return f"not measured: {error.__class__.__name__}"


def figure(name, measured, field="median_ns"):
    """A peer's figure in a row; `measured` is what the peer gave."""
    if isinstance(measured, str):
        return {"name": name, "value": None, "ratio": None, "note": measured}
    return {"name": name, "value": measured[field], "ratio": None, "note": ""}


def reference(bench):
    """The reference implementation, in a virtual environment."""
    environment = bench.work / REFERENCE
    python = environment / "bin/python"

    def works():
        probe = [python, "-c", "import openjarvis.telemetry"]
        return python.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0

    missing = ""
    if not works():
        print(f"  installing {REFERENCE}", file=sys.stderr)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            venv.create(environment, with_pip=True, clear=True)
            for packages in (["httpx"], ["--no-deps", REFERENCE]):  # its telemetry needs no more of what it asks for
                subprocess.run([*pip, *packages], check=True)
            missing = "" if works() else "not measured: does not run on this Python"
        except (subprocess.CalledProcessError, OSError) as error:
            missing = f"not measured: cannot be installed ({error.__class__.__name__})"
    return Peer([python, HERE / "reference.py"], missing)


def rust(bench):
    """The peers in Rust, a crate of their own."""
    print("  building benches/peers", file=sys.stderr)
    cargo = [os.environ.get("CARGO", "cargo"), "build", "--quiet", "--release", "--locked"]
    cargo += ["--manifest-path", HERE / "peers/Cargo.toml", "--target-dir", bench.work / "peers"]
    missing = ""
    try:
        subprocess.run(cargo, check=True)
    except (subprocess.CalledProcessError, OSError) as error:
        missing = f"not measured: cannot be built ({error.__class__.__name__})"
    return Peer([bench.work / "peers/release/peers"], missing)


# ---- the rows --------------------------------------------------------------------------------------------------------


def recording(bench, reference, rust):
    """Gives a database of ours, for the peers to record the same calls."""
    samples, like = bench.often(200_000, 5_000), bench.fresh("hot.db")
    hot = bench.ours("record", "hot", like, samples)["record.hot"]
    python = reference("record", like, bench.fresh("reference.db"), bench.often(100_000, 2_000))
    span = rust("span", bench.often(100_000, 2_000))
    cold = bench.ours("record", "cold", bench.fresh("cold.db"), bench.often(2_000, 50))["record.cold"]
    threads = bench.ours("record", "threads", bench.fresh("threads.db"), samples)["record.threads"]

    clock = hot["clock_ns"]
    bench.row("clock", "clock_gettime(CLOCK_MONOTONIC)", clock, "ns")
    for name, label, bar, most in (
        ("median", "median", f"≤ 100 ns, or 5 clock reads: {5 * clock:.0f} ns", max(100, 5 * clock)),
        ("p99", "p99", "≤ 500 ns", 500),
        ("p999", "p99.9", "≤ 5 µs", 5_000),
    ):
        field = f"{name}_ns"
        peers = [figure("reference, record", python, field), figure("OpenTelemetry Rust, span", span, field)]
        if name == "median":  # the reference commits every 50th time, of which its median knows nothing
            peers.insert(1, figure("reference, record: mean", python, "mean_ns"))
        bench.row(f"record.hot.{name}", f"tj_record, hot: {label}", hot[field], "ns", bar, most, None, peers, hot)
    what = "tj_record, caches walked over: median"
    bench.row("record.cold.median", what, cold["median_ns"], "ns", "≤ 1.5 µs", 1_500, details=cold)
    what = "tj_record, 4 threads, hot: median"
    bench.row("record.threads.median", what, threads["median_ns"], "ns", "≤ 250 ns", 250, details=threads)
    what, spread = "    its slowest thread / its fastest", threads["slowest_ns"] / threads["fastest_ns"]
    bench.row("record.threads.fairness", what, spread, "×", "≤ 2: no thread starves", 2, details=threads)
    return like


def sustained(bench, rust, like):
    records, ours, plain = bench.often(500_000, 10_000), [], []
    for _ in range(3):  # alternately, so that both see the same weather
        ours.append(bench.ours("record", "sustained", bench.fresh("sustained.db"), records)["sustained"]["per_second"])
        plain.append(rust("plain", like, bench.fresh("plain.db"), records))
    for name in ("sustained.db", "plain.db"):  # half a gigabyte
        bench.fresh(name)
    missing = next((why for why in plain if isinstance(why, str)), None)
    rates = [] if missing else [rate["per_second"] for rate in plain]
    peer = figure("rusqlite, plain inserts", missing or {"median": statistics.median(rates)}, "median")
    least = None if missing else 0.75 * peer["value"]
    what, details = f"tj_record until {records:,} are committed", {"ours": ours, "plain": rates}
    bench.row("sustained", what, statistics.median(ours), "/s", "≥ 0.75 × the peer", None, least, [peer], details)


def aggregating(bench, reference):
    """Gives what it took to fill the databases, by the number of their records."""
    small, middle, large = bench.often((100_000, 1_000_000, 5_000_000), (1_000, 2_000, 5_000))
    bars = {"everything": 2 * MS, "7 days": 5 * MS, "1 hour": 5 * MS}
    left_out = "left out (BENCH_5M=0)" if os.environ.get("BENCH_5M") == "0" else ""
    filled, medians = {}, {}
    for size, records in (("100k", small), ("1M", middle), ("5M", large)):
        database, asked = bench.fresh("aggregate.db"), None
        if size != "5M" or not left_out:
            filled[records] = bench.ours("aggregate", "fill", database, records)["fill"]
            asked = bench.ours("aggregate", "ask", database, bench.often(15, 3), bench.often(3, 1))
            if asked["everything"]["calls"] != records:
                raise SystemExit(f"tj_aggregate counts {asked['everything']['calls']} of {records} calls")
        for kind, most in bars.items():
            is_any = kind != "everything"
            what = f"tj_aggregate, {'any ' if is_any else ''}{kind} of {records:,}"
            bar, most = ("", None) if size == "100k" else (f"≤ {most / MS:.0f} ms", most)
            if asked is None:
                bench.row(f"aggregate.{kind}.{size}", what, None, "ns", bar, note=left_out)
                continue
            answer, peers = asked[kind], []
            medians[kind, records] = answer["median_ns"]
            if size != "5M":  # with so many the reference takes minutes
                python = reference("aggregate", database, json.dumps(answer["ranges"][: 3 if is_any else 1]))
                peers.append(figure(f"reference, {'per_model_stats' if is_any else 'summary'}", python))
            value = answer["worst_ns" if is_any else "median_ns"]  # any range: the worst of them counts
            bench.row(f"aggregate.{kind}.{size}", what, value, "ns", bar, most, None, peers, asked["open"] | answer)
    bench.fresh("aggregate.db")
    for kind in bars:
        what = f"    {kind}: {large:,} / {small:,}"
        growth = None if left_out else medians[kind, large] / medians[kind, small]
        bench.row(f"aggregate.{kind}.growth", what, growth, "×", "≤ 1.5", 1.5, note=left_out)
    return filled


def calls(bench, reference):
    tokens = bench.ours("call", "tokens", bench.fresh("tokens.db"), bench.often(1_000_000, 20_000))["tokens"]
    most = 2 * tokens["clock_ns"]
    bar = f"≤ 2 clock reads: {most:.0f} ns"
    bench.row("token", "tj_call_tokens", tokens["median_ns"], "ns", bar, most, details=tokens)

    generated = bench.ours("call", "generate", bench.fresh("generate.db"), bench.often(100_000, 2_000))
    python = reference("generate", bench.fresh("reference.db"), bench.often(50_000, 1_000))
    peers, heard = [figure("reference, instrumented_generate", python)], generated["generate"]
    what = "a call around an idle engine: median"
    bench.row("call", what, heard["median_ns"], "ns", "≤ 1 µs", 1_000, None, peers, heard)
    unheard, what = generated["generate.unheard"], "    with no listener but the store"
    bench.row("call.unheard", what, unheard["median_ns"], "ns", details=unheard)


def energy(bench):
    root = bench.work / "powercap"
    for socket in range(2):
        for zone, name in ((f"intel-rapl:{socket}", f"package-{socket}"), (f"intel-rapl:{socket}:0", "dram")):
            (root / zone).mkdir(parents=True, exist_ok=True)
            for file, text in (("name", name), ("energy_uj", 1), ("max_energy_range_uj", 65_532_610_987)):
                (root / zone / file).write_text(f"{text}\n")
    sampler = bench.ours("energy", root, bench.often(10, 1))["sampler"]
    what = f"energy sampler, {sampler['devices']} devices, of one core"
    bench.row("energy", what, sampler["share_pct"], "%", "≤ 0.5 %", 0.5, details=sampler)


def footprint(bench, filled):
    mib = {records: (fill["peak_kib"] - fill["rss_before_kib"]) / 1024 for records, fill in filled.items()}
    most = max(mib, key=mib.get)
    what = f"resident at most, {most:,} recorded and asked for"
    details = {f"{records}_mib": peak for records, peak in mib.items()}
    bench.row("memory", what, mib[most], "MiB", "≤ 32 MiB", 32, details=details)

    stripped = bench.work / "libtokenjoule.stripped.so"
    strip = [os.environ.get("STRIP", "strip"), "--strip-unneeded", "-o", stripped, bench.library / "libtokenjoule.so"]
    subprocess.run(strip, check=True)
    bench.row("library", "shared library, stripped", stripped.stat().st_size / 2**20, "MiB", "≤ 4 MiB", 4)


# ---- what comes of it ------------------------------------------------------------------------------------------------


def machine(clock):
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0))
    return {"cpu": next(names, platform.machine()), "cores": cores, "kernel": platform.release(), "clock_ns": clock}


def shown(value, unit):
    if value is None:
        return ""
    if unit == "ns":
        unit, value = next((u, value / f) for f, u in ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")) if value >= f)
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def print_table(rows):
    cells = [("", "ours", "bar", "", "peer", "the peer's", "times as good")]
    for row in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[row["met"]]
        left = (row["what"], row["note"] or shown(row["value"], row["unit"]), row["bar"], verdict)
        for peer in row["peers"] or [{"name": "", "note": "", "value": None, "ratio": None}]:
            ratio = "" if peer["ratio"] is None else f"{peer['ratio']:.2f}"
            cells.append((*left, peer["name"], peer["note"] or shown(peer["value"], row["unit"]), ratio))
            left = ("", "", "", "")
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in [cells[0], ["-" * width for width in widths], *cells[1:]]:
        print("  ".join(f"{cell:{align}{width}}" for cell, align, width in zip(line, "<><<<>>", widths)).rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--library", required=True, type=pathlib.Path, help="the folder with libtokenjoule.so")
    parser.add_argument("--work", required=True, type=pathlib.Path, help="where everything is built and written")
    parser.add_argument("--quick", action="store_true", help="small numbers: shows that it works, not what it costs")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out: they are downloaded")
    arguments = parser.parse_args()

    bench = Bench(arguments.library, arguments.work, arguments.quick)
    left_out = Peer([], "left out (--no-peers)")
    python, native = (left_out, left_out) if arguments.no_peers else (reference(bench), rust(bench))
    like = recording(bench, python, native)
    sustained(bench, native, like)
    filled = aggregating(bench, python)
    calls(bench, python)
    energy(bench)
    footprint(bench, filled)
    shutil.rmtree(bench.databases)

    about = machine(bench.rows[0]["value"])
    result = {"machine": about, "quick": bench.quick, "peers": not arguments.no_peers, "rows": bench.rows}
    written = bench.work / "bench.json"
    written.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, clock_gettime {about['clock_ns']:.1f} ns")
    if bench.quick:
        print("QUICK: so few of each that its figures mean nothing")
    if arguments.no_peers:
        print("the peers were left out (--no-peers)")
    print()
    print_table(bench.rows)
    bars = [row["met"] for row in bench.rows if row["bar"]]
    print(f"\nof {len(bars)} bars {bars.count(True)} met, {bars.count(False)} missed, {bars.count(None)} not measured")
    print(f"all figures: {written}")


if __name__ == "__main__":
    main()
