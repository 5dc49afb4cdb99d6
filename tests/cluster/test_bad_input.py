"""Bad input: one clear line that names the thing, the rest keeps working, nothing is lost."""
import os
import random
import shutil
import socket
import struct

import harness
from harness import ClusterTest, connect, daemon, holds, poll, run

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v TEXT);"


class Base(ClusterTest):
    def one_line(self, done, *words):
        """Wrong usage, configuration or port: exit 2 and one line that says what, where and how to mend."""
        self.assertEqual(done.code, 2, done)
        self.assertEqual(done.out, "", "nothing on standard output")
        lines = [line for line in done.err.splitlines() if line.strip()]
        self.assertEqual(len(lines), 1, done)
        self.assertTrue(lines[0].isprintable(), lines)
        for w in words:
            self.assertIn(str(w).lower(), lines[0].lower())

    def named(self, node, name, limit=5):
        """The log names a thing, and not again and again."""
        lines = poll(lambda: node.log_lines(name), what="%s says something about %s" % (node.name, name))
        self.assertLessEqual(len(lines), limit, lines)
        return lines

    def works(self, a, b, key="fine"):
        a.sql("INSERT INTO item VALUES (?, 'x')", (key,))
        self.eventually(b, "SELECT count(*) FROM item WHERE id = ?", [(1,)], (key,))


class Databases(Base):
    def pair(self, prepare):
        a = self.make("n0")
        a.script(ITEMS)
        prepare(a)
        a.start()
        b = self.make("n1", join=[a]).start()
        poll(lambda: b.has_tables("item"))
        return a, b

    def test_not_a_database(self):
        def prepare(a):
            with open(a.path("bad.db"), "w") as f:
                f.write("this is not a database\n" * 500)
        a, b = self.pair(prepare)
        self.works(a, b)
        self.named(a, "bad.db")
        entry = a.database("bad.db")
        if entry:
            self.assertEqual(entry["state"], "error")
            self.assertTrue(entry["error"])
        with open(a.path("bad.db")) as f:
            self.assertTrue(f.read().startswith("this is not"), "left as it was")
        # mended: taken up by itself
        os.remove(a.path("bad.db"))
        a.script(ITEMS, "bad.db")
        a.sql("INSERT INTO item VALUES ('mended', '')", db="bad.db")
        poll(lambda: b.has_tables("item", db="bad.db"))
        self.eventually(b, "SELECT id FROM item", [("mended",)], db="bad.db")

    def test_what_stands_in_the_way_of_a_database(self):
        a = self.make("n0")
        a.script("CREATE TABLE there(id INTEGER PRIMARY KEY); INSERT INTO there VALUES (7);", db="data.bin")
        a.start()
        b = self.make("n1", join=[a])
        with open(b.path("data.bin"), "w") as f:
            f.write("a text")
        b.start()
        self.named(b, "data.bin")
        with open(b.path("data.bin")) as f:
            self.assertEqual(f.read(), "a text", "left as it was")
        os.truncate(b.path("data.bin"), 0)  # not removed: the place is never free
        poll(lambda: b.has_tables("there", db="data.bin") and b.sql("SELECT id FROM there", db="data.bin") == [(7,)])

    def test_a_corrupt_database(self):
        def prepare(a):
            a.script(ITEMS + "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 5000) INSERT INTO item SELECT 'key' || i, 'some text ' || i FROM s;",
                     "bad.db", journal="DELETE")
            with open(a.path("bad.db"), "r+b") as f:
                for page in range(3, 40):
                    f.seek(page * 4096)
                    f.write(os.urandom(4096))
        a, b = self.pair(prepare)
        self.works(a, b)
        self.named(a, "bad.db")
        poll(lambda: a.database("bad.db")["state"] == "error" and a.database("bad.db")["error"])
        self.assertEqual(a.cli("wait", "--converged", "--timeout", 1).code, 1, "converged with a database that cannot be read")
        lines = a.log_lines("bad.db: the database is corrupt (")  # tried again several times by now
        self.assertEqual(len(lines), 1, lines)
        self.assertIn("restore it from a backup", lines[0])
        self.assertNotIn("not an error", lines[0])

    def test_only_half_of_a_database(self):
        def prepare(a):
            a.script(ITEMS, "half.db", journal="DELETE")
            with open(a.path("half.db"), "r+b") as f:
                f.truncate(1000)
            open(a.path("empty.db"), "w").close()
        a, b = self.pair(prepare)
        self.works(a, b)
        self.named(a, "half.db")
        a.script(ITEMS, "empty.db")  # a program has only begun to make it
        a.sql("INSERT INTO item VALUES ('grown', '')", db="empty.db")
        poll(lambda: b.has_tables("item", db="empty.db"))
        self.eventually(b, "SELECT id FROM item", [("grown",)], db="empty.db")

    def test_deleted_under_us(self):
        c = self.cluster(2, ITEMS)
        c[0].script(ITEMS, "other.db")
        poll(lambda: c[1].has_tables("item", db="other.db"))
        for end in ("", "-wal", "-shm"):
            if os.path.exists(c[0].path("other.db" + end)):
                os.remove(c[0].path("other.db" + end))
        self.works(c[0], c[1])
        self.named(c[0], "other.db", limit=20)
        self.assertTrue(c[1].has_tables("item", db="other.db"), "a file that is gone is no deletion of rows")

    def test_an_older_copy_restored(self):
        """Somebody puts a backup in place: what the cluster has is not undone by it."""
        c = self.cluster(2, ITEMS)
        con = c[1].connect()
        con.executemany("INSERT INTO item VALUES (?, 'old')", [("o%d" % i,) for i in range(5)])
        c.converge()
        backup = connect(os.path.join(self.root, "backup.db"))
        con.backup(backup)
        backup.close()
        con.executemany("INSERT INTO item VALUES (?, 'new')", [("n%d" % i,) for i in range(3)])
        con.execute("UPDATE item SET v = 'changed' WHERE id = 'o1'")
        con.close()
        c.converge()
        c[1].kill()
        for end in ("-wal", "-shm"):
            if os.path.exists(c[1].path() + end):
                os.remove(c[1].path() + end)
        shutil.copy(os.path.join(self.root, "backup.db"), c[1].path())
        c[1].restart()
        self.works(c[1], c[0], "after the restore")
        self.eventually(c[0], "SELECT count(*), sum(v = 'changed'), sum(v = 'new') FROM item", [(9, 1, 3)])
        c.converge()

    def test_folders_that_loop(self):
        def prepare(a):
            os.symlink(".", a.path("loop"))
            os.symlink("/nowhere/at/all", a.path("dangling.db"))
            os.mkfifo(a.path("fifo.db"))
            os.makedirs(a.path("folder.db"))
        a, b = self.pair(prepare)
        self.works(a, b)
        self.assertIn("app.db", [d["name"] for d in a.status()["databases"]])
        self.assertEqual([d["name"] for d in a.status()["databases"] if d["name"].endswith("app.db")], ["app.db"])


