"""First meetings and catching up: empty servers, filled ones, several databases, new databases and new tables."""
import json
import os
import shutil
import sqlite3

import harness
from harness import ClusterTest, holds, poll

ITEMS = "CREATE TABLE item(id TEXT PRIMARY KEY, v INT, w TEXT);"


def fill(node, n, prefix="r", db="app.db"):
    con = node.connect(db)
    con.execute("BEGIN")
    con.executemany("INSERT INTO item VALUES (?, ?, ?)", (("%s%d" % (prefix, i), i, "text %d" % i) for i in range(n)))
    con.execute("COMMIT")
    con.close()


class Databases(ClusterTest):
    def test_several_also_in_folders_and_later(self):
        a = self.make("n0")
        for db in ("app.db", "sub/dir/other.sqlite", "with space.db", "noending"):
            a.script(ITEMS, db)
            fill(a, 10, db=db)
        a.start()
        b = self.make("n1", join=[a]).start()
        for db in ("app.db", "sub/dir/other.sqlite", "with space.db", "noending"):
            poll(lambda: os.path.exists(b.path(db)), what=db)
            self.eventually(b, "SELECT count(*) FROM item", [(10,)], db=db)
        a.script(ITEMS, "later/new.db")
        fill(a, 5, db="later/new.db")
        poll(lambda: os.path.exists(b.path("later/new.db")))
        self.eventually(b, "SELECT count(*) FROM item", [(5,)], db="later/new.db")
        b.script(ITEMS.replace("item", "thing"), "from_b.db")
        b.sql("INSERT INTO thing VALUES ('x', 1, 'y')", db="from_b.db")
        poll(lambda: os.path.exists(a.path("from_b.db")))
        self.eventually(a, "SELECT * FROM thing", [("x", 1, "y")], db="from_b.db")
        names = {d["name"] for d in a.status()["databases"]}
        self.assertEqual(names, {"app.db", "sub/dir/other.sqlite", "with space.db", "noending", "later/new.db", "from_b.db"})
        self.assertEqual(names, {d["name"] for d in b.status()["databases"]})

    def test_the_same_table_in_two_databases_is_two_tables(self):
        a = self.make("n0")
        a.script(ITEMS, "one.db"), a.script(ITEMS, "two.db")
        a.start()
        b = self.make("n1", join=[a]).start()
        for db in ("one.db", "two.db"):
            poll(lambda: b.has_tables("item", db=db))
        a.sql("INSERT INTO item VALUES ('k', 1, 'one')", db="one.db")
        b.sql("INSERT INTO item VALUES ('k', 2, 'two')", db="two.db")
        for n in (a, b):
            self.eventually(n, "SELECT w FROM item", [("one",)], db="one.db")
            self.eventually(n, "SELECT w FROM item", [("two",)], db="two.db")

    def test_started_before_there_is_anything(self):
        a = self.make("n0").start()
        b = self.make("n1", join=[a]).start()
        poll(lambda: b.alive() == 2)
        a.script("CREATE TABLE a(id INTEGER PRIMARY KEY, v);")
        a.sql("INSERT INTO a(v) VALUES ('first')")
        poll(lambda: os.path.exists(b.path()))
        self.eventually(b, "SELECT * FROM a", [(1, "first")])


