"""Links that nobody can read, forge or join uninvited; and changing who may, while everything runs."""
import contextlib
import json
import os
import shutil
import signal
import socket
import threading

import harness
import intruder
from harness import ClusterTest, daemon, free_port, holds, poll, run

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v TEXT);"
MARK = "a text that anybody would know again"


class Line:
    """A TCP proxy before a node which keeps all that passes, and may change it. change(piece, from_dialler) gives what passes instead."""

    def __init__(self):
        self.port_behind, self.change = 0, lambda piece, from_dialler: piece
        self.links, self.lock = [], threading.Lock()  # [what the dialler sent, what it got]
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def address(self):
        return "127.0.0.1:%d" % self.port

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.socket()
                if far.connect_ex(("127.0.0.1", self.port_behind)):
                    near.close()
                    far.close()
                    continue
                kept = [b"", b""]
                with self.lock:
                    self.links.append(kept)
                for source, sink, way in ((near, far, 0), (far, near, 1)):
                    threading.Thread(target=self._pump, args=(source, sink, kept, way), daemon=True).start()

    def _pump(self, source, sink, kept, way):
        with contextlib.suppress(OSError):
            while True:
                piece = source.recv(65536)
                if not piece:
                    break
                with self.lock:
                    kept[way] += piece
                sink.sendall(self.change(piece, way == 0))
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        source.close()

    def passed(self):
        with self.lock:
            return b"".join(a + b for a, b in self.links)


class Base(ClusterTest):
    def secret(self, name="secret"):
        path = os.path.join(self.root, name)
        with open(path, "w") as f:
            f.write(run([harness.STARLING, "keygen"]).out)
        os.chmod(path, 0o600)
        return path

    def said(self, node, *words):
        lines = poll(lambda: node.log_lines(*words), what="%s says %s" % (node.name, words))
        self.assertEqual(len(lines), 1, lines)
        return lines[0]

    def works(self, a, b, key):
        a.sql("INSERT INTO item VALUES (?, 'x')", (key,))
        self.eventually(b, "SELECT count(*) FROM item WHERE id = ?", [(1,)], (key,))


