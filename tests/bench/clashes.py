"""Figures of servers that wrote apart: what identities cost, and what mends do."""
import os
import sqlite3
import statistics
import time

from nodes import Node, until

SCHEMA = """PRAGMA journal_mode=WAL;
CREATE TABLE team(id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE entry(id INTEGER PRIMARY KEY, team INTEGER REFERENCES team(id), scout TEXT, score INTEGER, data TEXT);
CREATE TABLE plain(id INTEGER PRIMARY KEY, team INTEGER, scout TEXT, score INTEGER, data TEXT);
CREATE INDEX entry_team ON entry(team);
CREATE INDEX plain_team ON plain(team);
"""


def connect(node):
    return sqlite3.connect(node.db, timeout=60, isolation_level=None)


class Pair:
    """Two nodes with the same schema and 100 teams, which were introduced."""

    def __init__(self, bench):
        first = bench.path("n1")
        os.makedirs(first)
        db = sqlite3.connect(os.path.join(first, "app.db"))
        db.executescript(SCHEMA)
        db.executemany("INSERT INTO team(name) VALUES(?)", ((f"team {i}",) for i in range(100)))
        db.commit()
        db.close()
        self.nodes = []
        try:
            self.nodes.append(Node(bench.build, first, "n1"))
            self.nodes.append(Node(bench.build, bench.path("n2"), "n2", [self.nodes[0].address]))
            until("both have the database", 60, lambda: all(n.database() and n.database()["rows"] == 100 for n in self.nodes))
            self.settle()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.stop()

    def settle(self, timeout=60):
        for node in self.nodes:
            node.ask("wait", "--converged", "--members", "2", "--timeout", str(timeout))

    def apart(self):
        for node in self.nodes:
            node.ask("pause")

    def together(self):
        """Both captured all that was written; from here on they exchange it."""
        until("everything is captured", 120, lambda: all(n.database()["pending"] == 0 for n in self.nodes))
        start = time.monotonic()
        for node in self.nodes:
            node.ask("resume")
        return start


def write(node, table, rows, key=None, team=lambda i: 1 + i % 100):
    """Transactions of 1,000; the key is given from `key` on, or left to SQLite."""
    db, extra = connect(node), "" if key is None else ", id"
    for start in range(0, rows, 1000):
        db.execute("BEGIN")
        db.executemany(f"INSERT INTO {table}(team, scout, score, data{extra}) VALUES(?,?,?,?{', ?' if extra else ''})",
                       ((team(i), f"scout {i % 7}", i, f"{i * 2654435761 % 4294967296:08x}" * 12) + (() if key is None else (key + i,))
                        for i in range(start, min(start + 1000, rows))))
        db.execute("COMMIT")
    db.close()


def identities(bench):
    """The same rows in a table with given keys and no foreign key, and in one with numbered rows that refer to numbered rows."""
    rows, ratios, rates = bench.pick(50000, 5000), [], {"plain": [], "entry": []}
    with Pair(bench) as pair:
        for n in range(bench.pick(5, 1)):
            for table in ("plain", "entry") if n % 2 == 0 else ("entry", "plain"):
                pair.apart()
                write(pair.nodes[0], table, rows, 1 + n * rows if table == "plain" else None)
                reader = connect(pair.nodes[1])
                start = pair.together()
                until("they are shown", 120, lambda: reader.execute(f"SELECT max(id) FROM {table}").fetchone()[0] == (n + 1) * rows, every=0.005)
                rates[table].append(rows / (time.monotonic() - start))
                reader.close()
                pair.settle()
            ratios.append(rates["entry"][-1] / rates["plain"][-1])
    bench.report.add("merging with identities (numbered rows, references) / with given keys", statistics.median(ratios), "", 0.9, least=True,
                     note=f"{statistics.median(rates['entry']):,.0f} and {statistics.median(rates['plain']):,.0f} rows/s until shown, "
                     f"after servers were apart")


def references(bench):
    """Two servers number a team alike; the junior has many rows that refer to it."""
    rows = bench.pick(10000, 1000)
    with Pair(bench) as pair:
        pair.apart()
        for i, node in enumerate(pair.nodes):
            db = connect(node)
            number = db.execute("INSERT INTO team(name) VALUES(?)", (f"of {i}",)).lastrowid
            db.close()
            if i:
                write(node, "entry", rows, team=lambda _: number)
            until("it is captured", 10, lambda: node.database()["pending"] == 0)  # who is written before is the senior
        until("everything is captured", 60, lambda: all(n.database()["pending"] == 0 for n in pair.nodes))
        watcher = bench.start("lock", pair.nodes[1].db, 60, 0)
        pair.together()
        pair.settle()
        watcher.terminate()
        held = bench.finish(watcher)
        for node in pair.nodes:
            db = connect(node)
            found = db.execute("SELECT t.name, count(*) FROM entry e JOIN team t ON t.id = e.team GROUP BY t.name").fetchall()
            db.close()
            if found != [("of 1", rows)]:
                raise RuntimeError(f"{node.name}: the rows refer to {found}")
    bench.report.add(f"a row with {rows:,} references gets another number: the write lock is held", held["max_ms"], "ms", bench.pick(50, None),
                     note=f"the longest of {held['holds']}; all that refers to it moves in the same transaction")


def apart(bench):
    """Rows that SQLite numbered alike on two servers, every one of them."""
    rows = bench.pick(100000, 2000)
    with Pair(bench) as pair:
        pair.apart()
        for node in pair.nodes:
            write(node, "entry", rows)
        start = pair.together()
        pair.settle(300)
        seconds, peak = time.monotonic() - start, max(node.memory_mib("VmHWM") for node in pair.nodes)
        shown = []
        for node in pair.nodes:
            db = connect(node)
            shown.append(db.execute("SELECT count(*), max(id), total(score) FROM entry").fetchone())
            db.close()
        mends = sum(node.database()["mends"] for node in pair.nodes)
    if shown[0] != shown[1] or shown[0][0] != 2 * rows:
        raise RuntimeError(f"rows, highest number and sum are {shown}")
    add = bench.report.add
    add(f"{rows:,} rows a side, numbered alike while apart: equal after", seconds, "s", bench.pick(60, None))
    add("its peak memory, the larger node", peak, "MiB", 128)
    add("its highest number beyond the count of rows", 100 * (shown[0][1] / shown[0][0] - 1), "%", 0.1)
    add("its mends that were sent, for each clash", mends / rows, "", note="two servers that find a clash at the same moment both tell")