class Schema(ClusterTest):
    def own_schema(self, script):
        """Two servers whose application made the schema by itself."""
        a = self.make("n0")
        b = self.make("n1", join=[a])
        for n in (a, b):
            n.script(script)
            n.start()
        poll(lambda: a.alive() == 2 and b.alive() == 2)
        return a, b

    def test_new_table_while_running(self):
        a, b = self.own_schema(ITEMS)
        a.sql("CREATE TABLE extra(id TEXT PRIMARY KEY, v)")
        a.sql("INSERT INTO extra VALUES ('a', 1), ('b', 2)")
        a.sql("INSERT INTO item VALUES ('goes on', 1, '')")
        self.eventually(b, "SELECT id FROM item", [("goes on",)])
        # the other's own migration has not run: kept, red, never "in sync"
        poll(lambda: b.database()["parked"] == 2, what="rows of a missing table are parked")
        self.assertFalse(b.has_tables("extra"), "its own migration would fail now")
        self.assertEqual(b.cli("wait", "--converged", "--timeout", 1).code, 1)
        self.assertFalse(a.peer(b)["in_sync"])
        self.assertIn("extra", b.cli("tables").out)
        b.sql("CREATE TABLE extra(id TEXT PRIMARY KEY, v)")
        self.eventually(b, "SELECT * FROM extra ORDER BY id", [("a", 1), ("b", 2)])
        b.sql("UPDATE extra SET v = 3 WHERE id = 'a'")
        self.eventually(a, "SELECT v FROM extra WHERE id = 'a'", [(3,)])
        self.assertEqual(b.cli("wait", "--converged", "--members", 2, "--timeout", 10).code, 0)
        self.assertEqual(b.database()["parked"], 0)

    def test_new_table_in_a_fetched_database(self):
        c = self.cluster(2, ITEMS)
        c[0].script("CREATE TABLE extra(id TEXT PRIMARY KEY, v); CREATE INDEX extra_v ON extra(v); INSERT INTO extra VALUES ('a', 1), ('b', 2);", journal=None)
        poll(lambda: c[1].has_tables("extra") or c[1].database()["parked"] == 2)
        c[1].script("CREATE TABLE IF NOT EXISTS extra(id TEXT PRIMARY KEY, v)", journal=None)
        self.eventually(c[1], "SELECT * FROM extra ORDER BY id", [("a", 1), ("b", 2)])
        c[1].sql("UPDATE extra SET v = 3 WHERE id = 'a'")
        c.converge()

    def test_ddl_follow(self):
        a = self.make("n0")
        b = self.make("n1", join=[a])
        conf = os.path.join(b.folder, "conf")
        b.extra += ["--config", conf]
        with open(conf, "w") as f:
            f.write('ddl = local\ndatabase "app.db" { table "outbox" { replicate = no } }\n')
        for n in (a, b):
            n.script(ITEMS + "INSERT INTO item VALUES ('a', 1, 'x');")
            n.start()
        poll(lambda: a.alive() == 2 and b.alive() == 2)
        a.script("ALTER TABLE item ADD COLUMN extra TEXT NOT NULL DEFAULT 'd'; UPDATE item SET extra = 'e';"
                 "CREATE TABLE more(id INTEGER PRIMARY KEY, v); CREATE INDEX more_v ON more(v); INSERT INTO more(v) VALUES (5);", journal=None)
        poll(lambda: "and n0 has it" in b.cli("tables").out, what="who has what is missing here is named")
        poll(lambda: b.database()["parked"] > 0)
        self.assertIn("set ddl = follow", b.cli("tables").out)
        self.assertIn('column "extra" is not here, and n0 has it', b.cli("doctor").out)
        self.assertFalse(b.has_tables("more"))
        with open(conf, "w") as f:
            f.write('database "app.db" { ddl = follow table "outbox" { replicate = no } }\n')
        b.proc.send_signal(harness.signal.SIGHUP)
        self.eventually(b, "SELECT count(*) FROM sqlite_schema WHERE name = 'more_v'", [(1,)])
        self.eventually(b, "SELECT extra FROM item", [("e",)])
        self.eventually(b, "SELECT v FROM more", [(5,)])
        self.assertEqual(b.log_lines("restart starlingd"), [])
        # a transaction that has read, and then writes, is not in its way, nor it in theirs
        con = b.connect(timeout=30.0)
        con.isolation_level = None
        for i in range(8):
            a.sql("ALTER TABLE more ADD COLUMN c%d DEFAULT %d" % (i, i))
            while b.sql("SELECT count(*) FROM pragma_table_info('more') WHERE name = 'c%d'" % i) == [(0,)]:
                con.execute("BEGIN")
                con.execute("SELECT count(*) FROM item").fetchall()
                con.execute("UPDATE item SET v = v + 1")
                con.execute("COMMIT")
        con.close()
        for n in (a, b):
            self.assertEqual(n.cli("wait", "--converged", "--members", 2, "--timeout", 20).code, 0)
        self.assertEqual(a.dump(), b.dump())
        self.assertEqual(b.cli("verify").code, 0)

    def test_new_column_while_running(self):
        a, b = self.own_schema(ITEMS)
        a.sql("INSERT INTO item VALUES ('a', 1, 'x')")
        self.eventually(b, "SELECT v FROM item", [(1,)])
        a.sql("ALTER TABLE item ADD COLUMN extra TEXT DEFAULT 'd'")
        a.sql("UPDATE item SET extra = 'e', v = 2 WHERE id = 'a'")
        self.eventually(b, "SELECT v FROM item", [(2,)])
        poll(lambda: b.database()["parked"] > 0, what="a value of a missing column is parked")
        b.sql("ALTER TABLE item ADD COLUMN extra TEXT DEFAULT 'd'")
        self.eventually(b, "SELECT extra FROM item", [("e",)])
        self.assertEqual(b.cli("wait", "--converged", "--members", 2, "--timeout", 10).code, 0)
        self.assertEqual(a.dump(), b.dump())

    def test_column_dropped_and_renamed_by_the_app(self):
        c = self.cluster(2, ITEMS + "INSERT INTO item VALUES ('a', 1, 'x');")
        for n in c:
            n.sql("ALTER TABLE item DROP COLUMN w")
        c[0].sql("UPDATE item SET v = 5")
        self.eventually(c[1], "SELECT * FROM item", [("a", 5)])
        for n in c:
            n.sql("ALTER TABLE item RENAME TO item2")
        c[1].sql("UPDATE item2 SET v = 6")
        self.eventually(c[0], "SELECT * FROM item2", [("a", 6)])

    def test_table_rebuilt_by_a_migration(self):
        c = self.cluster(2, ITEMS + "INSERT INTO item VALUES ('a', 1, 'x'), ('b', 2, 'y');")
        for n in c:
            n.script("BEGIN; CREATE TABLE item_new(id TEXT PRIMARY KEY, v INT, w TEXT, z INT); INSERT INTO item_new(id, v, w) SELECT id, v, w FROM item;"
                     "DROP TABLE item; ALTER TABLE item_new RENAME TO item; COMMIT;", journal=None)
        c[0].sql("UPDATE item SET z = 7 WHERE id = 'a'")
        self.eventually(c[1], "SELECT z FROM item WHERE id = 'a'", [(7,)], deadline=20)
        c[1].sql("INSERT INTO item VALUES ('c', 3, 'z', 1)")
        self.eventually(c[0], "SELECT count(*) FROM item", [(3,)], deadline=20)
        c.converge()


