"""The figures, each a function of a Bench: measures, and adds its rows to the report."""
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import time

from clashes import apart, identities, references
from files import files
from gossip import serf, thirty
from nodes import Cluster, Node, until


class Bench:
    """What every figure needs: the programs, a folder of its own on the disk, and how long it may take."""

    def __init__(self, build, folder, quick, report):
        self.build, self.root, self.quick, self.report = build, folder, quick, report
        self.folder = folder
        self.floor = {}

    def pick(self, full, quick):
        return quick if self.quick else full

    def enter(self, name):
        self.folder = os.path.join(self.root, name)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def command(self, program, *args):
        return [os.path.join(self.build, "tests/bench", "bench_" + program), *map(str, args)]

    def start(self, program, *args):
        return subprocess.Popen(self.command(program, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, process):
        out, err = process.communicate(timeout=600)
        if process.returncode != 0:
            raise RuntimeError(err.strip() or f"{process.args[0]} ended with {process.returncode}")
        return json.loads(out)

    def call(self, program, *args):
        return self.finish(self.start(program, *args))

    def cluster(self, count, rows=1000):
        return Cluster(self.build, self.folder, count, rows)

    def floors(self):
        """What plain SQLite, zstd and the disk do here; measured once a run."""
        if not self.floor:
            folder = os.path.join(self.root, "floor")
            os.makedirs(folder, exist_ok=True)
            self.floor = self.call("floor", folder, self.pick(100000, 20000))
            shutil.rmtree(folder)
        return self.floor


def floor(bench):
    f, add = bench.floors(), bench.report.add
    for rows in ("1", "10", "100", "1000"):
        add(f"plain SQLite, WAL, NORMAL: inserts in transactions of {rows}", f["insert_" + rows], "rows/s")
    add("plain SQLite: inserts in one transaction", f["insert_all"], "rows/s")
    add("plain SQLite: one-column updates in one transaction", f["update_all"], "rows/s")
    add("fdatasync of 4 KiB, p50", f["fdatasync_p50_us"] / 1000, "ms", note=f"p99 {f['fdatasync_p99_us'] / 1000:.2f} ms")
    add("Ed25519 sign / verify", f["sign_us"], "µs", note=f"verify {f['verify_us']:.0f} µs")
    add("zstd level 1 on these rows", f["zstd1_mb_s"], "MB/s", note=f"level 3: {f['zstd3_mb_s']:.0f} MB/s")
    add("a row: msgpack", f["raw_bytes_row"], "B", note=f"zstd -3: {f['zstd3_bytes_row']:.1f} B")


# ---- 1: the application's own writes

WRITE_GOALS = {("insert", "normal", 1): 1.4, ("insert", "normal", 100): 1.8, ("insert", "full", 1): 1.15, ("insert", "full", 100): 1.4,
               ("update", "normal", 1): 1.25, ("update", "normal", 100): 1.2, ("update", "full", 1): 1.15}
SLICE = {("normal", 1): 1500, ("normal", 10): 5000, ("normal", 100): 15000, ("normal", 1000): 20000,
         ("full", 1): 250, ("full", 10): 1500, ("full", 100): 8000, ("full", 1000): 15000}


def ratio(bench, op, sync, per_tx, plain, captured, rounds):
    """The median of captured / plain over the rounds, and both in µs a row."""
    count = SLICE[sync, per_tx]
    seconds = bench.call("write", "compare", op, per_tx, count, rounds, sync, plain, captured)["rounds"]
    median = statistics.median(b / a for a, b in seconds)
    return median, *(statistics.median(column) / count * 1e6 for column in zip(*seconds))


def pair(bench, figure):
    """Two files with the same rows, the second one with capture."""
    bench.enter(figure)
    plain, captured = bench.path("plain.db"), bench.path("captured.db")
    bench.call("write", "create", plain, 50000)
    shutil.copy(plain, captured)
    bench.call("capture", captured)
    return plain, captured


def write(bench):
    rounds = bench.pick(15, 3)
    for op in ("insert", "update"):
        for sync in ("normal", "full"):
            for per_tx in (1, 10, 100, 1000):
                r, a, b = ratio(bench, op, sync, per_tx, *pair(bench, "write"), rounds)
                bench.report.add(f"app {op}, {sync.upper()}, transactions of {per_tx}: captured / plain", r, "×",
                                 WRITE_GOALS.get((op, sync, per_tx)), note=f"{a:.2f} → {b:.2f} µs a row")


def write_ring(bench):
    """Once the ring of notes is full every note also trims."""
    for per_tx in (1, 100):
        plain, captured = pair(bench, "write_ring")
        bench.call("write", "load", captured, "insert", 1, 10, 1)
        bench.call("write", "notes", captured, 1000000)
        r, a, b = ratio(bench, "insert", "normal", per_tx, plain, captured, bench.pick(15, 3))
        bench.report.add(f"the same with a full ring, no node: insert, NORMAL, {per_tx}", r, "×", note=f"{a:.2f} → {b:.2f} µs a row")


def write_node(bench):
    """A node drains on the same cores meanwhile."""
    for op, per_tx in (("insert", 1), ("insert", 100), ("update", 1), ("update", 100)):
        bench.enter("write_node")
        plain = bench.path("plain.db")
        bench.call("write", "create", plain, 1000)
        with bench.cluster(1) as cluster:
            r, a, b = ratio(bench, op, "normal", per_tx, plain, cluster.nodes[0].db, bench.pick(15, 3))
        bench.report.add(f"the same beside a running node: {op}, NORMAL, {per_tx}", r, "×", note=f"{a:.2f} → {b:.2f} µs a row")


# ---- 2, 3, 5: until it is visible elsewhere

def visible(bench):
    with bench.cluster(3) as cluster:
        paths = [node.db for node in cluster.nodes]
        bench.call("visible", 1, 100, 200, "normal", *paths)
        cluster.settle()
        sent = cluster.nodes[0].sent_bytes()
        r = bench.call("visible", 1, bench.pick(4000, 400), 200, "normal", *paths)
        cluster.settle()
        sent = (cluster.nodes[0].sent_bytes() - sent) / r["rows"] / 2
    add = bench.report.add
    note = f"{r['rows']} rows, one at a time, 200 a second, visible on both others; {r['missing']} missing"
    add("commit → visible on 3 nodes, p50", r["p50_ms"], "ms", 0.8, note=note)
    add("commit → visible on 3 nodes, p99", r["p99_ms"], "ms", 6, note=f"longest {r['max_ms']:.2f} ms")
    add("each of these rows on the wire, to one of them, all in", sent, "B", 300, note="encryption and beats too; 64 are the signature")


def measured(bench, cluster, per_tx, transactions, sync, rounds):
    """Rows/s until visible everywhere, and plain SQLite's with the same transactions, in turns; and a note on what they cost."""
    ours, plain, wire, cpu = [], [], [], []
    paths = [node.db for node in cluster.nodes]
    for i in range(rounds):
        r = bench.call("visible", per_tx, transactions, 0, sync, bench.path(f"plain{i}.db"))
        plain.append(r["rows"] / r["write_s"])
        sent, before = cluster.nodes[0].sent_bytes(), [node.cpu_s() for node in cluster.nodes[:2]]
        r = bench.call("visible", per_tx, transactions, 0, sync, *paths)
        if r["missing"]:
            raise RuntimeError(f"{r['missing']} of {r['rows']} rows did not become visible")
        ours.append(r["rows"] / r["visible_s"])
        cluster.settle()
        wire.append((cluster.nodes[0].sent_bytes() - sent) / r["rows"])
        cpu.append([1e6 * (node.cpu_s() - b) / r["rows"] for node, b in zip(cluster.nodes, before)])
    author, receiver = (statistics.median(column) for column in zip(*cpu))
    rate = statistics.median(plain)
    note = f"plain {rate:,.0f}/s; {statistics.median(wire):.0f} B a row sent; CPU a row: author {author:.1f} µs, receiver {receiver:.1f} µs"
    return statistics.median(ours), rate, note


def sustained(bench):
    rounds = bench.pick(3, 1)
    add = bench.report.add
    with bench.cluster(2) as cluster:
        for sync, count, goal in (("normal", bench.pick(40000, 8000), 15000), ("full", bench.pick(10000, 2000), 4000)):
            ours, _, note = measured(bench, cluster, 1, count, sync, rounds)
            add(f"single-row commits/s until visible on the peer, {sync.upper()}", ours, "/s", goal, least=True, note=note)
        ours, _, note = measured(bench, cluster, 1000, bench.pick(300, 50), "normal", rounds)
        add("rows/s in transactions of 1,000 until visible on the peer", ours, "/s", 120000, least=True, note=note)


def three(bench):
    with bench.cluster(3) as cluster:
        ours, plain, note = measured(bench, cluster, 1000, bench.pick(200, 40), "normal", bench.pick(3, 1))
    bench.report.add("one writer to 3 nodes on these cores, transactions of 1,000 / plain insert", ours / plain, "", 0.12, least=True,
                     note=f"{ours:,.0f} rows/s; {note}")


# ---- 4, 7, 8: the store alone

def store(bench):
    r = bench.call("store", bench.folder, bench.pick(49000, 20000), bench.pick(5, 1))
    count, add = r["rows"], bench.report.add

    def part(op, ours, base):
        share = statistics.median(x[base] / x[ours] for x in r[op])
        return share, *(count / statistics.median(x[which] for x in r[op]) for which in (ours, base))

    for op in ("insert", "update"):
        share, ours, raw = part(op, "drain_s", "raw_s")
        add(f"drain, {op}s / raw {op} in one transaction", share, "", 0.35, least=True, note=f"{ours:,.0f} and {raw:,.0f} rows/s")
        share, ours, raw = part(op, "apply_s", "upsert_s")
        add(f"apply, {op}s / raw {'upsert' if op == 'insert' else 'update'} in one transaction", share, "", 0.4, least=True,
            note=f"{ours:,.0f} and {raw:,.0f} rows/s")
    single = r["single"]
    for what in ("drain", "apply"):
        add(f"one row, in process: {what} p50", single[what + "_p50_us"] / 1000, "ms",
            note=f"p99 {single[what + '_p99_us'] / 1000:.2f} ms, its syncs included")
    floors = bench.floors()
    metadata(bench, r["table_rows"])
    bench.enter("store_large")
    large = bench.call("store", bench.folder, bench.pick(100000, 60000), 1)
    x, y = large["insert"][0], large["update"][0]
    add(f"a commit of {large['rows']:,} rows, which comes in parts: apply / raw upsert", x["upsert_s"] / x["apply_s"], "",
        note=f"{large['rows'] / x['apply_s']:,.0f} rows/s; drain / raw insert {x['raw_s'] / x['drain_s']:.2f}")
    add(f"bytes a row, {large['rows']:,} inserts / zstd -3 of the rows as msgpack", x["bytes_row"] / floors["zstd3_bytes_row"], "", 0.95,
        note=f"{x['bytes_row']:.1f} and {floors['zstd3_bytes_row']:.1f} B; a row is {floors['raw_bytes_row']:.0f} B")
    add(f"bytes a row, {large['rows']:,} one-column updates", y["bytes_row"], "B", 8)
    add("a commit of one inserted row, in the log", single["bytes"], "B", note=f"the row alone is {floors['raw_bytes_row']:.0f} B")
    add("a commit of one updated column, in the log", single["update_bytes"], "B", 300)


def metadata(bench, rows):
    for name, side in (("a", "the author's"), ("b", "a receiver's")):
        db = sqlite3.connect(bench.path(name + ".state"))
        sizes = dict(db.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"))
        db.close()
        log = sizes.pop("log", 0)
        note = "; ".join(f"{table} {size / rows:.1f}" for table, size in sorted(sizes.items(), key=lambda x: -x[1])[:3])
        bench.report.add(f"metadata a row in {side} state database, without the log", sum(sizes.values()) / rows, "B", 150,
                         note=f"{note}; log {log / rows:.1f}")


# ---- 6, 11: beside an application on the receiving server

def lock(bench):
    seconds = bench.pick(8, 2)
    with bench.cluster(2) as cluster:
        writer, reader = cluster.nodes
        load = bench.start("write", "load", writer.db, "insert", 1000, 10, seconds)
        r = bench.call("lock", reader.db, seconds, reader.process.pid)
        bench.finish(load)
        said = reader.database().get("lock_ms_p99")
    bench.report.add("write lock held while applying commits of 1,000 rows, p99", r["p99_ms"], "ms", 20,
                     note=f"{r['holds']} holds, p50 {r['p50_ms']:.2f}, longest {r['max_ms']:.2f} ms; status says p99 {said}")


def deferred(bench):
    seconds = bench.pick(15, 3)
    with bench.cluster(2) as cluster:
        writer, other = cluster.nodes
        alone = bench.call("deferred", other.db, bench.pick(5, 2), 500, 2000)
        load = bench.start("write", "load", writer.db, "insert", 1, 100, seconds + 1)
        r = bench.call("deferred", other.db, seconds, 500, 2000)
        bench.finish(load)
        cluster.settle()
    add = bench.report.add
    add("BEGIN; SELECT; UPDATE; COMMIT refused beside capture alone", alone["deferred_failed"], "", 0, note=f"of {alone['deferred']}")
    add("the same beside 100 projections a second, in 1,000", 1000 * r["deferred_failed"] / max(1, r["deferred"]), "", 1,
        note=f"{r['deferred_failed']} of {r['deferred']}")
    add("autocommit and BEGIN IMMEDIATE refused beside them", r["autocommit_failed"] + r["immediate_failed"], "", 0,
        note=f"of {r['autocommit']} and {r['immediate']}")


# ---- 9: a million rows that were there before

def first(bench):
    rows = bench.pick(1000000, 50000)
    os.makedirs(bench.path("n1"))
    database = bench.path("n1/app.db")
    bench.call("write", "create", database, rows)
    load = bench.start("write", "load", database, "insert", 1, 100, bench.pick(20, 5))
    node = Node(bench.build, bench.path("n1"), "n1")
    other = None
    try:
        def captured():
            d = node.database()
            return d is not None and d["state"] == "ok" and d.get("capturing") is None and d["rows"] >= rows

        start = time.monotonic()
        until("the first capture", 120, captured)
        seconds, peak = time.monotonic() - start, node.memory_mib("VmHWM")
        wrote = bench.finish(load)
        add = bench.report.add
        add(f"first capture of {rows:,} rows, the app writing", seconds, "s", bench.pick(15, None))
        add("its peak memory", peak, "MiB", bench.pick(64, None))
        add("the app's longest commit meanwhile", wrote["max_ms"], "ms",
            note=f"{wrote['transactions']} commits, p50 {wrote['p50_ms']:.2f}, p99 {wrote['p99_ms']:.2f} ms")
        start = time.monotonic()
        other = Node(bench.build, bench.path("n2"), "n2", [node.address])
        until("an empty server has the rows", 180, lambda: other.top() >= rows)
        add("an empty server fetches these rows", time.monotonic() - start, "s",
            note=f"peak {other.memory_mib('VmHWM'):.0f} MiB; the giver's {node.memory_mib('VmHWM'):.0f} MiB")
    finally:
        if load.poll() is None:
            load.kill()
            load.wait()
        for n in (node, other):
            if n is not None:
                n.stop()


# ---- migrations, and rows without notes

def schema(bench):
    with bench.cluster(1) as cluster:
        r = bench.call("schema", cluster.nodes[0].db, bench.pick(60, 10))
        node = cluster.nodes[0]
        node.ask("wait", "--converged", "--timeout", "15", check=False)
        left = node.database()
    if left["state"] != "ok" or left["capturing"] is not None:
        raise RuntimeError(f"the database is {left['state']} after the migrations")
    kinds = {"create": "CREATE TABLE", "rebuild": "rebuild in one commit", "steps": "in four"}
    note = "; ".join(f"{name}: p50 {r[kind]['p50_ms']:.2f}, p99 {r[kind]['p99_ms']:.2f}, longest {r[kind]['max_ms']:.2f} ms"
                     for kind, name in kinds.items())
    bench.report.add("schema change noticed and triggers back, p99", max(r[kind]["p99_ms"] for kind in kinds), "ms", 10,
                     note=f"from the app's last COMMIT until the table has our triggers, {r['create']['count']} times each, the worst of: {note}; "
                     f"ADD COLUMN, where they stay: missing {r['missing']} of {r['columns']} times; "
                     "that rows are read again, and new tables taken up, waits for 2 s without a change and is not in it")
    bench.report.add("after these migrations, on this one server: changes that cannot be shown", left["parked"], "", 0)


def rescan(bench):
    """The triggers are taken away and rows changed while no node runs: all rows are read, and those found. The application's connection stays."""
    rows, changed = bench.pick(1000000, 50000), 1000
    os.makedirs(bench.path("n1"))
    database = bench.path("n1/app.db")
    bench.call("write", "create", database, rows)
    node, watcher, app = Node(bench.build, bench.path("n1"), "n1"), None, None
    try:
        def scanned(found):
            d = node.database()
            return d is not None and d["state"] == "ok" and d["capturing"] is None and d["rows"] == rows and d["drained"] >= found

        until("the first capture", 120, lambda: scanned(rows))
        node.ask("wait", "--converged", "--timeout", "60")
        app = sqlite3.connect(database, timeout=30, isolation_level=None)
        app.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        node.stop()
        subprocess.run([os.path.join(bench.build, "starlingd"), "--instance", node.folder, "--uninstall"], check=True, capture_output=True)
        app.execute("UPDATE entry SET score = score + 1000 WHERE id % ? = 0", (rows // changed,))
        app.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        watcher = bench.start("lock", database, 300, 0)
        start = time.monotonic()
        node = Node(bench.build, bench.path("n1"), "n1")
        until("the rescan", 120, lambda: scanned(changed), every=0.02)
        seconds, peak = time.monotonic() - start, node.memory_mib("VmHWM")
        found, said = node.database()["drained"], node.database()["lock_ms_p99"]
        watcher.terminate()
        held = bench.finish(watcher)
    finally:
        if watcher is not None and watcher.poll() is None:
            watcher.kill()
            watcher.wait()
        if app is not None:
            app.close()
        node.stop()
    if found != changed:
        raise RuntimeError(f"{found} changes found where {changed} rows were changed")
    bench.report.add(f"rescan of {rows:,} rows, without the write lock", seconds, "s", bench.pick(5, None),
                     note=f"from the node's start until nothing is being captured; {found} changed rows found; peak {peak:.0f} MiB; write lock "
                     f"held {held['holds']} times, longest {held['max_ms']:.2f} ms (its triggers, checkpoints); status says p99 {said}")


# ---- 10: nothing to do

def idle(bench):
    seconds = bench.pick(20, 3)
    with bench.cluster(3) as cluster:
        time.sleep(bench.pick(6, 1))  # what follows a start (checkpoints, trims) is over
        cpu = [node.cpu_s() for node in cluster.nodes]
        sent = [node.sent_bytes() for node in cluster.nodes]
        time.sleep(seconds)
        used = [node.cpu_s() - before for node, before in zip(cluster.nodes, cpu)]
        rates = [(node.sent_bytes() - before) / seconds for node, before in zip(cluster.nodes, sent)]
        memory = [node.memory_mib("VmRSS") for node in cluster.nodes]
    add = bench.report.add
    add("idle, 3 nodes, one database: CPU of a core, mean of the nodes", 100 * statistics.mean(used) / seconds, "%", 0.1)
    add("idle: memory a node, largest", max(memory), "MiB", 8)
    add("idle: sent by a node, largest", max(rates), "B/s")


def smoke(bench):
    """Everything starts and one row arrives: for the test suite, no figure."""
    bench.call("floor", bench.folder, 1000)
    with bench.cluster(2, rows=10) as cluster:
        r = bench.call("visible", 1, 5, 50, "normal", *(node.db for node in cluster.nodes))
    if r["missing"]:
        raise RuntimeError(f"{r['missing']} of {r['rows']} rows did not arrive")
    bench.report.add("smoke: rows that arrived", r["rows"], "", 5, least=True)


FIGURES = {f.__name__: f for f in (floor, write, write_ring, write_node, visible, sustained, three, store, lock, deferred,
                                   first, schema, rescan, identities, references, apart, files, idle, thirty, serf)}
