"""Starts nodes on loopback for the bench, asks them, and ends them by their process."""
import json
import os
import select
import signal
import sqlite3
import subprocess
import time

START_S = 30


class Node:
    """One starlingd on an instance folder of its own, with one database, app.db."""

    def __init__(self, build, folder, name, join=(), extra=()):
        self.build, self.folder, self.name = build, folder, name
        os.makedirs(folder, exist_ok=True)
        self.db = os.path.join(folder, "app.db")
        command = [os.path.join(build, "starlingd"), "--instance", folder, "--name", name, "--cluster", "bench",
                   "--listen", "127.0.0.1:0", "--log-level", "warning", *extra]
        for address in join:
            command += ["--join", address]
        self.log = open(os.path.join(os.path.dirname(folder), name + ".log"), "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log)
        self.address = self._ready()

    def _ready(self):
        line, end = b"", time.monotonic() + START_S
        while not line.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise RuntimeError(f"{self.name} was not ready within {START_S} s; see {self.log.name}")
            part = os.read(self.process.stdout.fileno(), 4096)
            if not part:
                raise RuntimeError(f"{self.name} ended with {self.process.wait()}; see {self.log.name}")
            line += part
        fields = dict(field.split("=", 1) for field in line.decode().split()[1:])
        return fields["listen"]

    def ask(self, *verb, check=True):
        """The CLI's JSON answer, or its exit code when check is off."""
        command = [os.path.join(self.build, "starling"), "--instance", self.folder, "--json", *verb]
        done = subprocess.run(command, capture_output=True, text=True)
        if not check:
            return done.returncode
        if done.returncode != 0:
            raise RuntimeError(f"starling {' '.join(verb)} on {self.name}: {done.stderr.strip() or done.stdout.strip()}")
        return json.loads(done.stdout.splitlines()[-1])

    def database(self):
        found = [d for d in self.ask("status")["databases"] if d["name"] == "app.db"]
        return found[0] if found else None

    def sent_bytes(self):
        return sum(peer["sent_bytes"] for peer in self.ask("status")["peers"])

    def memory_mib(self, field):
        """VmRSS or VmHWM."""
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) / 1024
        raise RuntimeError(f"no {field} of {self.name}")

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def top(self):
        """The highest key shown, -1 before there is a table."""
        if not os.path.exists(self.db):
            return -1
        db = sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=30)
        try:
            return db.execute("SELECT coalesce(max(id), 0) FROM entry").fetchone()[0]
        except sqlite3.OperationalError:
            return -1
        finally:
            db.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log.close()


class Cluster:
    """Nodes that all know each other and hold the same database; the first one's was there before."""

    def __init__(self, build, folder, count, rows):
        self.nodes = []
        first = os.path.join(folder, "n1")
        os.makedirs(first)
        subprocess.run([os.path.join(build, "tests/bench/bench_write"), "create", os.path.join(first, "app.db"), str(rows)],
                       check=True, stdout=subprocess.DEVNULL)
        try:
            for i in range(1, count + 1):
                join = [self.nodes[0].address] if self.nodes else []
                self.nodes.append(Node(build, os.path.join(folder, f"n{i}"), f"n{i}", join))
            until("every node has the database", 60, lambda: all(n.top() == rows for n in self.nodes))
            for node in self.nodes:
                node.ask("wait", "--converged", "--members", str(count), "--timeout", "60")
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        for node in self.nodes:
            node.stop()

    def settle(self):
        for node in self.nodes:
            node.ask("wait", "--converged", "--timeout", "60")


def until(what, seconds, condition, every=0.1):
    """Polls; returns the seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(every)
    return time.monotonic() - start
