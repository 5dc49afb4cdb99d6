"""Real nodes on loopback for the cluster tests.

Node is one starlingd with an instance folder of its own, Cluster a number of them that have met; Network (network.py) comes between
them. ClusterTest cleans up, and after a failure prints the end of every log and keeps the folder.

Nothing here sleeps for luck: poll() looks again until a condition holds or its deadline has passed.
Environment: STARLING_BUILD (folder with starlingd and starling, default <repository>/build), STARLING_SLOW (factor on every
deadline, for sanitizer builds and busy machines).
"""
import atexit
import contextlib
import json
import os
import re
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from network import Network, free_port  # noqa: F401 - tests take free_port from here

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("STARLING_BUILD", os.path.join(REPOSITORY, "build")))
STARLINGD = os.path.join(BUILD, "starlingd")
STARLING = os.path.join(BUILD, "starling")
SLOW = float(os.environ.get("STARLING_SLOW", "1"))
SANITIZER = re.compile(r"ERROR: AddressSanitizer|ERROR: LeakSanitizer|runtime error:|WARNING: ThreadSanitizer|[Aa]ssertion .*failed")

_running = set()


@atexit.register
def _end_what_is_left():
    for proc in list(_running):
        with contextlib.suppress(OSError):
            proc.kill()


def environment(**more):
    """Ours without STARLING_* settings, which would reach the daemon."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("STARLING_")}
    env.update(more)
    return env


def sanitized():
    with open(STARLINGD, "rb") as f:
        return b"__asan_" in f.read()


def poll(condition, deadline=15.0, what=None):
    """The first true value of condition(). A database that is busy or a node that does not answer yet counts as not yet."""
    end = time.monotonic() + deadline * SLOW
    pause, last = 0.002, None
    while True:
        try:
            last = condition()
            if last:
                return last
        except (sqlite3.OperationalError, sqlite3.DatabaseError, NodeError, OSError) as e:
            last = repr(e)
        if time.monotonic() > end:
            raise AssertionError("not within %.1f s: %s (last: %s)" % (deadline * SLOW, what or "condition", str(last)[:2000]))
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def holds(condition, seconds, what=None):
    """Demands that condition() stays true for a time."""
    end = time.monotonic() + seconds * SLOW
    while time.monotonic() < end:
        if not condition():
            raise AssertionError("did not stay true: %s" % (what or "condition"))
        time.sleep(0.02)


def time_passes(seconds):
    """For rules that are about time itself (what arrived less than 2 s ago does not count as seen)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)


def connect(path, timeout=30.0, **kw):
    """Autocommit unless isolation_level is given; usable from any one thread."""
    kw.setdefault("isolation_level", None)
    kw.setdefault("check_same_thread", False)
    return sqlite3.connect(path, timeout=timeout, **kw)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def ours(name):
    return name.startswith("_starling")


def user_tables(con):
    rows = con.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'").fetchall()
    text = lambda v: v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else v
    rows = [(text(n), text(s)) for n, s in rows]
    virtual = [n for n, s in rows if s.upper().startswith("CREATE VIRTUAL")]
    return sorted(n for n, s in rows if not ours(n) and n not in virtual and not any(n.startswith(v + "_") for v in virtual))


def dump(path, tables=None):
    """All user rows as exact storage classes and bytes, columns by name, in one read transaction."""
    con = connect(path)
    con.text_factory = bytes
    try:
        con.execute("BEGIN")
        out = {}
        for table in user_tables(con):
            if tables is not None and table not in tables:
                continue
            columns = sorted(r[1].decode() for r in con.execute("PRAGMA table_xinfo(%s)" % quoted(table)) if r[6] != 1)
            what = ", ".join("typeof({0}), CASE typeof({0}) WHEN 'text' THEN CAST({0} AS BLOB) ELSE {0} END".format(quoted(c)) for c in columns)
            rows = []
            for row in con.execute("SELECT %s FROM %s" % (what, quoted(table))):
                rows.append(tuple((row[i].decode(), struct.pack(">d", row[i + 1]) if isinstance(row[i + 1], float) else row[i + 1])
                                  for i in range(0, len(row), 2)))
            out[table] = (columns, sorted(rows, key=repr))
        con.execute("COMMIT")
        return out
    finally:
        con.close()


