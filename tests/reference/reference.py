"""The Python reference's own store and aggregator, as a process that a test drives.

A command is a line of JSON on stdin, {"do": METHOD, "with": ARGUMENTS} for a method of Reference below; its answer is
a line on stdout, {"answer": ...} or {"error": ...}.
"""

import dataclasses
import json
import sqlite3
import sys
import time
import traceback
import types

from openjarvis.core.types import TelemetryRecord
from openjarvis.telemetry.aggregator import TelemetryAggregator
from openjarvis.telemetry.store import TelemetryStore


class Reference:
    def at(self, path):
        """From here on everything is about this database."""
        self.path, self.store, self.aggregator = path, None, None

    def open(self, **options):
        self.store = TelemetryStore(self.path, **options)

    def record(self, calls, pause=0.0):
        for call in calls:
            self.store.record(TelemetryRecord(**call))
            time.sleep(pause)
        self.store.flush()

    def record_mining_stats(self, stats):
        self.store.record_mining_stats(types.SimpleNamespace(**stats))
        self.store.flush()

    def ask(self, method, **arguments):
        """A method of the aggregator, which has a connection of its own."""
        self.aggregator = self.aggregator or TelemetryAggregator(self.path)
        return getattr(self.aggregator, method)(**arguments)

    def poll(self, until):
        """Asks again and again until there are so many records; what was answered, in order."""
        deadline = time.monotonic() + 60
        counts = []
        while not counts or counts[-1] != until:
            assert time.monotonic() < deadline, f"after a minute there are {counts[-1]} records, not {until}"
            counts += [self.ask("record_count"), self.ask("summary").total_calls]
            time.sleep(0.01)
        return counts

    def close(self):
        self.store.close()

    def sql(self, script):
        """Neither store nor aggregator: any program with the sqlite3 module."""
        connection = sqlite3.connect(self.path)
        connection.executescript(script)
        connection.close()

    def rows(self, select):
        connection = sqlite3.connect(self.path)
        rows = connection.execute(select).fetchall()
        connection.close()
        return rows


reference = Reference()
for line in sys.stdin:
    command = json.loads(line)
    try:
        reply = {"answer": getattr(reference, command["do"])(**command["with"])}
    except Exception:
        reply = {"error": traceback.format_exc()}
    print(json.dumps(reply, default=dataclasses.asdict), flush=True)
