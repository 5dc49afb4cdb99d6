"""The command line: exit codes, shapes of --json, configuration and its sources, uninstall, completion."""
import json
import os
import pathlib
import re
import shutil
import sqlite3
import stat

import harness
from harness import STARLING, ClusterTest, connect, daemon, environment, holds, poll, run, user_schema
from test_tables import find_tables

SCHEMA = ("CREATE TABLE team(id INTEGER PRIMARY KEY, name TEXT UNIQUE); CREATE TABLE item(id TEXT PRIMARY KEY, v INT, big INT, raw BLOB);"
          "CREATE INDEX item_v ON item(v); CREATE VIEW names AS SELECT name FROM team; CREATE TRIGGER t AFTER INSERT ON team BEGIN UPDATE item SET v = v + 1; END;"
          "INSERT INTO team VALUES (1, 'poofs'); INSERT INTO item VALUES ('a', 1, 9007199254740993, x'00ff');")

STATUS = {"node": {"id": str, "name": str, "version": str, "state": str, "listen": str, "http": str, "uptime_s": int, "rss_bytes": int},
          "cluster": {"name": str, "members": int, "alive": int},
          "databases": [{"name": str, "state": str, "error": (str, type(None)), "tables": int, "rows": int, "pending": int, "waiting": int, "parked": int,
                         "version": dict, "digest": str, "conflicts": int}],
          "files": {"count": int, "bytes": int, "pending": int, "digest": str, "conflicts": int},
          "peers": [{"id": str, "name": str, "addr": str, "state": str, "rtt_us": int, "in_sync": bool, "we_lack": int, "they_lack": int, "last_seen_ms": int,
                     "sent_bytes": int, "received_bytes": int}]}