@harness.unittest.skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root to become somebody else")
class Permissions(Base):
    NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

    def nobody(self, name, **kw):
        """A node that runs as nobody, from a copy of the program that nobody may execute."""
        binary = os.path.join(self.root, "starlingd")
        shutil.copy(harness.STARLINGD, binary)
        os.chmod(binary, 0o755)
        node = self.make(name, wrap=self.NOBODY, binary=binary, **kw)
        for folder in (node.folder, node.instance):
            os.chown(folder, 65534, 65534)
        return node

    def mine(self, node):
        for folder, _, files in os.walk(node.instance):
            for f in files:
                os.chown(os.path.join(folder, f), 65534, 65534)

    def test_no_permission_and_read_only(self):
        a = self.nobody("n0")
        a.script(ITEMS)
        a.script(ITEMS, "secret.db", journal="DELETE")
        a.script(ITEMS, "readonly.db", journal="DELETE")
        self.mine(a)
        os.chown(a.path("secret.db"), 0, 0)
        os.chmod(a.path("secret.db"), 0o600)
        os.chmod(a.path("readonly.db"), 0o444)
        a.start()
        b = self.make("n1", join=[a]).start()
        poll(lambda: b.has_tables("item"))
        self.works(b, a)
        for name in ("secret.db", "readonly.db"):
            self.named(a, name)
            entry = a.database(name)
            self.assertEqual(entry["state"], "error")
            self.assertTrue(entry["error"])
        os.chown(a.path("secret.db"), 65534, 65534)
        os.chmod(a.path("readonly.db"), 0o644)
        for name in ("secret.db", "readonly.db"):
            poll(lambda: a.database(name)["state"] == "ok", 20, "%s is taken up when it may be" % name)

    def test_no_permission_for_the_state(self):
        a = self.nobody("n0")
        os.chown(a.instance, 0, 0)
        os.chmod(a.instance, 0o755)
        done = run(a.command())
        self.one_line(done, a.instance)

    def test_no_permission_for_the_instance(self):
        a = self.nobody("n0")
        os.chown(a.instance, 0, 0)
        os.chmod(a.instance, 0o700)
        done = run(a.command())
        self.one_line(done, a.instance)

    def test_a_folder_nobody_may_look_into(self):
        a = self.nobody("n0")
        a.script(ITEMS)
        a.script(ITEMS, "closed/other.db")
        self.mine(a)
        os.chmod(os.path.dirname(a.path("closed/other.db")), 0o700)
        a.start()
        self.named(a, "closed")
        self.assertIn("give the user who runs starlingd the right", a.log_lines("closed")[0])
        poll(lambda: a.database()["state"] == "ok")
        checked = run([*a.command(), "--check", "--state", os.path.join(a.instance, "nothing")])
        self.assertEqual(len([line for line in checked.out.splitlines() if "closed" in line and line.startswith("warning")]), 1, checked)
        a.script(ITEMS, "later.db")  # folders are looked through again
        os.chown(a.path("later.db"), 65534, 65534)
        poll(lambda: a.database("later.db"))
        self.named(a, "closed", limit=1)
        os.chmod(os.path.dirname(a.path("closed/other.db")), 0o600)  # names can be read, files cannot be opened
        os.chown(os.path.dirname(a.path("closed/other.db")), 65534, 65534)
        holds(lambda: len(a.log_lines("closed")) == 1, 1.5, "told once")
        os.chmod(os.path.dirname(a.path("closed/other.db")), 0o700)
        poll(lambda: (a.database("closed/other.db") or {}).get("state") == "ok", 20, "taken up when it may be")