class OnTheLine(Base):
    def pair(self):
        line = Line()
        self.addCleanup(line.close)
        a = self.make("n0", extra=["--advertise", line.address()])
        a.script(ITEMS)
        line.port_behind = a.start().port
        b = self.make("n1", join=[line.address()], extra=["--advertise", "127.0.0.1:1"]).start()  # so that n0 does not dial it beside the line
        poll(lambda: b.has_tables("item"))
        return a, b, line

    def test_nothing_can_be_read(self):
        a, b, line = self.pair()
        a.sql("INSERT INTO item VALUES (?, ?)", (MARK, MARK))
        self.eventually(b, "SELECT v FROM item", [(MARK,)])
        b.sql("UPDATE item SET v = 'back'")
        self.eventually(a, "SELECT v FROM item", [("back",)])
        passed = line.passed()
        self.assertGreater(len(passed), 500)
        for word in (MARK.encode(), b"CREATE TABLE", b"app.db", b"item", b"default", b"127.0.0.1"):
            self.assertNotIn(word, passed)

    def test_changed_bytes(self):
        a, b, line = self.pair()
        spoiled = []

        def spoil(piece, from_dialler):
            if len(spoiled) < 6 and len(piece) > 60:
                spoiled.append(from_dialler)
                return piece[:40] + bytes([piece[40] ^ 1]) + piece[41:]
            return piece
        line.change = spoil
        for i in range(20):
            a.sql("INSERT INTO item VALUES (?, ?)", ("a%d" % i, MARK))
            b.sql("INSERT INTO item VALUES (?, ?)", ("b%d" % i, MARK))
        poll(lambda: len(spoiled) == 6, 60)
        for node in (a, b):
            self.eventually(node, "SELECT count(*), count(DISTINCT v) FROM item", [(40, 1)], deadline=60)
        self.assertTrue(a.log_lines("what came is not what was sent") or a.log_lines("the handshake does not hold") or
                        b.log_lines("what came is not what was sent") or b.log_lines("the handshake does not hold"))
        self.assertEqual(a.database()["conflicts"], 0)

    def test_bytes_that_come_again(self):
        a, b, line = self.pair()
        self.works(b, a, "before")
        again = []

        def twice(piece, from_dialler):
            if from_dialler and not again and len(piece) > 100:
                again.append(piece)
                return piece + piece
            return piece
        line.change = twice
        self.works(b, a, "twice")
        poll(lambda: a.log_lines("what came is not what was sent") if again else None)
        # the same on a link of its own: somebody who kept what n1 said is not n1
        with line.lock:
            kept = line.links[0][0]
        b.stop()
        poll(lambda: a.alive() == 1)
        with socket.create_connection(("127.0.0.1", a.port), timeout=20 * harness.SLOW) as s:
            s.sendall(kept)
            said = b""
            with contextlib.suppress(ConnectionError):
                while True:
                    more = s.recv(65536)
                    if not more:
                        break
                    said += more
        self.said(a, "the handshake does not hold")
        self.assertLess(len(said), 300)
        holds(lambda: a.alive() == 1, 0.5, "nobody came back")

    def test_posing_as_another(self):
        a, b, _ = self.pair()
        b_key = intruder.identity_of(os.path.join(b.instance, ".starling")).key
        with self.assertRaises((EOFError, ConnectionError)):
            with intruder.Link(a.port, intruder.Identity(claims=b_key)) as link:
                link.send(b"\0\0\0\2\x91\x0b")
                link.take()
        self.said(a, "the handshake does not hold")
        self.assertEqual(a.alive(), 2)
        # with a key of its own it gets as far as a HELLO; what it then says is looked at like anybody's
        with intruder.Link(a.port) as link:
            self.assertEqual(link.peer, intruder.identity_of(os.path.join(a.instance, ".starling")).key)
            self.assertTrue(link.take(), "a HELLO")
            link.send(b"\0\0\0\5rubbi")
            link.ended()
        self.said(a, "not with a HELLO")
        self.works(a, b, "still")

    def test_a_stranger_that_never_says_who_it_is(self):
        a, b, _ = self.pair()
        with intruder.Link(a.port) as link:
            self.assertEqual(link.take()[0], 0, "a HELLO")
            link.ended()
        self.works(a, b, "still")

    def test_records_of_a_stranger(self):
        a, b, _ = self.pair()
        with intruder.Link(a.port) as link:
            record = link.seal(b"\0\0\0\2\x91\x0b")
            link.socket.sendall(record[:-1] + bytes([record[-1] ^ 1]))
            link.ended()
        self.said(a, "what came is not what was sent")
        with intruder.Link(a.port) as link:
            link.socket.sendall(b"\xff\xff" + bytes(65535))
            link.ended()
        for kind in (1, 2, 3, 4, 255):  # compressed as no node would
            with intruder.Link(a.port) as link:
                link.send(os.urandom(300), kind)
                link.send(b"\0\0\0\5rubbi")
                link.ended()
        self.assertEqual(a.status()["cluster"]["members"], 2)
        self.works(a, b, "still")


class Secrets(Base):
    def test_who_has_not_the_secret(self):
        a = self.make("n0", extra=["--secret-file", self.secret()])
        a.script(ITEMS)
        a.start()
        other = self.make("n1", join=[a], env={"STARLING_SECRET_FILE": self.secret("other")}).start()
        none = self.make("n2", join=[a]).start()
        self.said(a, "refused 127.0.0.1: it has another cluster secret: give both the same --secret-file")
        self.said(a, "refused 127.0.0.1: it has no cluster secret and this node has one")
        self.said(other, "refused this node: it has another cluster secret: give both the same --secret-file")
        self.said(none, "refused this node: it has a cluster secret and this node has none")
        self.assertIn("it has a cluster secret", none.status()["unreachable"][0]["error"])
        right = self.make("n3", join=[a], extra=["--secret-file", self.secret_path()]).start()
        poll(lambda: right.has_tables("item"))
        self.works(right, a, "in")
        self.assertEqual(a.status()["cluster"]["members"], 2)
        for node in (other, none):
            self.assertFalse(os.path.exists(node.path()))
            self.assertEqual(node.status()["cluster"]["members"], 1)
        with self.assertRaises(intruder.Refused) as refused:
            intruder.Link(a.port, psk=bytes(32))
        self.assertEqual(refused.exception.args[0], 1)
        with intruder.Link(a.port, psk=bytes.fromhex(self.text())) as link:
            self.assertTrue(link.take(), "a HELLO")

    def secret_path(self):
        return os.path.join(self.root, "secret")

    def text(self, name="secret"):
        with open(os.path.join(self.root, name)) as f:
            return f.read().strip()

    def test_a_node_with_a_secret_and_one_without(self):
        a = self.make("n0").start()
        b = self.make("n1", join=[a], extra=["--secret-file", self.secret()]).start()
        self.said(a, "refused 127.0.0.1: it has a cluster secret and this node has none")
        self.said(b, "refused this node: it has no cluster secret and this node has one")

    def test_files_that_are_no_secret(self):
        a = self.make("n0")
        for text in ("", "short\n", "g" * 64 + "\n", "a" * 64 + "b\n", "a" * 64 + "\nmore\n"):
            path = os.path.join(self.root, "bad")
            with open(path, "w") as f:
                f.write(text)
            done = daemon("--instance", a.instance, "--listen", "127.0.0.1:0", "--secret-file", path)
            self.assertEqual((done.code, len(done.err.splitlines())), (2, 1), done)
            self.assertIn("keygen", done.err)
        done = daemon("--instance", a.instance, "--listen", "127.0.0.1:0", "--secret-file", "/nowhere")
        self.assertEqual((done.code, len(done.err.splitlines())), (2, 1), done)


