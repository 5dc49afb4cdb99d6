"""Thirty nodes on loopback: how fast they meet, hear of a change, miss one that was killed, and what they cost when nothing happens. Beside them,
when it is installed, Debian's serf with the same numbers. What processes write is timed as it arrives here, so both are measured alike."""
import json
import os
import re
import selectors
import shutil
import socket
import sqlite3
import statistics
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def centile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


class Fleet:
    """Processes that run at once, and what they say, with the moment."""

    def __init__(self, commands):
        self.lines, self.selector, self.rest = [], selectors.DefaultSelector(), {}
        self.processes = [subprocess.Popen(c, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for c in commands]
        for i, p in enumerate(self.processes):
            os.set_blocking(p.stdout.fileno(), False)
            self.selector.register(p.stdout, selectors.EVENT_READ, i)

    def hear(self, seconds):
        for key, _ in self.selector.select(seconds):
            data, now = os.read(key.fileobj.fileno(), 1 << 16), time.monotonic()
            if not data:
                self.selector.unregister(key.fileobj)
            *whole, self.rest[key.data] = (self.rest.get(key.data, b"") + data).split(b"\n")
            self.lines += [(now, key.data, line.decode(errors="replace")) for line in whole]

    def until(self, what, seconds, seen):
        """Listens until seen(lines) gives something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = seen(self.lines)
            if found:
                return found
            self.hear(0.05)
        raise RuntimeError(f"not within {seconds} s: {what}")

    def listen(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.hear(min(0.05, max(0, end - time.monotonic())))

    def firsts(self, pattern):
        """{(process, who): when it first said so}"""
        found = {}
        for when, i, line in self.lines:
            m = re.search(pattern, line)
            if m:
                found.setdefault((i, m.group(1)), when)
        return found

    def cost(self, seconds):
        """CPU of a core in %, MiB in memory, and MiB that no other process shares: means over the processes, while nothing happens."""
        def used(p):
            with open(f"/proc/{p.pid}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / TICKS

        def memory(p, what):
            with open(f"/proc/{p.pid}/status") as status:
                return next(int(line.split()[1]) / 1024 for line in status if line.startswith(what))

        running = [p for p in self.processes if p.poll() is None]
        before = [used(p) for p in running]
        self.listen(seconds)
        return (100 * statistics.mean(used(p) - b for p, b in zip(running, before)) / seconds,
                *(statistics.mean(memory(p, what) for p in running) for what in ("VmRSS:", "RssAnon:")))

    def end(self):
        for p in self.processes:
            if p.poll() is None:
                p.terminate()
        for p in self.processes:
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
            p.stdout.close()


def ask(folder, verb, args=None):
    """A connection to a node's socket on which a request was made."""
    s = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    try:
        s.connect(os.path.join(".starling", "admin.sock"))
    finally:
        os.chdir(here)
    s.sendall(json.dumps({"verb": verb, "args": args or {}}).encode() + b"\n")
    return s


def met(pattern, count):
    def seen(lines, fleet):
        found = {k: v for k, v in fleet.firsts(pattern).items() if k[1] != f"n{k[0] + 1}"}  # serf's agents also name themselves
        return found if len(found) >= count * (count - 1) else None
    return seen


def killed(bench, fleet, name, pattern, runs, goal):
    """Kills some, one after the other; how long until each of the others has said so."""
    took, left = [], list(range(len(fleet.processes)))
    for _ in range(runs):
        victim = left.pop()
        start = time.monotonic()
        fleet.processes[victim].kill()
        seen = lambda _: (lambda f: f if len(f) >= len(left) else None)(  # noqa: E731
            {k: v for k, v in fleet.firsts(pattern % (victim + 1)).items() if v > start and k[0] in left})
        took += [(when - start) * 1000 for when in fleet.until(f"{name}: all notice that one was killed", 60, seen).values()]
        fleet.listen(1)
    bench.report.add(f"{name}: a killed process is noticed, p99 of all others", centile(took, 0.99), "ms", goal,
                     note=f"p50 {statistics.median(took):.1f} ms, worst {max(took):.1f}")


def event(bench, folders, count, commits):
    """One row commits on the first; when each other node has shown it."""
    watching = {}
    selector = selectors.DefaultSelector()
    for folder in folders[1:]:
        s = ask(folder, "watch", {"filters": ["app.db"]})
        selector.register(s, selectors.EVENT_READ)
        watching[s] = b""
    db = sqlite3.connect(os.path.join(folders[0], "app.db"), isolation_level=None)
    db.execute("PRAGMA synchronous = NORMAL")
    took, missing = [], 0
    for i in range(commits):
        db.execute("INSERT INTO entry (text) VALUES (?)", (f"event {i}",))
        start, waiting = time.monotonic(), set(watching)
        while waiting and time.monotonic() - start < 10:
            for key, _ in selector.select(0.5):
                data = key.fileobj.recv(1 << 16)
                if f"event {i}\"".encode() in data or f"event {i}\\" in repr(data):
                    waiting.discard(key.fileobj)
                    took.append((time.monotonic() - start) * 1000)
        missing += len(waiting)
    db.close()
    for s in watching:
        s.close()
    add = bench.report.add
    add(f"{count} nodes: a commit is shown on another one, p50", statistics.median(took), "ms", note="two syncs on the way, all on this machine's cores")
    add(f"{count} nodes: the same, p99", centile(took, 0.99), "ms", note=f"worst {max(took):.1f} ms")
    add(f"{count} nodes: events that did not come", missing, "", 0)


def thirty(bench):
    count = bench.pick(30, 5)
    ports, folders = free_ports(count), [bench.path(f"n{i + 1}") for i in range(count)]
    for folder in folders:
        os.makedirs(folder)
    db = sqlite3.connect(os.path.join(folders[0], "app.db"))
    db.executescript("PRAGMA journal_mode = WAL; CREATE TABLE entry (id INTEGER PRIMARY KEY, text TEXT)")
    db.close()
    fleet = Fleet([[os.path.join(bench.build, "starlingd"), "--instance", folders[i], "--name", f"n{i + 1}", "--cluster", "bench", "--listen",
                    f"127.0.0.1:{ports[i]}", "--log-level", "info", "--join", f"127.0.0.1:{ports[0]}", "--join", f"127.0.0.1:{ports[1]}"]
                   for i in range(count)])
    try:
        found = fleet.until("everyone is linked with everyone", 60, lambda lines: met(r'"(n\d+)" \(.*: connected', count)(lines, fleet))
        last = max(when for when, _, line in fleet.lines if line.startswith("ready "))
        bench.report.add(f"{count} nodes start at once: everyone knows everyone, after the last one listens", (max(found.values()) - last) * 1000,
                         "ms", 150)
        fleet.listen(bench.pick(5, 2))
        event(bench, folders, count, bench.pick(500, 20))
        fleet.listen(bench.pick(15, 6))  # what follows a start and writes is over
        cpu, memory, own = fleet.cost(bench.pick(20, 2))
        bench.report.add(f"{count} nodes idle: CPU of a core, mean", cpu, "%", 0.05)
        bench.report.add(f"{count} nodes idle: memory, mean", memory, "MiB", 6, note=f"{own:.1f} of its own, the rest is the programs' and libraries' files")
        killed(bench, fleet, f"{count} nodes", r'"(n%d)" \(.*: connection lost', bench.pick(5, 1), 20)
    finally:
        fleet.end()


def serf(bench):
    program, count = shutil.which("serf"), bench.pick(30, 5)
    if not program:
        bench.report.failed("serf", "not installed (apt-get install serf): nothing to compare with")
        return
    ports = free_ports(2 * count)
    for profile in ("lan", "local"):
        fleet = Fleet([[program, "agent", f"-node=n{i + 1}", f"-bind=127.0.0.1:{ports[i]}", f"-rpc-addr=127.0.0.1:{ports[count + i]}",
                        f"-profile={profile}", f"-retry-join=127.0.0.1:{ports[0]}", "-retry-interval=100ms", "-log-level=info"] for i in range(count)])
        try:
            found = fleet.until("serf: everyone knows everyone", 90, lambda lines: met(r"EventMemberJoin: (n\d+) ", count)(lines, fleet))
            last = max(when for when, _, line in fleet.lines if "agent running" in line.lower())
            bench.report.add(f"serf ({profile}), {count} agents: everyone knows everyone", (max(found.values()) - last) * 1000, "ms")
            fleet.listen(bench.pick(10, 2))
            cpu, memory, own = fleet.cost(bench.pick(20, 2))
            bench.report.add(f"serf ({profile}) idle: CPU of a core, mean", cpu, "%", note=f"{memory:.1f} MiB, {own:.1f} of its own")
            killed(bench, fleet, f"serf ({profile})", r"EventMemberFailed: (n%d) ", bench.pick(3, 1), None)
        finally:
            fleet.end()