class Disk(Base):
    def rows(self, node, n, size=4000, prefix="r"):
        con = node.connect()
        for i in range(n):
            con.execute("INSERT INTO item VALUES (?, hex(randomblob(?)))", ("%s%d" % (prefix, i), size // 2))
        con.close()

    def test_no_room_for_the_state(self):
        state = os.path.join(self.root, "state")
        self.small_disk(state, "1m")
        a = self.make("n0", extra=["--state", state])
        a.script(ITEMS)
        a.start()
        b = self.make("n1", join=[a]).start()
        poll(lambda: b.has_tables("item"))
        self.rows(a, 500)  # 2 MB: never refused to the app
        poll(lambda: a.log_lines("full") or a.log_lines("space"), 20, "a line about the full disk")
        self.assertTrue(a.running)
        done = run([harness.STARLING, "--socket", os.path.join(state, "admin.sock"), "--json", "status"])
        self.assertEqual(done.code, 0, done)
        self.assertFalse(any(p["in_sync"] for p in done.json()["peers"]), "in sync without room to work")
        self.grow_disk(state, "64m")
        self.eventually(b, "SELECT count(*) FROM item", [(500,)], deadline=20)
        self.assertEqual(a.dump(), b.dump())
        self.assertLess(len(a.log_lines("full") + a.log_lines("space")), 40, "a line, not a storm")

    def test_no_room_for_what_others_wrote(self):
        a = self.make("n0")
        a.script(ITEMS)
        a.start()
        b = self.make("n1", join=[a], extra=["--state", os.path.join(self.root, "state1")])
        self.small_disk(b.instance, "2m")
        b.start()
        poll(lambda: b.has_tables("item"))
        self.rows(a, 1000)
        poll(lambda: b.log_lines("full") or b.log_lines("space"), 20, "a line about the full disk")
        self.assertEqual(a.cli("wait", "--converged", "--timeout", 1).code, 1)
        self.assertFalse(a.peer(b)["in_sync"])
        self.grow_disk(b.instance, "64m")
        self.eventually(b, "SELECT count(*) FROM item", [(1000,)], deadline=20)
        self.assertEqual(a.dump(), b.dump())


class Start(Base):
    def test_port_taken(self):
        node = self.make("n0")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            port = s.getsockname()[1]
            self.one_line(daemon("--instance", node.instance, "--listen", "127.0.0.1:%d" % port), port)

    def test_second_daemon_on_the_same_state(self):
        a = self.make("n0").start()
        done = daemon("--instance", a.instance, "--listen", "127.0.0.1:0")
        self.assertIn(done.code, (1, 2), done)
        self.assertEqual(len(done.err.strip().splitlines()), 1, done)
        self.assertEqual(a.status()["node"]["state"], "running")

    def test_no_instance(self):
        self.one_line(daemon(), "--instance")
        self.one_line(daemon("--instance", os.path.join(self.root, "nowhere"), "--listen", "127.0.0.1:0"), "nowhere")
        plain = os.path.join(self.root, "plain")
        open(plain, "w").close()
        self.one_line(daemon("--instance", plain, "--listen", "127.0.0.1:0"), "plain")

    def test_wrong_words(self):
        node = self.make("n0")
        base = ["--instance", node.instance]
        for extra, words in ((["--nonsense"], ["--nonsense"]), (["--listen", "nowhere"], ["listen"]), (["--listen", "127.0.0.1:99999"], ["99999"]),
                             (["--join"], ["--join"]), (["--set", "colour=blue"], ["colour"]), (["--set", "log_level"], ["log_level"]),
                             (["--log-level", "loud"], ["loud"]), (["--log-format", "xml"], ["xml"]), (["--config", "/nowhere/file"], ["/nowhere/file"]),
                             (["--name", "a b\n"], ["name"]), (["--name", "a\x1b[31m"], ["name"]),
                             (["--cluster", "red\nblue"], ["cluster"]), (["--advertise", "pit\n:7"], ["advertise"]), (["--listen", "127.0.0.1\n:7"], ["listen"]),
                             (["--listen", "127.0.0.1:7\n"], ["listen"]), (["--join", "pit\x01"], ["join"]), (["--join", "pit\n:7171"], ["join"]), (["stray"], ["stray"]), (["--listen", "203.0.113.7:0"], ["203.0.113.7"])):
            with self.subTest(extra):
                self.one_line(daemon(*base, *extra), *words)

    def test_bad_configuration_file(self):
        node = self.make("n0")
        path = os.path.join(self.root, "starling.conf")
        for text in ("colour = blue\n", "name = \n", "database {\n", "log_level = loud\n", "join = { \"a\"\n", "\0\1\2\3", "x" * 100000):
            with self.subTest(text[:20]):
                with open(path, "w") as f:
                    f.write(text)
                self.one_line(daemon("--instance", node.instance, "--config", path, "--print-config"), path)

    def test_not_in_this_build(self):
        node = self.make("n0")
        for extra in (["--http", "127.0.0.1:0"],):
            with self.subTest(extra):
                self.one_line(daemon("--instance", node.instance, "--listen", "127.0.0.1:0", *extra), "not in this build", extra[0][2:])
        self.assertEqual(os.listdir(node.instance), [], "nothing was changed")


class Peers(Base):
    def test_other_cluster_name(self):
        a = self.make("n0", extra=["--cluster", "red"]).start()
        b = self.make("n1", join=[a], extra=["--cluster", "blue"]).start()
        a.script(ITEMS)
        for n, words in ((a, "blue"), (b, "red")):
            self.named(n, words, limit=8)
        holds(lambda: a.alive() == 1 and b.alive() == 1 and not os.path.exists(b.path()), 1.0)
        c = self.make("n2", join=[a], extra=["--cluster", "red"]).start()
        poll(lambda: c.has_tables("item"))

    def test_public_addresses_are_refused(self):
        """What a member announces is no reason to dial the world; what --join names is."""
        a = self.make("n0").start()
        far = self.make("n1", join=[a], extra=["--advertise", "203.0.113.7:7171"]).start()
        b = self.make("n2", join=[a]).start()
        poll(lambda: b.alive() == 3)
        far.stop()  # now the others would dial it
        self.assertIn("is not dialled: 203.0.113.7:7171 is not on the allow list", self.named(b, "203.0.113.7")[0])

        def dialled():
            with open("/proc/net/tcp") as f:
                return any("077100CB:" in line.split()[2] for line in f)
        holds(lambda: not dialled(), 1.0, "no attempt to connect to a public address")
        poll(lambda: a.alive() == 2)

    def send(self, node, *pieces, wait=True):
        """Sends bytes and reads until the node closes. What it said."""
        said = b""
        with socket.create_connection(("127.0.0.1", node.port), timeout=20 * harness.SLOW) as s:
            try:
                for p in pieces:
                    s.sendall(p)
                while wait:
                    more = s.recv(65536)
                    if not more:
                        break
                    said += more
            except (ConnectionError, BrokenPipeError):
                pass
        return said

    def test_garbage_on_the_port(self):
        c = self.cluster(2, ITEMS)
        seed = random.randrange(1 << 32)
        print("seed %d" % seed)
        rng = random.Random(seed)
        frame = lambda body: struct.pack(">I", len(body)) + body
        begun = b"starling\1"
        rubbish = [begun, begun + b"\1\0\x20" + bytes(32), begun + b"\1\0\x20" + rng.randbytes(32) + b"\1\0\x40" + rng.randbytes(64), begun + b"\1\xff\xff" + rng.randbytes(70000),
                   begun + rng.randbytes(1000), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500), b"\xff" * 100,
                   struct.pack(">I", 0xffffffff), struct.pack(">I", 1 << 20 | 1), struct.pack(">I", 0) * 50, frame(b"\xdd\xff\xff\xff\xff"), frame(b"\xdf\xff\xff\xff\xff"),
                   frame(b"\xc6\xff\xff\xff\xff"), frame(b"\x91" * 100000), frame(b"\x81\xa1a" * 30000), frame(b""), frame(b"\xc1"), frame(b"\x00"), frame(b"\x90"), frame(b"\x80"),
                   rng.randbytes(3_000_000)] + [frame(rng.randbytes(rng.randrange(1, 300))) for _ in range(60)]
        before = c[0].status()["node"]["rss_bytes"]
        for r in rubbish:
            self.send(c[0], r)
        self.assertTrue(c[0].running)
        self.assertLess(c[0].status()["node"]["rss_bytes"] - before, 64 << 20, "memory on a stranger's word")
        self.works(c[0], c[1])
        self.assertEqual(c[0].alive(), 2)
        self.assertEqual(c[0].status()["cluster"]["members"], 2)
        self.assertLessEqual(len(c[0].log().splitlines()), 2 * len(rubbish) + 60, "at most a line each")

    def test_silent_and_slow_strangers(self):
        c = self.cluster(2, ITEMS)
        held = []
        try:
            for i in range(150):
                s = socket.create_connection(("127.0.0.1", c[0].port), timeout=5)
                if i % 2:
                    s.sendall(b"starling\1\1\0\x20"[:i % 12 + 1])
                held.append(s)
            self.works(c[0], c[1])
            folder = "/proc/%d/fd" % c[0].proc.pid
            links = [os.readlink(os.path.join(folder, fd)) for fd in os.listdir(folder) if os.path.lexists(os.path.join(folder, fd))]
            self.assertLess(len([to for to in links if to.startswith("socket:")]), 64 + 16, "the others wait in the backlog")
            third = self.make("n2", join=[c[0]]).start()
            poll(lambda: third.alive() == 3)
            # strangers that say nothing are shown out

            def shown_out(s):
                s.setblocking(False)
                try:
                    while s.recv(65536):
                        pass
                    return True
                except BlockingIOError:
                    return False
                except ConnectionError:
                    return True
            poll(lambda: all(shown_out(s) for s in held), 20, "silent strangers are closed")
        finally:
            for s in held:
                s.close()

    def test_other_protocol_version(self):
        """What a real node begins with, with another version number in it: both sides say so."""
        a = self.make("n0").start()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.settimeout(10 * harness.SLOW)
            b = self.make("n1", join=["127.0.0.1:%d" % listener.getsockname()[1]]).start()
            link, _ = listener.accept()
            with link:
                link.settimeout(10 * harness.SLOW)
                begin = self.exactly(link, 12)
                begin += self.exactly(link, struct.unpack(">H", begin[10:])[0])
                self.assertEqual(begin[:9], b"starling\1")
                said = self.send(a, begin[:8] + b"\x63" + begin[9:])
                self.assertEqual(said, b"starling\1" + b"\2\0\1\4", "refused, for its version")
                self.named(a, "version", limit=4)
                link.sendall(b"starling\x63" + b"\2\0\1\4")
                self.named(b, "version", limit=4)
        b.stop()
        self.assertEqual(a.status()["cluster"]["members"], 1)

    def exactly(self, link, n):
        out = b""
        while len(out) < n:
            more = link.recv(n - len(out))
            self.assertTrue(more)
            out += more
        return out

    @harness.unittest.skip("no network file system can be mounted here")
    def test_network_file_system(self):
        pass


if __name__ == "__main__":
    harness.main()