class Rotation(Base):
    def members(self, n, extra=()):
        nodes = []
        for i in range(n):
            node = self.make("n%d" % i, join=nodes[:1], port=free_port(), extra=extra)
            if i == 0:
                node.script(ITEMS)
            nodes.append(node.start())
        for node in nodes:
            poll(lambda: node.alive() == n and node.has_tables("item"))
        return nodes

    def test_under_load(self):
        first, second = self.secret("first"), self.secret("second")
        nodes = self.members(3, ["--secret-file", first])
        stop, written = threading.Event(), [0, 0, 0]

        def writer(i):
            con = nodes[i].connect()
            while not stop.is_set():  # paces a load
                con.execute("INSERT INTO item VALUES (?, ?)", ("%d.%d" % (i, written[i]), MARK))
                written[i] += 1
                stop.wait(0.005)
            con.close()
        threads = [threading.Thread(target=writer, args=(i,)) for i in range(3)]
        for t in threads:
            t.start()
        try:
            done = nodes[1].cli("--json", "rotate", second)
            self.assertEqual(done.code, 0, done)
            self.assertEqual(done.json()["changing"], False, done)
            self.assertEqual(sorted(done.json()["have"]), ["n0", "n2"])
            for node in nodes:
                poll(lambda: node.log_lines("the old one is not accepted any more"))
                self.assertFalse(node.log_lines("connection lost"), "the change disturbs no link")
            # a new server needs the new secret; the old one is refused
            late = self.make("late", join=[nodes[0]], extra=["--secret-file", first]).start()
            self.said(late, "it has another cluster secret")
            new = self.make("new", join=[nodes[0]], extra=["--secret-file", second]).start()
            poll(lambda: new.has_tables("item"))
            # a restart with the file of old finds what replaced it
            nodes[2].stop()
            nodes[2].restart()
            poll(lambda: nodes[2].alive() == 4)
        finally:
            stop.set()
            for t in threads:
                t.join()
        for node in [*nodes, new]:
            self.eventually(node, "SELECT count(*) FROM item", [(sum(written),)], deadline=30)
        self.assertEqual(nodes[0].cli("rotate", first).code, 1, "a secret that was replaced does not come back")

    def test_a_member_that_was_away(self):
        first, second = self.secret("first"), self.secret("second")
        nodes = self.members(3, ["--secret-file", first])
        nodes[2].stop()
        poll(lambda: nodes[0].alive() == 2)
        done = nodes[0].cli("--json", "rotate", second)
        self.assertEqual((done.code, done.json()["changing"], done.json()["waiting"]), (0, True, ["n2"]), done)
        nodes[1].kill()  # the change goes on behind a restart
        nodes[1].restart()
        poll(lambda: nodes[0].alive() == 2)
        nodes[2].restart()
        for node in nodes:
            poll(lambda: node.log_lines("the old one is not accepted any more"))
        poll(lambda: nodes[2].alive() == 3)
        self.works(nodes[2], nodes[0], "back")

    def test_finish_without_a_member(self):
        nodes = self.members(3, ["--secret-file", self.secret("first")])
        nodes[2].stop()
        poll(lambda: nodes[0].alive() == 2)
        made = nodes[0].cli("rotate")
        self.assertEqual(made.code, 0, made)
        self.assertIn("n2", made.out)
        text = made.out.splitlines()[0]
        self.assertEqual(len(bytes.fromhex(text)), 32)
        self.assertEqual(nodes[0].cli("rotate", "--finish").code, 0)
        poll(lambda: nodes[1].log_lines("not accepted any more"))
        nodes[2].restart()
        self.said(nodes[2], "127.0.0.1:%d refused this node" % nodes[0].port, "another cluster secret")
        with open(os.path.join(self.root, "first"), "w") as f:
            f.write(text + "\n")
        nodes[2].stop()
        nodes[2].restart()
        poll(lambda: nodes[2].alive() == 3)

    def test_another_secret_in_the_file(self):
        """The file is replaced on one server and read again."""
        first = self.secret("first")
        nodes = self.members(2, ["--secret-file", first])
        os.replace(self.secret("second"), first)
        nodes[0].proc.send_signal(signal.SIGHUP)
        for node in nodes:
            poll(lambda: node.log_lines("the old one is not accepted any more"))
        with open(first, "w") as f:
            f.write("nonsense\n")
        nodes[0].proc.send_signal(signal.SIGHUP)
        self.said(nodes[0], "stays what it was", "holds no cluster secret")
        self.assertEqual([n.alive() for n in nodes], [2, 2])

    def test_closing_an_open_cluster(self):
        nodes = self.members(2)
        self.assertEqual(nodes[0].cli("--json", "rotate", self.secret()).json()["changing"], False)
        poll(lambda: nodes[1].log_lines("not accepted any more"))
        stranger = self.make("n9", join=[nodes[0]]).start()
        self.said(stranger, "it has a cluster secret and this node has none")
        nodes[1].stop()
        nodes[1].restart()
        poll(lambda: nodes[1].alive() == 2)


