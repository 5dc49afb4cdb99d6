"""`starling doctor --join`: what joining would do, told beforehand, where a node runs and where none does yet; and nothing is changed by asking."""
import hashlib
import os
import socket
import threading

import harness
from harness import STARLING, ClusterTest, free_port, poll, run

SCHEMA = ("CREATE TABLE role(id INTEGER PRIMARY KEY, name TEXT UNIQUE);"
          "CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT, role INTEGER REFERENCES role(id));"
          "CREATE TABLE setting(key TEXT PRIMARY KEY, v);")
THERE = "INSERT INTO role(name) VALUES ('admin'), ('viewer'); INSERT INTO user(name, role) VALUES ('ann', 1); INSERT INTO setting VALUES ('lang', 'de'), ('same', 1);"
HERE = ("INSERT INTO role(name) VALUES ('admin'), ('scout'), ('viewer'); INSERT INTO user(name, role) VALUES ('bob', 2), ('al', 3);"
        "INSERT INTO setting VALUES ('lang', 'en'), ('same', 1), ('mine', 1);")


def files(node):
    out = {}
    for folder, _, names in os.walk(node.instance):
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                out[os.path.join(folder, name)] = hashlib.sha256(f.read()).hexdigest()
    return out


class DoctorJoin(ClusterTest):
    def doctor(self, node, host, *more, env=None, before=()):
        return run([STARLING, "--instance", node.instance, *before, "doctor", "--join", host, *more], timeout=30, env=env)

    def pair(self, **kw):
        a, b = self.make("a", **kw), self.make("b")
        a.script(SCHEMA + THERE), b.script(SCHEMA + HERE)
        return a.start(), b

    def counts(self, result):
        self.assertEqual([d["name"] for d in result["databases"]], ["app.db"])
        return {t["name"]: tuple(t[f] for f in ("equal", "matched", "renumbered", "conflicts", "only_here", "only_there"))
                for t in result["databases"][0]["tables"]}

    def test_before_and_then(self):
        a, b = self.pair()
        c = self.make("c", join=[a]).start()
        self.assertEqual(a.cli("wait", "--converged", "--members", 2, "--timeout", 20).code, 0)
        want = {"role": (1, 1, 1, 0, 0, 0), "user": (0, 0, 1, 0, 1, 1), "setting": (1, 0, 0, 1, 1, 0)}
        before, there = files(b), a.dump()
        done = self.doctor(b, a.address(), before=["--json"])
        self.assertEqual(done.code, 0, done)
        self.assertEqual(self.counts(done.json()), want)
        self.assertEqual((done.json()["name"], done.json()["members"], done.json()["member"]), ("a", 2, False))
        text = self.doctor(b, a.address())
        self.assertEqual(text.code, 0, text)
        for part in ("2 members; nothing was changed", "RENUMBERED", "1 rows in conflict", "2 rows keep all they hold under another number"):
            self.assertIn(part, text.out)
        self.assertEqual(files(b), before, "asking leaves nothing behind")
        self.assertEqual(a.dump(), there)
        self.assertEqual(len(a.status()["peers"]), 1, "who asks is no member")
        b.start()  # and beside a node that runs, alone
        self.assertEqual(self.counts(self.doctor(b, a.address(), before=["--json"]).json()), want)
        self.assertEqual(len(a.status()["peers"]), 1)
        self.assertEqual(b.cli("join", a.address()).code, 0)
        poll(lambda: b.alive() == 3)
        self.assertEqual(b.cli("wait", "--converged", "--members", 3, "--timeout", 20).code, 0)
        self.assertEqual(b.sql("SELECT id, name FROM role ORDER BY id LIMIT 2"), [(1, "admin"), (2, "viewer")])
        self.assertEqual(b.sql("SELECT count(*) FROM role"), [(3,)])
        self.assertEqual(b.sql("SELECT u.name, r.name FROM user u JOIN role r ON r.id = role ORDER BY 1"), [("al", "viewer"), ("ann", "admin"), ("bob", "scout")])
        self.assertEqual([x["loser"]["value"] for x in b.json("conflicts")["conflicts"] if x["kind"] == "adopted"], ["en"])
        self.assertIn("is a member of it already", self.doctor(b, a.address()).out)
        self.assertTrue(a.log_lines("asks what that would do"))
        for n in (a, b, c):
            self.assertEqual(n.stop(), 0)

    def test_what_stands_in_the_way(self):
        secret = run([STARLING, "keygen"]).out
        path = os.path.join(self.root, "secret")
        with open(path, "w") as f:
            f.write(secret)
        os.chmod(path, 0o600)
        a, b = self.pair(extra=["--secret-file", path, "--cluster", "frc"])
        said = lambda *more, host=None, **kw: self.doctor(b, host or a.address(), *more, **kw)
        other = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(other.close)

        def greet():
            with other.accept()[0] as link:
                link.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=greet, daemon=True).start()
        for done, code, part in (
                (said(host="127.0.0.1:%d" % free_port()), 1, "start starlingd there"),
                (said(host="nobody.invalid"), 1, "correct the name"),
                (said(host="127.0.0.1:x"), 2, "say HOST or HOST:PORT"),
                (said(host="127.0.0.1:%d" % other.getsockname()[1]), 1, "not a Starling peer"),
                (said(), 1, "start this node with the --secret-file"),
                (said("--secret-file", path), 1, "say --cluster frc"),
                (said("--secret-file", path + "x"), 1, path + "x"),
                (said("--secret-file", path, "--cluster", "frc", "--adopt", "both"), 2, "adopt"),
                (said("--secret-file", path, "--cluster", "frc"), 0, "")):
            self.assertEqual(done.code, code, done)
            self.assertIn(part, done.err)
            self.assertEqual(len(done.err.splitlines()), 1 if code else 0, done.err)
        self.assertEqual(said(env={"STARLING_SECRET_FILE": path, "STARLING_CLUSTER": "frc"}).code, 0)
        done = said("--secret-file", path, "--cluster", "frc", before=["--json"], host="127.0.0.1:%d" % free_port())
        self.assertEqual((done.code, list(done.json())), (1, ["error"]))
        b.extra = ["--secret-file", path, "--cluster", "frc"]
        b.start()  # it tells how it was started
        self.assertEqual(said().code, 0)
        self.assertEqual(a.cli("peers", "block", "b").code, 1, "nobody was met")
        self.assertEqual(b.cli("join", a.address()).code, 0)
        poll(lambda: a.alive() == 2)
        self.assertEqual(a.cli("peers", "block", "b").code, 0)
        poll(lambda: "blocked" in said().err)


if __name__ == "__main__":
    harness.main()
