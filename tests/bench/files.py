"""Files beside the databases: from one server to another on loopback, beside Debian's rsync and syncthing in the same run."""
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import time
import urllib.request

from nodes import Node, until

MIB = 1 << 20


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def family(pid):
    """A process and its children: syncthing works in one of these."""
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [pid, *map(int, children.read().split())]


class Starling:
    """Two nodes. What is measured includes still_ms, which is subtracted: it is a choice, not a cost."""
    still_s = 0.05

    def __init__(self, bench, folder):
        extra = ["--set", f"still_ms={int(1000 * self.still_s)}"]
        self.a = Node(bench.build, os.path.join(folder, "a"), "a", extra=extra)
        self.b = Node(bench.build, os.path.join(folder, "b"), "b", [self.a.address], extra=extra)
        until("the nodes are linked", 30, lambda: self.a.ask("wait", "--members", "2", "--timeout", "30", check=False) == 0)
        self.source, self.sink = self.a.folder, self.b.folder

    def trigger(self):
        """The nodes watch."""

    def sent(self):
        """On content connections; the row of the index adds some hundred bytes."""
        return sum(n.ask("files", "status")["sent_bytes"] for n in (self.a, self.b))

    def cost(self):
        return self.a.cpu_s() + self.b.cpu_s(), max(self.a.memory_mib("VmHWM"), self.b.memory_mib("VmHWM"))

    def stop(self):
        self.a.stop()
        self.b.stop()