class Peers(Base):
    def test_deny_and_allow(self):
        c = self.cluster(2, ITEMS)
        for word in ("192.168.1.0/99", "", "a b", "10.0.0.1:7171"):
            self.assertEqual(c[0].cli("peers", "deny", word).code, 1, word)
        self.assertEqual(c[0].cli("peers", "deny", "127.0.0.0/8").code, 0)
        poll(lambda: c[0].alive() == 1 and c[1].alive() == 1)
        self.said(c[0], "refused 127.0.0.1: its address is not on the allow list")
        self.said(c[1], "refused this node: this node's address is not on its allow list")
        c[0].stop()
        c[0].restart()
        holds(lambda: c[0].alive() == 1, 1.0, "denied still")
        rules = c[0].json("peers")
        self.assertEqual([r["rule"] for r in rules["deny"]], ["127.0.0.0/8"])
        self.assertEqual(c[0].cli("peers", "allow", "127.0.0.0/8").code, 0)
        poll(lambda: c[0].alive() == 2, 30)
        self.works(c[1], c[0], "in again")
        self.assertIn("127.0.0.0/8", c[0].cli("peers").out)

    def test_block_and_unblock(self):
        c = self.cluster(3, ITEMS)
        self.assertEqual(c[0].cli("peers", "block", "nobody").code, 1)
        self.assertEqual(c[0].cli("peers", "block", "n1").code, 0)
        self.assertEqual(c[0].peer("n1")["state"], "blocked")
        self.said(c[0], 'peer "n1" is blocked on "n0"')
        poll(lambda: c[1].log_lines("refused this node", 'peer "n1" is blocked on "n0"'))
        c[0].stop()
        c[0].restart()
        poll(lambda: c[0].alive() == 2)
        holds(lambda: c[0].peer("n1")["state"] == "blocked", 1.0)
        self.assertEqual([b["name"] for b in c[0].json("peers")["blocked"]], ["n1"])
        self.assertEqual(c[0].cli("peers", "unblock", "n1").code, 0)
        poll(lambda: c[0].alive() == 3, 30)
        self.works(c[1], c[0], "in again")
        self.assertEqual(c[0].cli("peers", "unblock", "n1").code, 1)

    def test_a_copied_state_folder(self):
        """Two processes with one key: the handshake cannot tell them apart, the incarnation does."""
        c = self.cluster(2, ITEMS)
        twin = self.make("twin", join=[c[0]])
        c[1].stop()
        shutil.copytree(os.path.join(c[1].instance, ".starling"), os.path.join(twin.instance, ".starling"), ignore=shutil.ignore_patterns("*.sock", "db"))
        c[1].restart()
        twin.start()
        poll(lambda: any(n.log_lines("identity of this node") for n in (c[1], twin)))

    def test_names(self):
        """A name is looked up, and listed with where it leads."""
        a = self.make("n0", extra=["--allow", "localhost,10.1.0.0/16"], join=["localhost:1"]).start()
        poll(lambda: any("127.0.0.1" in r.get("addresses", []) for r in a.json("peers")["allow"]))
        self.assertEqual({r["rule"]: r["from"] for r in a.json("peers")["allow"] if r["from"] != "join"}, {"localhost": "configuration", "10.1.0.0/16": "configuration"})


if __name__ == "__main__":
    harness.main()
