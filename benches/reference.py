"""What TokenJoule is measured against, in Python: the reference implementation. Prints JSON, which run.py reads.

    reference.py record LIKE DATABASE TIMES    TelemetryStore.record, of rows like those in LIKE, a database of ours
    reference.py generate DATABASE TIMES       instrumented_generate around an engine that does nothing
    reference.py aggregate DATABASE RANGES     summary(), or per_model_stats of each [since, until]; median of three
"""

import dataclasses
import json
import sqlite3
import statistics
import sys
from time import perf_counter_ns

from openjarvis.core.events import EventBus, EventType
from openjarvis.core.types import Message, Role, TelemetryRecord
from openjarvis.telemetry.aggregator import TelemetryAggregator
from openjarvis.telemetry.store import TelemetryStore
from openjarvis.telemetry.wrapper import instrumented_generate


def timed(what, times):
    """Calls what(i) so many times and prints how long it took, each time."""
    took = []
    for i in range(times):
        begin = perf_counter_ns()
        what(i)
        took.append(perf_counter_ns() - begin)
    took.sort()
    quantile = {name: took[int((times - 1) * q)] for name, q in (("median", 0.5), ("p99", 0.99), ("p999", 0.999))}
    print(json.dumps({f"{name}_ns": value for name, value in quantile.items()} | {"mean_ns": statistics.mean(took)}))


def record(like, database, times):
    names = [field.name for field in dataclasses.fields(TelemetryRecord)]
    rows = sqlite3.connect(like)
    rows.row_factory = sqlite3.Row
    records = []
    for row in rows.execute("SELECT * FROM telemetry LIMIT 100"):
        known = {name: row[name] for name in names if name in row.keys()}
        records.append(TelemetryRecord(**known | {"metadata": json.loads(row["metadata"])}))
    store = TelemetryStore(database)
    timed(lambda i: store.record(records[i % len(records)]), int(times))
    store.close()


class Nothing:
    """An engine that does nothing."""

    engine_id = "bench"

    def generate(self, messages, **_):
        return {}


def generate(database, times):
    store, bus, engine = TelemetryStore(database), EventBus(), Nothing()
    store.subscribe_to_bus(bus)
    for kind in (EventType.INFERENCE_START, EventType.INFERENCE_END, EventType.TELEMETRY_RECORD):
        bus.subscribe(kind, lambda event: None)
    messages = [Message(role=Role.USER, content="How much is a joule?")]
    timed(lambda i: instrumented_generate(engine, messages, model="model-00", bus=bus), int(times))
    store.close()


def aggregate(database, ranges):
    reader = TelemetryAggregator(database)
    took = []
    for since, until in json.loads(ranges):
        for _ in range(3):
            begin = perf_counter_ns()
            if until == 0:
                reader.summary()
            else:
                reader.per_model_stats(since=since, until=until)
            took.append(perf_counter_ns() - begin)
    print(json.dumps({"median_ns": statistics.median(took)}))


if __name__ == "__main__":
    {"record": record, "generate": generate, "aggregate": aggregate}[sys.argv[1]](*sys.argv[2:])