class Meeting(ClusterTest):
    def test_empty_server_fetches_everything(self):
        a = self.make("n0")
        a.script(ITEMS)
        fill(a, 20000)
        a.start()
        fill(a, 500, "while running")
        b = self.make("n1", join=[a]).start()
        fill(a, 500, "while fetching")
        poll(lambda: b.has_tables("item"))
        self.eventually(b, "SELECT count(*) FROM item", [(21000,)], deadline=30)
        self.assertEqual(a.dump(), b.dump())
        self.assertEqual(b.cli("wait", "--converged", "--members", 2).code, 0)

    def test_away_for_a_while(self):
        c = self.cluster(3, ITEMS)
        c[2].stop()
        for i in range(200):
            c[i % 2].sql("INSERT INTO item VALUES (?, ?, '')", ("single%d" % i, i))
        fill(c[0], 5000)
        c[2].restart()
        c.converge()
        self.assertEqual(c[2].sql("SELECT count(*) FROM item"), [(5200,)])

    def test_written_while_its_node_was_down(self):
        c = self.cluster(2, ITEMS + "INSERT INTO item VALUES ('a', 1, 'x'), ('b', 1, 'x');")
        c[1].kill()
        c[1].sql("UPDATE item SET v = 2 WHERE id = 'a'")
        c[1].sql("DELETE FROM item WHERE id = 'b'")
        fill(c[1], 1000, "down")
        c[1].restart()
        c.converge()
        self.assertEqual(c[0].sql("SELECT count(*), sum(id = 'a' AND v = 2) FROM item"), [(1001, 1)])

    def test_equal_copies_join(self):
        a = self.make("n0")
        a.script(ITEMS)
        fill(a, 100)
        b = self.make("n1", join=[a])
        source, copy = sqlite3.connect(a.path()), sqlite3.connect(b.path())
        source.backup(copy)
        source.close(), copy.close()
        a.start()
        b.join = [a]
        b.start()
        self.assertEqual(a.cli("wait", "--converged", "--members", 2, "--timeout", 20).code, 0)
        a.sql("UPDATE item SET v = -1 WHERE id = 'r1'")
        b.sql("DELETE FROM item WHERE id = 'r2'")
        self.eventually(b, "SELECT v FROM item WHERE id = 'r1'", [(-1,)])
        self.eventually(a, "SELECT count(*) FROM item", [(99,)])
        self.assertEqual(sum(b.database()["conflicts"] for b in (a, b)), 0)

    def test_filled_and_empty_with_the_same_schema(self):
        for order in ("filled first", "empty first"):
            with self.subTest(order):
                full, empty = self.make(order[:2] + "f"), self.make(order[:2] + "e")
                full.script(ITEMS), empty.script(ITEMS)
                fill(full, 50)
                first, second = (full, empty) if order == "filled first" else (empty, full)
                first.start()
                second.join = [first]
                second.start()
                self.eventually(empty, "SELECT count(*) FROM item", [(50,)])
                empty.sql("INSERT INTO item VALUES ('new', 1, '')")
                self.eventually(full, "SELECT count(*) FROM item", [(51,)])

    def test_two_filled_copies_join(self):
        """Both had rows before they met: all of them stay, each meaning what it meant; those of the cluster keep their numbers and values."""
        schema = """
            CREATE TABLE role(id INTEGER PRIMARY KEY, name TEXT);
            CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT, role INTEGER REFERENCES role(id), boss INTEGER REFERENCES user(id));
            CREATE TABLE profile(user INTEGER PRIMARY KEY REFERENCES user(id), text);
            CREATE TABLE may(role INTEGER REFERENCES role(id), what TEXT, PRIMARY KEY(role, what));
            CREATE TABLE setting(key TEXT PRIMARY KEY, v);
            CREATE TABLE note(text);"""
        rows = {"n0": """INSERT INTO role(name) VALUES ('admin'), ('viewer'); INSERT INTO user(name, role) VALUES ('ann', 1), ('al', 2);
                         UPDATE user SET boss = 2 WHERE id = 1;
                         INSERT INTO profile VALUES (1, 'of ann'); INSERT INTO may VALUES (1, 'all'), (2, 'see');
                         INSERT INTO setting VALUES ('lang', 'de'), ('same', 1); INSERT INTO note VALUES ('both'), ('n0');""",
                "n1": """INSERT INTO role(name) VALUES ('admin'), ('scout'); INSERT INTO user(name, role) VALUES ('bob', 2), ('bea', 1);
                         UPDATE user SET boss = 2 WHERE id = 1;
                         INSERT INTO profile VALUES (1, 'of bob'), (2, 'of bea'); INSERT INTO may VALUES (1, 'all'), (2, 'write');
                         INSERT INTO setting VALUES ('lang', 'en'), ('same', 1), ('mine', 1); INSERT INTO note VALUES ('both'), ('n1');"""}
        for ends in ("a server joins a cluster", "two servers meet"):
            with self.subTest(ends):
                a, b, c = self.make(ends[0] + "n0"), self.make(ends[0] + "n1"), self.make(ends[0] + "n2")
                for n in (a, b):
                    n.script(schema)
                    n.script(rows[n.name[1:]])
                a.start()
                nodes = [a, b]
                if ends[0] == "a":  # then it is b whose rows are the younger ones
                    c.join = [a]
                    c.start()
                    self.assertEqual(a.cli("wait", "--converged", "--members", 2, "--timeout", 20).code, 0)
                    nodes.append(c)
                b.join = [a]
                b.start()
                self.assertEqual(b.cli("wait", "--converged", "--members", len(nodes), "--timeout", 30).code, 0)
                for n in nodes:
                    q = lambda text: n.sql(text)
                    self.assertEqual(q("SELECT u.name, r.name, b.name FROM user u JOIN role r ON r.id = u.role LEFT JOIN user b ON b.id = u.boss "
                                       "ORDER BY 1"),
                                     [("al", "viewer", None), ("ann", "admin", "al"), ("bea", "admin", None), ("bob", "scout", "bea")])
                    self.assertEqual(q("SELECT p.text, u.name FROM profile p JOIN user u ON u.id = p.user ORDER BY 1"),
                                     [("of ann", "ann"), ("of bea", "bea"), ("of bob", "bob")])
                    self.assertEqual(q("SELECT r.name, m.what FROM may m JOIN role r ON r.id = m.role ORDER BY 1, 2"),
                                     [("admin", "all"), ("scout", "write"), ("viewer", "see")])
                    self.assertEqual(q("SELECT text FROM note ORDER BY 1"), [("both",), ("n0",), ("n1",)])
                    self.assertEqual(q("SELECT count(*) FROM role"), [(3,)])
                    self.assertEqual(q("SELECT key FROM setting ORDER BY 1"), [("lang",), ("mine",), ("same",)])
                    if ends[0] == "a":
                        self.assertEqual(q("SELECT id, name FROM user WHERE id < 3 ORDER BY 1"), [(1, "ann"), (2, "al")])
                        self.assertEqual(q("SELECT v FROM setting WHERE key = 'lang'"), [("de",)])
                    listed = [x for x in n.json("conflicts")["conflicts"] if x["table"] == "setting"]
                    self.assertEqual([(x["kind"], x["column"], {x["winner"]["value"], x["loser"]["value"]}) for x in listed],
                                     [("adopted", "v", {"de", "en"})])
                b.sql("UPDATE user SET name = 'Bob' WHERE name = 'bob'")
                self.eventually(a, "SELECT count(*) FROM user WHERE name = 'Bob'", [(1,)])
                for n in nodes:
                    n.stop()

    def test_who_is_told_to_join_is_the_newcomer(self):
        """Whatever both hold: the first server's values stay, and those that a joiner's application made by itself are listed."""
        for i in range(3):  # which base is the greater one is chance
            with self.subTest(i):
                a, b = self.make("a%d" % i), self.make("b%d" % i)
                for n in (a, b):
                    n.script("CREATE TABLE setting(key TEXT PRIMARY KEY, v); CREATE TABLE role(id INTEGER PRIMARY KEY, name TEXT);")
                a.script("INSERT INTO setting VALUES ('lang', 'de'), ('x', %d); INSERT INTO role(name) VALUES ('of the cluster')" % i)
                a.start()
                a.sql("INSERT INTO role(name) VALUES ('later')")
                b.script("INSERT INTO setting VALUES ('lang', 'default'); INSERT INTO role(name) VALUES ('default')")
                b.join = [a]
                b.start()
                self.assertEqual(b.cli("wait", "--converged", "--members", 2, "--timeout", 20).code, 0)
                for n in (a, b):
                    self.assertEqual(n.sql("SELECT v FROM setting WHERE key = 'lang'"), [("de",)])
                    self.assertEqual(n.sql("SELECT name FROM role ORDER BY id LIMIT 2"), [("of the cluster",), ("later",)])
                    self.assertEqual([x["loser"]["value"] for x in n.json("conflicts")["conflicts"] if x["kind"] == "adopted"], ["default"])
                self.assertTrue(b.log_lines("they are taken up beside those"))
                self.assertEqual(a.log_lines("they are taken up beside those"), [])
                for n in (a, b):
                    n.stop()

    MATCHED = ("CREATE TABLE team(id INTEGER PRIMARY KEY AUTOINCREMENT, number INT, name TEXT);"
               "CREATE TABLE visit(id INTEGER PRIMARY KEY, team INTEGER REFERENCES team(id), text TEXT); CREATE TABLE note(text);")

    def filled(self, node, n=200):
        con = node.connect()
        con.execute("BEGIN")
        for i in range(n):
            con.execute("INSERT INTO team(number, name) VALUES (?, ?)", (i, "team %d" % i))
            con.execute("INSERT INTO visit(team, text) VALUES (?, ?)", (i + 1, "visit %d" % i))
            con.execute("INSERT INTO note VALUES (?)", ("note %d" % (i % 9),))
        con.execute("COMMIT")
        con.close()

    def copy(self, a, b):
        source, copy = sqlite3.connect(a.path()), sqlite3.connect(b.path())
        source.backup(copy)
        source.close(), copy.close()

    def test_a_copy_that_is_matched(self):
        """A file that was copied from a running member: nothing of it goes over the line, what was changed in it loses, what is new is kept."""
        a = self.make("a")
        a.script(self.MATCHED)
        a.start()
        self.filled(a)  # numbered beside the node: no two captures would give these rows the same identity
        poll(lambda: a.database()["rows"] == 600 and a.database()["pending"] == 0)
        b = self.make("b", join=[a], extra=["--adopt", "match"])
        c = self.make("c", join=[a], extra=["--adopt", "match"])
        self.copy(a, b), self.copy(a, c)
        version = a.database()["version"]
        foretold = json.loads(harness.run([harness.STARLING, "--json", "--instance", b.instance, "doctor", "--join", a.address(), "--adopt", "match"]).out)
        self.assertEqual([t["equal"] for t in foretold["databases"][0]["tables"]], [200, 200, 200])
        b.start()
        self.assertEqual(b.cli("wait", "--converged", "--members", 2, "--timeout", 30).code, 0)
        self.assertEqual(a.dump(), b.dump())
        for n in (a, b):
            self.assertEqual(n.database()["version"], version, "nobody had anything to say")
            self.assertEqual(n.database()["conflicts"], 0)
        c.script("UPDATE team SET name = 'of c' WHERE id = 5; INSERT INTO team(number, name) VALUES (1000, 'new in c');"
                 "INSERT INTO visit(team, text) VALUES (201, 'of the new one'); DELETE FROM visit WHERE id = 9;", journal=None)
        a.sql("UPDATE team SET name = 'of a' WHERE id = 6")
        a.sql("INSERT INTO team(number, name) VALUES (2000, 'new in a')")
        c.start()
        for n in (a, b, c):
            self.assertEqual(n.cli("wait", "--converged", "--members", 3, "--timeout", 30).code, 0)
        self.assertEqual(a.dump(), c.dump())
        self.assertEqual(c.sql("SELECT name FROM team WHERE id IN (5, 6, 201) ORDER BY id"), [("team 4",), ("of a",), ("new in a",)])
        self.assertEqual(c.sql("SELECT count(*) FROM visit WHERE id = 9"), [(1,)], "absence is no deletion")
        lost = {x["loser"]["value"] for x in c.json("conflicts")["conflicts"] if x["kind"] == "adopted"}
        self.assertEqual(lost, {"of c", 1000, "new in c"})
        c.sql("UPDATE team SET name = 'later' WHERE id = 7")
        self.eventually(a, "SELECT name FROM team WHERE id = 7", [("later",)])
        self.assertEqual(os.listdir(os.path.join(c.instance, ".starling", "db")).count("app.db.state.fetch"), 0)

    def test_matched_after_it_ran_alone_and_through_a_kill(self):
        a, b = self.make("a"), self.make("b", extra=["--adopt", "match"])
        for n in (a, b):
            n.script(self.MATCHED)
            n.start()
            self.filled(n)
            n.sql("UPDATE team SET name = ? WHERE id = 3", (n.name,))
        b.sql("INSERT INTO team(number, name) VALUES (7, 'only b')")
        self.assertEqual(a.cli("pause").code, 0)  # so that it has to wait for what it fetches
        self.assertEqual(b.cli("join", a.address()).code, 0)
        poll(lambda: b.alive() == 2)
        b.sql("UPDATE team SET name = 'while it waits' WHERE id = 201")
        b.kill()
        b.restart()
        self.assertEqual(a.cli("resume").code, 0)
        self.assertEqual(b.cli("wait", "--converged", "--members", 2, "--timeout", 30).code, 0)
        self.assertEqual(a.dump(), b.dump())
        self.assertEqual(b.sql("SELECT (SELECT count(*) FROM team), (SELECT count(*) FROM visit), (SELECT name FROM team WHERE id = 3)"), [(201, 200, "a")])
        self.assertEqual(a.sql("SELECT name FROM team WHERE id = 201"), [("while it waits",)])
        self.assertEqual(a.sql("SELECT count(*) FROM note"), [(200,)])
        self.assertEqual([x["loser"]["value"] for x in a.json("conflicts")["conflicts"]], ["b"])

    def test_two_clusters(self):
        """Two clusters that meet are told so, and nothing is mixed; what the line says to do joins them, and loses nothing."""
        schema = ("CREATE TABLE team(id INTEGER PRIMARY KEY, name TEXT UNIQUE); CREATE TABLE visit(id INTEGER PRIMARY KEY, team INTEGER REFERENCES team(id), text TEXT);"
                  "CREATE TABLE setting(key TEXT PRIMARY KEY, v); CREATE TABLE note(text);")
        rows = {"a": "INSERT INTO team(name) VALUES ('one'), ('two'); INSERT INTO visit(team, text) VALUES (1, 'a of one'); INSERT INTO setting VALUES ('lang', 'de'); INSERT INTO note VALUES ('x'), ('x');",
                "b": "INSERT INTO team(name) VALUES ('two'), ('three'); INSERT INTO visit(team, text) VALUES (1, 'b of two'), (2, 'b of three'); INSERT INTO setting VALUES ('lang', 'en'); INSERT INTO note VALUES ('x'), ('y');"}
        clusters = {}
        for name in "ab":
            first = self.make(name + "1")
            first.script(schema)
            first.script(rows[name])
            first.start()
            second = self.make(name + "2", join=[first]).start()
            poll(lambda: second.has_tables("team"))
            second.sql("INSERT INTO team(name) VALUES (?)", ("later in " + name,))
            self.assertEqual(first.cli("wait", "--converged", "--members", 2, "--timeout", 20).code, 0)
            clusters[name] = [first, second]
        nodes = clusters["a"] + clusters["b"]
        dumps = [n.dump() for n in nodes]
        foretold = clusters["b"][0].json("doctor", "--join", clusters["a"][0].address())
        self.assertIn("of two clusters", foretold["databases"][0]["refused"])
        self.assertEqual(clusters["b"][0].cli("join", clusters["a"][0].address()).code, 0)
        for n in nodes:
            poll(lambda: n.alive() == 4)
            poll(lambda: "move .starling out of the instance folder" in n.cli("status").out, what="refused, and how to mend it")
            self.assertEqual(n.cli("wait", "--converged", "--timeout", 1).code, 1)
        self.assertEqual([n.dump() for n in nodes], dumps, "nothing is mixed")
        for n in clusters["b"]:
            n.stop()
            os.rename(os.path.join(n.instance, ".starling"), os.path.join(n.folder, "starling.old"))
            n.join = [clusters["a"][0]]
        for n in clusters["b"]:
            n.restart()
        for n in nodes:
            self.assertEqual(n.cli("wait", "--converged", "--members", 4, "--timeout", 30).code, 0)
        for n in nodes:
            self.assertEqual(n.sql("SELECT name FROM team ORDER BY name"), [(x,) for x in ("later in a", "later in b", "one", "three", "two")])
            self.assertEqual(n.sql("SELECT v.text, t.name FROM visit v JOIN team t ON t.id = v.team ORDER BY 1"),
                             [("a of one", "one"), ("b of three", "three"), ("b of two", "two")])
            self.assertEqual(n.sql("SELECT text FROM note ORDER BY 1"), [("x",), ("x",), ("y",)])
            self.assertEqual(n.sql("SELECT v FROM setting"), [("de",)])
            self.assertIn("en", [x["loser"]["value"] for x in n.json("conflicts")["conflicts"] if x["kind"] == "adopted"])

    def test_state_folder_lost(self):
        """The state folder is deleted while the node is down: its rows are the same as the others', so it may come back."""
        c = self.cluster(2, ITEMS)
        fill(c[0], 50)
        c.converge()
        c[1].stop()
        shutil.rmtree(os.path.join(c[1].instance, ".starling"))
        c[1].restart()
        # A copy with rows that meets a cluster whose rows came later is either equal and taken, or refused with a line: never mixed.
        poll(lambda: c[1].log_lines("app.db", "refus") or c[1].log_lines("app.db", "differ") or (c[1].peer(c[0]) or {}).get("in_sync"))
        self.assertEqual(c[0].dump(), c[1].dump())


if __name__ == "__main__":
    harness.main()