class Cli(ClusterTest):
    def shape(self, value, shape, where="status"):
        if isinstance(shape, dict):
            self.assertIsInstance(value, dict, where)
            for k, s in shape.items():
                self.assertIn(k, value, where)
                self.shape(value[k], s, where + "." + k)
        elif isinstance(shape, list):
            self.assertIsInstance(value, list, where)
            self.assertTrue(value, where)
            for v in value:
                self.shape(v, shape[0], where + "[]")
        else:
            self.assertIsInstance(value, shape, where)
            if shape is int:
                self.assertNotIsInstance(value, bool, where)

    def test_json_shapes(self):
        c = self.cluster(2, SCHEMA)
        for n in c:
            status = n.status()
            self.shape(status, STATUS)
            self.assertEqual(status["node"]["name"], n.name)
            self.assertEqual(status["node"]["id"], n.ready["id"])
            self.assertEqual(status["node"]["listen"], n.ready["listen"])
            self.assertIn(status["node"]["state"], ("running", "starting"))
            self.assertEqual(status["cluster"], {**status["cluster"], "name": "default", "members": 2, "alive": 2})
            self.assertEqual(status["databases"][0]["tables"], 2)
            self.assertEqual(status["databases"][0]["rows"], 2)
            self.assertRegex(status["databases"][0]["digest"], "^[0-9a-f]+$")
            for version in status["databases"][0]["version"].values():
                self.assertIsInstance(version, int)
        members = json.dumps(c[0].json("members"))
        for n in c:
            self.assertIn('"%s"' % n.name, members)
            self.assertIn(n.ready["id"], members)
        tables = find_tables(c[1].json("tables", "app.db"))
        self.assertEqual(set(tables), {"team", "item"})
        for t in tables.values():
            self.shape(t, {"name": str, "rows": int, "identity": str, "pending": int, "parked": int, "problems": list}, "tables")
        self.assertEqual((tables["team"]["rows"], tables["item"]["rows"]), (1, 1))
        self.assertEqual(tables["item"]["identity"], "given")
        self.assertIn("team", find_tables(c[1].json("tables")))
        self.assertIsInstance(c[0].json("verify"), dict)
        for line in c[0].cli("--json", "log", "-n", 3).out.splitlines():
            self.assertIsInstance(json.loads(line), dict)
        self.assertIsInstance(c[0].json("wait", "--members", 2), dict)
        self.assertIsInstance(c[0].json("doctor"), dict)
        self.assertIsInstance(c[0].json("version"), dict)

    def test_readable_forms(self):
        c = self.cluster(2, SCHEMA)
        for verb in ("status", "members", "tables", "verify", "log", "version"):
            with self.subTest(verb):
                done = c[0].cli("--no-color", verb)
                self.assertEqual(done.code, 0, done)
                self.assertTrue(done.out.strip())
                self.assertNotIn("\x1b", done.out)
                self.assertFalse(done.out.lstrip().startswith("{"))
                self.assertEqual(done.err, "")
        self.assertIn("n1", c[0].cli("status").out)
        self.assertIn("app.db", c[0].cli("status").out)

    def test_the_log_is_a_bounded_list_or_a_stream(self):
        c = self.cluster(2, SCHEMA)
        c[1].sql("UPDATE item SET v = 5")
        c.converge()
        lines = c[0].cli("--json", "log", "-n", 2).out.splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.assertEqual(c[0].cli("log", "--db", "nothing.db").out.count("app.db"), 0)
        poll(lambda: "of n1: taken" in c[0].cli("log").out, what="the log tells of the batches of others")
        poll(lambda: "of this node: for the others" in c[1].cli("log").out, what="and of our own")

    def test_exit_codes(self):
        a = self.make("n0")
        a.script(SCHEMA)
        for verb in ("status", "members", "tables", "wait", "verify", "pause"):
            done = a.cli(verb)
            self.assertEqual(done.code, 3, done)
            self.assertEqual(len(done.err.strip().splitlines()), 1, done)
            self.assertEqual(done.out, "")
        a.start()
        self.assertEqual(a.cli("status").code, 0)
        self.assertEqual(a.cli("wait", "--converged", "--timeout", 5).code, 0)
        self.assertEqual(a.cli("wait", "--members", 2, "--timeout", 1).code, 1)
        for args in (("nonsense",), ("status", "extra"), ("wait", "--timeout", "soon"), ("wait", "--nonsense"), ("wait", "--timeout"), ("join",), ("log", "-n", "-5"), ()):
            with self.subTest(args):
                done = a.cli(*args)
                self.assertEqual(done.code, 2, done)
                self.assertTrue(done.err.strip())
        for help_ in ("--help", "-h", "help"):
            done = a.cli(help_)
            if done.code == 0:
                self.assertIn("status", done.out)
        self.assertEqual(a.cli("--help").code, 0)
        self.assertEqual(run([STARLING, "--socket", os.path.join(self.root, "nowhere.sock"), "status"]).code, 3)
        self.assertEqual(a.stop(), 0)
        self.assertEqual(a.cli("status").code, 3)

    def test_finding_the_node(self):
        a = self.make("n0").start()
        self.assertTrue(stat.S_ISSOCK(os.stat(a.ready["socket"]).st_mode))
        self.assertEqual(stat.S_IMODE(os.stat(a.ready["socket"]).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.join(a.instance, ".starling", "node.key")).st_mode), 0o600)
        for done in (run([STARLING, "--socket", a.ready["socket"], "--json", "status"]),
                     run([STARLING, "--json", "status"], env=environment(STARLING_INSTANCE=a.instance)),
                     run([STARLING, "--json", "--instance", os.path.relpath(a.instance, self.root), "status"], cwd=self.root)):
            self.assertEqual(done.code, 0, done)
            self.assertEqual(done.json()["node"]["name"], "n0")

    def test_ready_line_and_stop(self):
        a = self.make("n0")
        a.script(SCHEMA)
        a.start()
        self.assertEqual(set(a.ready), {"name", "id", "listen", "http", "socket"})
        self.assertEqual((a.ready["name"], a.ready["http"]), ("n0", "off"))
        identity = a.ready["id"]
        stdout = a.proc.stdout
        a.proc.terminate()
        rest = stdout.read()
        self.assertEqual(a.wait_end(6), 0)
        self.assertEqual(a.stdout + rest, a.stdout.split(b"\n")[0] + b"\n", "exactly one line on standard output")
        a.restart()
        self.assertEqual(a.ready["id"], identity, "the same node after a restart")
        a.proc.send_signal(harness.signal.SIGINT)
        self.assertEqual(a.wait_end(6), 0)

    def test_a_long_path(self):
        deep = os.path.join(self.root, *["a_rather_long_folder_name_%d" % i for i in range(5)])
        a = harness.Node(deep, "n0")
        self.nodes.append(a)
        a.start()
        self.assertEqual(a.status()["node"]["name"], "n0")

    def test_configuration_round_trip(self):
        a = self.make("n0")
        first = daemon("--instance", a.instance, "--name", "pit", "--join", "192.168.1.10", "--join", "example.invalid:7000", "--listen", "127.0.0.1:0",
                       "--log-level", "warning", "--print-config", env=environment(STARLING_CLUSTER="county"))
        self.assertEqual(first.code, 0, first)
        path = os.path.join(self.root, "starling.conf")
        with open(path, "w") as f:
            f.write(first.out)
        second = daemon("--config", path, "--print-config")
        self.assertEqual(second.code, 0, second)

        def values(text):
            return sorted(line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip())
        self.assertEqual(values(first.out), values(second.out))
        text = "\n".join(values(first.out))
        for expected in ("pit", "192.168.1.10", "example.invalid:7000", "warning", "county"):
            self.assertIn(expected, text)
        self.assertRegex(first.out.lower(), "flag")
        self.assertRegex(first.out.lower(), "environment")
        self.assertRegex(first.out.lower(), "default")
        self.assertFalse(os.path.exists(os.path.join(a.instance, ".starling")), "--print-config changes nothing")

    def test_precedence(self):
        a = self.make("n0")
        path = os.path.join(self.root, "starling.conf")
        with open(path, "w") as f:
            f.write('name = from_file\ncluster = from_file\nlog_level = debug\n')

        def value(key, *args, **env):
            done = daemon("--instance", a.instance, "--print-config", *args, env=environment(**env))
            self.assertEqual(done.code, 0, done)
            return re.search(r'^%s\s*=\s*"?([^"\s#]+)' % key, done.out, re.M).group(1)
        self.assertEqual(value("name", "--config", path), "from_file")
        self.assertEqual(value("name", "--config", path, STARLING_NAME="from_env"), "from_env")
        self.assertEqual(value("name", "--config", path, "--name", "from_flag", STARLING_NAME="from_env"), "from_flag")
        self.assertEqual(value("cluster", STARLING_CONFIG=path), "from_file")
        self.assertEqual(value("log_level", "--config", path), "debug")
        self.assertEqual(value("log_level", "--set", "log_level=error", "--config", path), "error")
        self.assertEqual(value("cluster"), "default")

    def test_environment_starts_a_node(self):
        a = self.make("n0")
        a.command = lambda: [harness.STARLINGD]
        a.env = {"STARLING_INSTANCE": a.instance, "STARLING_NAME": "by-environment", "STARLING_LISTEN": "127.0.0.1:0"}
        a.start()
        self.assertEqual(a.status()["node"]["name"], "by-environment")

    def test_excluded_table(self):
        path = os.path.join(self.root, "starling.conf")
        with open(path, "w") as f:
            f.write('database "app.db" {\n  table "outbox" { replicate = no }\n}\n')
        c = self.cluster(2, "CREATE TABLE item(id TEXT PRIMARY KEY); CREATE TABLE outbox(id TEXT PRIMARY KEY);", extra=["--config", path])
        c[0].sql("INSERT INTO outbox VALUES ('mail')")
        c[0].sql("INSERT INTO item VALUES ('x')")
        self.eventually(c[1], "SELECT id FROM item", [("x",)])
        holds(lambda: c[1].sql("SELECT count(*) FROM outbox") == [(0,)], 0.3)
        self.assertEqual(c[0].cli("wait", "--converged", "--timeout", 10).code, 0)
        self.assertEqual(c[0].cli("verify").code, 0, "a table of one server only is no difference")

    def test_excluded_database(self):
        path = os.path.join(self.root, "starling.conf")
        a = self.make("n0")
        a.script(SCHEMA)
        a.script("CREATE TABLE seen(id INTEGER PRIMARY KEY, at)", db="cache.db")
        plain = a.sql("SELECT * FROM sqlite_schema", db="cache.db")
        a.start()
        poll(lambda: len(a.sql("SELECT * FROM sqlite_schema", db="cache.db")) > len(plain), what="triggers")
        a.stop()
        with open(path, "w") as f:
            f.write('database "cache.db" { replicate = no }\ndatabase "Thumbs.db" { replicate = no }\n')
        b = self.make("n1", join=[a])
        for n in (a, b):
            n.extra = ["--config", path]
            n.start()
        self.assertEqual(a.sql("SELECT * FROM sqlite_schema", db="cache.db"), plain)
        a.sql("INSERT INTO seen(at) VALUES(1)", db="cache.db")
        a.sql("INSERT INTO item(id) VALUES ('x')")
        self.eventually(b, "SELECT id FROM item", [("a",), ("x",)])
        with open(a.path("Thumbs.db"), "wb") as f:
            f.write(b"\xd0\xcf\x11\xe0 no database")
        for n in (a, b):
            done = n.cli("wait", "--converged", "--timeout", 10)
            self.assertEqual(done.code, 0, done)
            self.assertEqual(n.cli("verify").code, 0)
            self.assertEqual([d["name"] for d in n.status()["databases"]], ["app.db"])
        self.assertFalse(os.path.exists(b.path("cache.db")))

    def test_check_changes_nothing(self):
        a = self.make("n0")
        a.script(SCHEMA)
        con = connect(a.path())
        before = con.execute("SELECT * FROM sqlite_schema").fetchall(), sorted(os.listdir(a.instance))
        done = daemon("--instance", a.instance, "--listen", "127.0.0.1:0", "--check")
        self.assertEqual(done.code, 0, done)
        self.assertIn("app.db", done.out + done.err)
        self.assertEqual((con.execute("SELECT * FROM sqlite_schema").fetchall(), sorted(os.listdir(a.instance))), before)
        con.close()
        with open(a.path("bad.db"), "wb") as f:
            f.write(b"SQLite format 3\0" + b"\xff" * 5000)
        done = daemon("--instance", a.instance, "--listen", "127.0.0.1:0", "--check")
        self.assertEqual(done.code, 2, done)
        self.assertIn("bad.db", done.out + done.err)

    def test_check_looks_inside(self):
        a = self.make("n0")
        rows = ";WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 5000) INSERT INTO item(id) SELECT 'key' || i FROM s;"
        a.script(SCHEMA, "odd %41?#.db")
        a.script(SCHEMA + rows, "wal.db")
        a.script(SCHEMA + rows, "rollback.db", journal="DELETE")
        a.script(SCHEMA + rows, "bad.db", journal="DELETE")
        with open(a.path("bad.db"), "r+b") as f:
            for page in range(6, 40):
                f.seek(page * 4096)
                f.write(b"\xa5" * 4096)
        # as a crash leaves them: a -wal without its index
        a.script(SCHEMA, "crashed.db")
        con = connect(a.path("crashed.db"))
        con.execute("INSERT INTO team VALUES (7, 'in the wal')")
        shutil.copy(a.path("crashed.db-wal"), os.path.join(self.root, "wal"))
        con.close()
        shutil.copy(os.path.join(self.root, "wal"), a.path("crashed.db-wal"))

        def seen():
            return {name: pathlib.Path(a.path(name)).read_bytes() for name in sorted(os.listdir(a.instance))}
        before = seen()
        lines = daemon("--instance", a.instance, "--listen", "127.0.0.1:0", "--check").out.splitlines()
        self.assertEqual(seen(), before, "changed nothing, made nothing")
        of = {name: [line for line in lines if name in line] for name in ("odd %41?#.db", "wal.db", "rollback.db", "bad.db", "crashed.db")}
        self.assertTrue(all(len(found) == 1 for found in of.values()), lines)
        for name in ("odd %41?#.db", "wal.db", "rollback.db"):
            self.assertTrue(of[name][0].startswith("ok "), of[name])
        self.assertTrue(of["bad.db"][0].startswith("error "), of["bad.db"])
        self.assertIn("damaged", of["bad.db"][0])
        self.assertTrue(of["crashed.db"][0].startswith("warning "), of["crashed.db"])

    def whole_schema(self, path):
        con = connect(path)
        try:
            return con.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid").fetchall()
        finally:
            con.close()

    def test_uninstall(self):
        for running in (True, False):
            with self.subTest(running=running):
                a = self.make("u%d" % running)
                a.script(SCHEMA)
                a.script(SCHEMA, "sub/other.db", journal="DELETE")
                before = {db: (self.whole_schema(a.path(db)), a.dump(db)) for db in ("app.db", "sub/other.db")}
                a.start()
                poll(lambda: all(d["state"] == "ok" for d in a.status()["databases"]) and len(a.status()["databases"]) == 2)
                poll(lambda: len(self.whole_schema(a.path())) > len(before["app.db"][0]), what="triggers are in")
                if not running:
                    a.stop()
                done = a.cli("uninstall")
                self.assertEqual(done.code, 0, done)
                if running:
                    self.assertEqual(a.wait_end(6), 0, "the node was asked to stop")
                for db in before:
                    self.assertEqual((self.whole_schema(a.path(db)), a.dump(db)), before[db])
                    self.assertEqual(a.sql("PRAGMA integrity_check", db=db), [("ok",)])
                a.sql("INSERT INTO team(name) VALUES ('works')")

    def test_uninstalled_and_back(self):
        c = self.cluster(2, SCHEMA)
        self.assertEqual(c[1].cli("uninstall").code, 0)
        c[1].wait_end()
        c[1].sql("UPDATE item SET v = 99 WHERE id = 'a'")  # nobody notes it
        c[0].sql("INSERT INTO item VALUES ('meanwhile', 1, 2, NULL)")
        c[1].restart()
        self.eventually(c[1], "SELECT count(*) FROM item WHERE id = 'meanwhile'", [(1,)], deadline=20)
        self.eventually(c[0], "SELECT v FROM item WHERE id = 'a'", [(99,)], deadline=20)
        c.converge()

    def test_completion_and_version(self):
        for kind in ("bash", "zsh", "fish"):
            done = run([STARLING, "completion", kind])
            self.assertEqual(done.code, 0, done)
            for verb in ("status", "wait", "verify", "uninstall"):
                self.assertIn(verb, done.out)
            if shutil.which(kind):
                checked = run([kind, "-n"], text_in=done.out.encode())
                self.assertEqual((checked.code, checked.err), (0, ""))
        self.assertEqual(run([STARLING, "completion", "tcsh"]).code, 2)
        version = run([STARLING, "version"])
        self.assertEqual(version.code, 0)
        self.assertRegex(version.out, r"\d+\.\d+\.\d+")
        done = daemon("--version")
        self.assertEqual(done.code, 0)
        self.assertRegex(done.out, r"\d+\.\d+\.\d+")
        self.assertEqual(daemon("--help").code, 0)
        self.assertIn("--instance", daemon("--help").out)

    def test_verbs_of_later_builds(self):
        a = self.make("n0").start()
        for verb in ("snapshot",):
            done = a.cli(verb)
            self.assertEqual(done.code, 2, done)
            self.assertEqual(len(done.err.strip().splitlines()), 1, done)

    def test_doctor(self):
        c = self.cluster(2, SCHEMA)
        self.assertEqual(c[0].cli("doctor").code, 0, c[0].cli("doctor"))
        with open(c[0].path("bad.db"), "wb") as f:
            f.write(b"SQLite format 3\0" + b"\xff" * 5000)
        poll(lambda: c[0].log_lines("bad.db"))
        done = c[0].cli("doctor")
        self.assertEqual(done.code, 1, done)
        self.assertIn("bad.db", done.out + done.err)

    def test_settings_read_again(self):
        path = os.path.join(self.root, "starling.conf")
        with open(path, "w") as f:
            f.write("log_level = info\n")
        a = self.make("n0", extra=["--config", path]).start()
        b = self.make("n1").start()
        with open(path, "w") as f:
            f.write('log_level = debug\njoin = { "%s" }\n' % b.address())
        a.proc.send_signal(harness.signal.SIGHUP)
        poll(lambda: a.alive() == 2, what="the new seed is used")
        with open(path, "w") as f:
            f.write("nonsense = 1\n")
        a.proc.send_signal(harness.signal.SIGHUP)
        poll(lambda: a.log_lines("nonsense"), what="a bad file is named, and the node goes on as it was")
        self.assertEqual(a.alive(), 2)

    def test_json_log(self):
        a = self.make("n0", extra=["--log-format", "json", "--log-level", "debug"])
        a.script(SCHEMA)
        a.start()
        poll(lambda: a.database()["state"] == "ok")
        a.stop()
        lines = a.log().splitlines()
        self.assertTrue(lines)
        for line in lines:
            self.assertIsInstance(json.loads(line), dict)
        numbers = [e["number"] for e in map(json.loads, lines) if e["level"] != "debug"]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))


class Users(ClusterTest):
    def test_nothing_of_ours_is_left_in_what_users_see(self):
        """Our triggers and tables do not travel and do not multiply."""
        c = self.cluster(3, SCHEMA)
        for n in c:
            n.stop()
            n.restart()
        c.converge()
        self.assertEqual(user_schema(c[2].path()), user_schema(c[0].path()))
        counts = []
        for n in c:
            con = sqlite3.connect(n.path())
            counts.append(con.execute("SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_starling%' ESCAPE '\\'").fetchone()[0])
            con.close()
        self.assertEqual(len(set(counts)), 1)


if __name__ == "__main__":
    harness.main()