def user_schema(path):
    """sqlite_schema without what is ours."""
    con = connect(path)
    try:
        return sorted((r for r in con.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema") if not ours(r[1]) and not ours(r[2])), key=repr)
    finally:
        con.close()


def shorten(value, limit=3000):
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"


class NodeError(Exception):
    pass


class Done:
    """What a CLI call gave back."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return "exit %s\nstdout: %s\nstderr: %s" % (self.code, self.out[:2000], self.err[:2000])


def run(args, timeout=60.0, env=None, text_in=None, cwd=None):
    """Runs a program to its end."""
    try:
        p = subprocess.run(args, input=text_in, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout * SLOW,
                           env=env or environment(), cwd=cwd)
    except subprocess.TimeoutExpired as e:
        raise NodeError("no end within %s s: %s" % (timeout * SLOW, args)) from e
    return Done(p.returncode, p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace"))


def daemon(*args, timeout=15.0, env=None):
    """starlingd with arguments that make it end by itself."""
    return run([STARLINGD, *map(str, args)], timeout=timeout, env=env)


def shell(path, *commands):
    """The sqlite3 shell with a busy timeout, as an operator uses it."""
    done = run(["sqlite3", "-batch", "-bail", path, ".timeout 5000", *commands])
    if done.code != 0 or done.err:
        raise AssertionError("sqlite3 %s: %r" % (commands, done))
    return done.out


class Node:
    def __init__(self, root, name, join=(), port=0, extra=(), env=None, wrap=(), network=None, binary=None):
        self.name, self.port, self.join = name, port, list(join)
        self.folder = os.path.join(root, name)
        self.instance = os.path.join(self.folder, "instance")
        self.log_path = os.path.join(self.folder, "log")
        self.extra, self.env, self.wrap = list(extra), env or {}, list(wrap)
        self.binary = binary or STARLINGD
        self.proc, self.ready, self.ended = None, None, []
        os.makedirs(self.instance, exist_ok=True)
        self.network = network
        if network:
            network.attach(self)

    # ---- process
    def command(self):
        cmd = [*self.wrap, self.binary, "--instance", self.instance, "--name", self.name, "--listen", "127.0.0.1:%d" % self.port]
        if self.network:
            cmd += ["--advertise", self.network.address(self)]
        for j in self.join:
            cmd += ["--join", j.address() if isinstance(j, Node) else j]
        return cmd + self.extra

    def spawn(self):
        assert self.proc is None, "already running"
        log = open(self.log_path, "ab")
        self.proc = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment(**self.env))
        log.close()
        _running.add(self.proc)
        self.stdout = b""

    def start(self, deadline=15.0):
        """Starts and reads the ready line."""
        self.spawn()
        end = time.monotonic() + deadline * SLOW
        while b"\n" not in self.stdout:
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError("%s: no ready line within %s s" % (self.name, deadline))
            if select.select([self.proc.stdout], [], [], left)[0]:
                piece = os.read(self.proc.stdout.fileno(), 65536)
                if not piece:
                    code = self._reap()
                    raise AssertionError("%s ended with %s before its ready line:\n%s" % (self.name, code, self.log()[-2000:]))
                self.stdout += piece
        line = self.stdout.split(b"\n")[0].decode()
        if not line.startswith("ready "):
            raise AssertionError("not a ready line: %r" % line)
        self.ready = dict(re.findall(r"(\w+)=(\S+)", line))
        self.port = int(self.ready["listen"].rsplit(":", 1)[1])
        return self

    def _reap(self, timeout=10.0):
        code = self.proc.wait(timeout * SLOW)
        _running.discard(self.proc)
        self.proc.stdout.close()
        self.proc = None
        self.ended.append(code)
        return code

    @property
    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def wait_end(self, timeout=10.0):
        """For a node that is about to end by itself; its exit code."""
        try:
            return self._reap(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s still runs" % self.name) from None

    def kill(self):
        """kill -9: nothing is finished, nothing is flushed."""
        self.proc.kill()
        self._reap()

    def stop(self):
        """SIGTERM; the exit code. Asked to stop, a node ends within 5 s."""
        self.proc.send_signal(signal.SIGTERM)
        try:
            return self._reap(6.0)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s did not end within 6 s of SIGTERM" % self.name) from None

    def freeze(self):
        self.proc.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.proc.send_signal(signal.SIGCONT)

    def restart(self, rejoin=True):
        """On the same port. Without rejoin: without --join, from what the node remembers."""
        if not rejoin:
            self.join = []
        return self.start()

    # ---- seen from outside
    def address(self):
        return self.network.address(self) if self.network else "127.0.0.1:%d" % self.port

    def cli(self, *args, timeout=70.0, env=None):
        return run([STARLING, "--instance", self.instance, *map(str, args)], timeout=timeout, env=env)

    def json(self, *args, timeout=70.0):
        done = self.cli("--json", *args, timeout=timeout)
        if done.code != 0 and self.proc is not None and self.proc.poll() is not None:
            raise AssertionError("%s ended by itself with %s" % (self.name, self.proc.returncode))
        if done.code != 0:
            raise NodeError("%s %s: %r" % (self.name, args, done))
        return done.json()

    def status(self):
        return self.json("status", timeout=10.0)

    def database(self, db="app.db"):
        """The status of one database; None when the node does not list it."""
        return next((d for d in self.status()["databases"] if d["name"] == db), None)

    def peer(self, other):
        name = other.name if isinstance(other, Node) else other
        return next((p for p in self.status()["peers"] if p["name"] == name), None)

    def alive(self):
        return self.status()["cluster"]["alive"]

    def log(self):
        try:
            with open(self.log_path, "rb") as f:
                return f.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def log_lines(self, *words):
        """Log lines that hold every word, in any case."""
        return [line for line in self.log().splitlines() if all(w.lower() in line.lower() for w in words)]

    # ---- the application's side
    def path(self, db="app.db"):
        return os.path.join(self.instance, db)

    def connect(self, db="app.db", **kw):
        return connect(self.path(db), **kw)

    def sql(self, sql, params=(), db="app.db", timeout=30.0):
        con = self.connect(db, timeout=timeout)
        try:
            return con.execute(sql, params).fetchall()
        finally:
            con.close()

    def script(self, sql, db="app.db", journal="WAL"):
        os.makedirs(os.path.dirname(self.path(db)), exist_ok=True)
        con = self.connect(db)
        try:
            if journal:
                con.execute("PRAGMA journal_mode = %s" % journal)
            con.executescript(sql)
        finally:
            con.close()

    def dump(self, db="app.db", tables=None):
        return dump(self.path(db), tables)

    def has_tables(self, *tables, db="app.db"):
        if not os.path.exists(self.path(db)):
            return False
        con = self.connect(db)
        try:
            there = user_tables(con)
        finally:
            con.close()
        return all(t in there for t in tables) if tables else bool(there)


class Cluster:
    """Nodes that have met. The first may have a schema and rows (`script`); the others start empty and fetch them."""

    def __init__(self, test, n, script=None, network=None, ports=False, db="app.db", journal="WAL", extra=()):
        self.test, self.db = test, db
        self.nodes = []
        for i in range(n):
            join = self.nodes[:1]
            node = test.make("n%d" % i, join=join, network=network, port=free_port() if ports else 0, extra=extra)
            if i == 0 and script is not None:
                node.script(script, db, journal)
            self.nodes.append(node)
            node.start()
        for node in self.nodes:
            poll(lambda: node.alive() == n, what="%s sees %d alive" % (node.name, n))
        if script is not None:
            tables = sorted(dump(self.nodes[0].path(db)))
            for node in self.nodes:
                poll(lambda: node.has_tables(*tables, db=db), what="%s has the tables" % node.name)
            self.converge()

    def __getitem__(self, i):
        return self.nodes[i]

    def __iter__(self):
        return iter(self.nodes)

    def wait(self, timeout=30, members=None):
        """`wait --converged` on every node at once."""
        results, members = {}, members or len(self.nodes)

        def one(node):
            try:
                results[node.name] = node.cli("wait", "--converged", "--members", members, "--timeout", int(timeout * SLOW), timeout=timeout + 15)
            except NodeError as e:
                results[node.name] = Done(-1, "", str(e))
        threads = [threading.Thread(target=one, args=(n,)) for n in self.nodes]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        bad = {k: v for k, v in results.items() if v.code != 0}
        if bad:
            raise AssertionError("wait --converged: %s" % bad)

    def converge(self, timeout=30, dbs=None):
        """Waits until the nodes say they are equal; then they must be, at once."""
        self.wait(timeout)
        for db in dbs or [self.db]:
            self.same(db)

    def same(self, db=None):
        db = db or self.db
        dumps = {n.name: n.dump(db) for n in self.nodes}
        first = dumps[self.nodes[0].name]
        for name, d in dumps.items():
            if d != first:
                raise AssertionError("%s differs from %s in %s: %s" % (name, self.nodes[0].name, db, difference(first, d)))
        return first

    def conflicts(self, db=None):
        return [n.database(db or self.db)["conflicts"] for n in self.nodes]


def difference(a, b):
    out = []
    for table in sorted(set(a) | set(b)):
        if a.get(table) != b.get(table):
            rows_a, rows_b = (a.get(table) or ([], []))[1], (b.get(table) or ([], []))[1]
            only_a, only_b = [r for r in rows_a if r not in rows_b], [r for r in rows_b if r not in rows_a]
            out.append("%s: %d and %d rows; only in the first %s; only in the second %s" % (
                table, len(rows_a), len(rows_b), shorten(only_a[:3], 600), shorten(only_b[:3], 600)))
    return "; ".join(out)


class ClusterTest(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="starling-test-")
        os.chmod(self.root, 0o755)
        self.nodes, self.networks, self.mounts = [], [], []
        self.addCleanup(self._clean)

    def make(self, name, **kw):
        node = Node(self.root, name, **kw)
        self.nodes.append(node)
        return node

    def network(self):
        self.networks.append(Network())
        return self.networks[-1]

    def small_disk(self, path, size):
        """A file system of a few MB at path; only root may."""
        os.makedirs(path, exist_ok=True)
        done = run(["mount", "-t", "tmpfs", "-o", "size=%s,mode=755" % size, "tmpfs", path])
        if done.code != 0:
            self.skipTest("no permission to mount a small disk: %s" % done.err.strip())
        self.mounts.append(path)

    def grow_disk(self, path, size):
        self.assertEqual(run(["mount", "-o", "remount,size=%s" % size, path]).code, 0)

    def cluster(self, n, script=None, **kw):
        return Cluster(self, n, script, **kw)

    def eventually(self, node, sql, expected, params=(), db="app.db", deadline=15.0):
        seen = []

        def look():
            seen[:] = [node.sql(sql, params, db)]
            return seen[0] == expected
        try:
            poll(look, deadline, sql)
        except AssertionError as e:
            raise AssertionError("%s: %s: not %s but %s (%s)" % (node.name, sql, shorten(expected, 500), shorten(seen, 500), e)) from None

    def _clean(self):
        """Every node must still run, or have been ended by the test, and must end well."""
        trouble = []
        for node in self.nodes:
            if node.proc is None:
                continue
            code = node.proc.poll()
            if code is not None:
                trouble.append("%s ended by itself with %s" % (node.name, code))
                node._reap()
                continue
            with contextlib.suppress(OSError):
                node.thaw()
            try:
                code = node.stop()
                if code != 0:
                    trouble.append("%s ended with %s after SIGTERM" % (node.name, code))
            except AssertionError as e:
                trouble.append(str(e))
                node.kill()
        for network in self.networks:
            network.close()
        for node in self.nodes:
            found = SANITIZER.search(node.log())
            if found:
                trouble.append("%s: %s" % (node.name, found.group(0)))
        for path in self.mounts:
            run(["umount", "-l", path])
        seen = self._outcome.result.failures + self._outcome.result.errors
        failed = trouble or any(self in (test, getattr(test, "test_case", None)) for test, _ in seen)
        if failed:
            print("\n--- %s failed; kept: %s" % (self.id(), self.root), flush=True)
            for node in self.nodes:
                print("--- log of %s:\n%s" % (node.name, "\n".join(node.log().splitlines()[-25:])), flush=True)
        else:
            shutil.rmtree(self.root, ignore_errors=True)
        if trouble:
            self.fail("; ".join(trouble))


def main():
    for binary in (STARLINGD, STARLING):
        if not os.access(binary, os.X_OK):
            raise SystemExit("no %s: build first, or set STARLING_BUILD" % binary)
    unittest.main(verbosity=2)