class Rsync:
    """A daemon on loopback, plain text; a run a change, with --fsync where this rsync has it."""
    still_s = 0

    def __init__(self, bench, folder):
        self.source, self.sink = os.path.join(folder, "a"), os.path.join(folder, "b")
        os.makedirs(self.source)
        os.makedirs(self.sink)
        self.port, self.cpu, self.bytes = free_port(), 0.0, 0
        config = os.path.join(folder, "rsyncd.conf")
        with open(config, "w") as f:
            f.write(f"use chroot = no\npid file = {folder}/rsyncd.pid\n[sink]\npath = {self.sink}\nread only = no\n")
            if os.geteuid() == 0:
                f.write("uid = root\ngid = root\n")
        self.daemon = subprocess.Popen(["rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={self.port}", "--address=127.0.0.1"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("rsync listens", 10, self._listens)
        text = subprocess.run(["rsync", "--help"], capture_output=True, text=True).stdout
        self.options = ["--fsync"] if "--fsync" in text else []

    def _listens(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def trigger(self):
        before = os.times()
        done = subprocess.run(["rsync", "-a", "--no-whole-file", "--stats", *self.options, self.source + "/", f"rsync://127.0.0.1:{self.port}/sink/"],
                              capture_output=True, text=True, check=True)
        after = os.times()
        self.cpu += after.children_user - before.children_user + after.children_system - before.children_system
        self.bytes += sum(int(n.replace(",", "")) for n in re.findall(r"Total bytes (?:sent|received): ([\d,]+)", done.stdout))

    def sent(self):
        return self.bytes

    def cost(self):
        return self.cpu, None

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait()


class Syncthing:
    """Two instances that know each other's address: no discovery, no relays, as fast as its settings allow."""
    still_s = 0  # not subtracted: its watcher waits a second at least

    def __init__(self, bench, folder):
        self.homes = [os.path.join(folder, "home-" + n) for n in "ab"]
        self.source, self.sink = os.path.join(folder, "a"), os.path.join(folder, "b")
        self.ports, self.gui = [free_port(), free_port()], [free_port(), free_port()]
        ids = []
        for home, path in zip(self.homes, (self.source, self.sink)):
            os.makedirs(os.path.join(path, ".stfolder"))
            subprocess.run(["syncthing", "generate", f"--home={home}", "--no-default-folder"], check=True, capture_output=True)
            ids.append(subprocess.run(["syncthing", f"--home={home}", "--device-id"], check=True, capture_output=True, text=True).stdout.strip())
        for i, path in enumerate((self.source, self.sink)):
            with open(os.path.join(self.homes[i], "config.xml"), "w") as f:
                f.write(self._config(i, ids, path))
        self.processes = [subprocess.Popen(["syncthing", "serve", f"--home={home}", "--no-browser", "--no-restart"],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "STNOUPGRADE": "1"})
                          for home in self.homes]
        until("the two are connected", 60, lambda: self._get(0, "/rest/system/connections")["connections"].get(ids[1], {}).get("connected"))

    def _config(self, i, ids, path):
        devices = "".join(f'<device id="{d}" name="{"ab"[n]}" compression="metadata"><address>tcp://127.0.0.1:{self.ports[n]}</address></device>'
                          for n, d in enumerate(ids))
        members = "".join(f'<device id="{d}"/>' for d in ids)
        return (f'<configuration version="35"><folder id="f" path="{path}" type="sendreceive" rescanIntervalS="3600" fsWatcherEnabled="true" '
                f'fsWatcherDelayS="1">{members}<filesystemType>basic</filesystemType></folder>{devices}'
                f'<gui enabled="true" tls="false"><address>127.0.0.1:{self.gui[i]}</address><apikey>bench</apikey></gui><options>'
                f'<listenAddress>tcp://127.0.0.1:{self.ports[i]}</listenAddress><globalAnnounceEnabled>false</globalAnnounceEnabled>'
                '<localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>'
                '<urAccepted>-1</urAccepted><autoUpgradeIntervalH>0</autoUpgradeIntervalH><crashReportingEnabled>false</crashReportingEnabled>'
                '</options></configuration>')

    def _get(self, i, path):
        request = urllib.request.Request(f"http://127.0.0.1:{self.gui[i]}{path}", headers={"X-API-Key": "bench"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {"connections": {}, "total": {}}

    def trigger(self):
        """It watches."""

    def sent(self):
        total = self._get(0, "/rest/system/connections").get("total", {})
        return total.get("inBytesTotal", 0) + total.get("outBytesTotal", 0)

    def cost(self):
        cpu, peak = 0.0, 0
        for pid in [pid for process in self.processes for pid in family(process.pid)]:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            with open(f"/proc/{pid}/status") as status:
                peak = max(peak, next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:")))
        return cpu, peak

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


def random_file(path, size):
    with open(path, "wb") as f:
        for at in range(0, size, 16 * MIB):
            f.write(os.urandom(min(16 * MIB, size - at)))


def arrives(tool, name, change, seconds=300):
    """The time from the end of a change to the identical file there."""
    change()
    source, sink = os.path.join(tool.source, name), os.path.join(tool.sink, name)
    want, begin = os.stat(source), time.monotonic()
    tool.trigger()

    def there():
        with contextlib.suppress(OSError):
            st = os.stat(sink)
            return st.st_size == want.st_size and int(st.st_mtime) == int(want.st_mtime) and st.st_ino != there.before
        return False
    there.before = os.stat(sink).st_ino if os.path.exists(sink) else 0
    if tool.__class__ is Rsync:
        there.before = 0
    until(f"{name} arrives", seconds, there, every=0.001)
    took = time.monotonic() - begin - tool.still_s
    if subprocess.run(["cmp", "-s", source, sink]).returncode != 0:
        raise RuntimeError(f"{name} is not the same")
    return max(took, 0.0)


def one_tool(bench, tool, name, goals):
    """goals: for ours; the others' rows have none."""
    def put(what, value, unit, goal=None, note=""):
        bench.report.add(f"{name}: {what}", value, unit, goal if goals else None, note=note)

    def created(path, size):
        return lambda: random_file(os.path.join(tool.source, path), size)

    large, middle, many = bench.pick((1024, 256, 10000), (64, 32, 500))
    for size, goal in ((1024, 30), (MIB, 40)):
        took = [arrives(tool, f"{size}-{i}", created(f"{size}-{i}", size)) for i in range(bench.pick(9, 3))]
        put(f"{size >> 10} KiB: created → identical there, median", 1000 * statistics.median(took), "ms", goal)
    cpu = tool.cost()[0]
    took = arrives(tool, "large", created("large", large * MIB))
    peak = tool.cost()[1]
    put(f"{large} MiB", took, "s", 4.5 if large == 1024 else None, note=f"CPU {tool.cost()[0] - cpu:.1f} s")
    if peak is not None:
        put(f"{large} MiB: memory at most", peak, "MiB", 32)
    os.remove(os.path.join(tool.source, "large"))
    arrives(tool, "middle", created("middle", middle * MIB))

    past = time.time() - 1000

    def flipped():
        with open(os.path.join(tool.source, "middle"), "r+b") as f:
            f.seek(middle * MIB // 3)
            byte = f.read(1)[0]
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte ^ 1]))
        os.utime(os.path.join(tool.source, "middle"), (past - 50, past - 50))  # rsync looks at size and seconds

    def inserted():
        path = os.path.join(tool.source, "middle")
        with open(path, "rb") as f, open(path + ".new", "wb") as out:
            out.write(b"x")
            shutil.copyfileobj(f, out, 16 * MIB)
        os.utime(path + ".new", (past, past))
        os.replace(path + ".new", path)

    for what, change, goal in (("one byte changed", flipped, 0.6), ("a byte put in at the front", inserted, 0.8)):
        before = tool.sent()
        took = arrives(tool, "middle", change)
        sent = tool.sent() - before
        put(f"{middle} MiB, {what}", took, "s", goal if middle == 256 else None)
        if sent > 0:
            put(f"{middle} MiB, {what}: sent", sent / 1000, "kB", 200)
    many_files(tool, put, many)


def many_files(tool, put, count):
    folder, sink = os.path.join(tool.source, "many"), os.path.join(tool.sink, "many")
    aside = tool.source.rstrip("/") + "-many"
    os.makedirs(aside)
    for i in range(count):
        with open(os.path.join(aside, f"f{i}"), "wb") as f:
            f.write(os.urandom(1024))
    os.rename(aside, folder)
    begin = time.monotonic()
    tool.trigger()
    until("they are there", 300, lambda: os.path.isdir(sink) and sum(n[0] == "f" for n in os.listdir(sink)) == count, every=0.01)
    put(f"{count:,} files of 1 KiB, durable", time.monotonic() - begin - tool.still_s, "s", 2.0 if count == 10000 else None)


def files(bench):
    for name, program, tool_class in (("Starling", None, Starling), ("rsync", "rsync", Rsync), ("Syncthing", "syncthing", Syncthing)):
        if program is not None and shutil.which(program) is None:
            bench.report.add(f"{name}: not installed, not measured", 0)
            continue
        folder = bench.path(name)
        os.makedirs(folder)
        tool = tool_class(bench, folder)
        try:
            one_tool(bench, tool, name, tool_class is Starling)
        finally:
            tool.stop()
            shutil.rmtree(folder, ignore_errors=True)
