"""Every shape of table: keys, WITHOUT ROWID, generated columns, odd names, many columns; and those that are not replicated."""
import harness
from harness import ClusterTest, poll

WIDE = "CREATE TABLE wide(id INTEGER PRIMARY KEY, %s);" % ", ".join("c%d" % i for i in range(200))

# name: (schema, statements run in turn on alternating servers, each followed by a look at all)
SHAPES = {
    "integer key": ("CREATE TABLE t(id INTEGER PRIMARY KEY, v);", [
        "INSERT INTO t(v) VALUES ('a'), ('b'), ('c')", "UPDATE t SET v = v || id", "DELETE FROM t WHERE id = 3",
        "INSERT INTO t(v) VALUES ('again 3')", "INSERT INTO t VALUES (0, 'zero'), (-7, 'negative'), (1000, 'far')", "UPDATE t SET id = 500 WHERE id = 1",
        "INSERT INTO t(v) VALUES ('1001')"]),
    "integer key -1 and the largest": ("CREATE TABLE t(id INTEGER PRIMARY KEY, v);", [
        "INSERT INTO t VALUES (-1, 'minus one')", "UPDATE t SET v = 'x' WHERE id = -1", "INSERT INTO t VALUES (9223372036854775807, 'max'), (-9223372036854775808, 'min')",
        "UPDATE t SET v = v || '!'", "DELETE FROM t WHERE id < 0"]),
    "text key": ("CREATE TABLE t(k TEXT PRIMARY KEY, v);", [
        "INSERT INTO t VALUES ('a', 1), ('', 2), ('ä😀', 3), ('a' || char(0) || 'b', 4)", "UPDATE t SET v = v + 1", "UPDATE t SET k = 'z' WHERE k = 'a'",
        "DELETE FROM t WHERE k = ''"]),
    "text key without case": ("CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v);", [
        "INSERT INTO t VALUES ('Abc', 1)", "UPDATE t SET v = 2 WHERE k = 'aBC'", "UPDATE t SET k = 'ABC'", "INSERT OR REPLACE INTO t VALUES ('abc', 3)"]),
    "blob key": ("CREATE TABLE t(k BLOB PRIMARY KEY, v);", [
        "INSERT INTO t VALUES (x'', 1), (x'00', 2), (x'0000', 3), ('text', 4), (5, 5), (5.5, 6)", "UPDATE t SET v = v * 10", "DELETE FROM t WHERE k = x'00'"]),
    "key with affinity": ("CREATE TABLE t(k NUMERIC PRIMARY KEY, v); CREATE TABLE u(k REAL PRIMARY KEY, v);", [
        "INSERT INTO t VALUES ('1', 1), ('x1', 2), (1.5, 3), ('1e2', 4)", "UPDATE t SET v = v + 1 WHERE k = 1", "INSERT INTO u VALUES (1, 1), ('2', 2)",
        "UPDATE u SET v = 9", "DELETE FROM t WHERE k = 100"]),
    "composite key": ("CREATE TABLE t(a INTEGER, b TEXT, v, w, PRIMARY KEY(b, a));", [
        "INSERT INTO t VALUES (1, 'x', 1, 1), (1, 'y', 2, 2), (2, 'x', 3, 3)", "UPDATE t SET v = v + 1 WHERE a = 1", "UPDATE t SET a = 9 WHERE b = 'y'",
        "DELETE FROM t WHERE a = 2"]),
    "only a key": ("CREATE TABLE t(a INTEGER, b INTEGER, PRIMARY KEY(a, b)); CREATE TABLE u(id INTEGER PRIMARY KEY);", [
        "INSERT INTO t VALUES (1, 1), (1, 2)", "INSERT INTO u VALUES (NULL), (NULL)", "DELETE FROM t WHERE b = 1", "DELETE FROM u WHERE id = 1"]),
    "without rowid": ("CREATE TABLE t(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE u(a, b, v, PRIMARY KEY(a, b DESC)) WITHOUT ROWID;", [
        "INSERT INTO t VALUES ('a', 1), ('b', 2)", "UPDATE t SET v = 5 WHERE k = 'b'", "INSERT INTO u VALUES (1, 2, 3), ('1', 2, 4)", "UPDATE u SET b = b + 1",
        "DELETE FROM t WHERE k = 'a'"]),
    "generated columns": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b TEXT, v INT AS (a * 2) VIRTUAL, s TEXT GENERATED ALWAYS AS (b || '!') STORED, z INT);"
        "CREATE TABLE u(k TEXT PRIMARY KEY, v AS (length(k)), w) WITHOUT ROWID;", [
            "INSERT INTO t(a, b, z) VALUES (1, 'x', 7), (2, 'y', 8)", "UPDATE t SET a = a + 10, z = 9", "INSERT INTO u(k, w) VALUES ('abc', 1)",
            "UPDATE u SET w = 2", "DELETE FROM t WHERE id = 1"]),
    "autoincrement": ("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v);", [
        "INSERT INTO t(v) VALUES ('a'), ('b')", "INSERT INTO t(v) VALUES ('c')", "DELETE FROM t WHERE id = 3", "INSERT INTO t(v) VALUES ('d')",
        "INSERT INTO t VALUES (100, 'e')", "INSERT INTO t(v) VALUES ('f')"]),
    "no key": ("CREATE TABLE t(a, b TEXT); CREATE TABLE u(a UNIQUE, v);", [
        "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, 'y')", "INSERT INTO t SELECT * FROM t", "UPDATE t SET b = b || rowid", "DELETE FROM t WHERE a = 1", "VACUUM",
        "INSERT INTO t VALUES (NULL, NULL); UPDATE t SET a = 9 WHERE a = 2", "INSERT INTO u VALUES (1, 1), (2, 2)", "INSERT OR REPLACE INTO u VALUES (1, 3); UPDATE OR REPLACE u SET a = 1"]),
    "full-text index": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT); CREATE TABLE found(n INTEGER PRIMARY KEY, body TEXT); CREATE VIRTUAL TABLE t_index USING fts5(body, content='t', content_rowid='id');"
        "CREATE TRIGGER t_ai AFTER INSERT ON t BEGIN INSERT INTO t_index(rowid, body) VALUES (new.id, new.body); END;"
        "CREATE TRIGGER t_ad AFTER DELETE ON t BEGIN INSERT INTO t_index(t_index, rowid, body) VALUES ('delete', old.id, old.body); END;"
        "CREATE TRIGGER t_au AFTER UPDATE ON t BEGIN INSERT INTO t_index(t_index, rowid, body) VALUES ('delete', old.id, old.body);"
        " INSERT INTO t_index(rowid, body) VALUES (new.id, new.body); END;", [
            "INSERT INTO t(body) VALUES ('red apple'), ('green pear')", "UPDATE t SET body = 'red pear' WHERE id = 2", "INSERT INTO found SELECT rowid, body FROM t_index('red')",
            "DELETE FROM t WHERE id = 1; DELETE FROM found", "INSERT INTO found SELECT rowid, body FROM t_index('red')"]),
    "strict": ("CREATE TABLE t(id INTEGER PRIMARY KEY, i INT, t TEXT, r REAL, b BLOB, a ANY) STRICT;", [
        "INSERT INTO t VALUES (1, 2, 'x', 1, x'00', '1'), (2, NULL, NULL, NULL, NULL, 1)", "UPDATE t SET r = 2, a = 1.5", "DELETE FROM t WHERE id = 1"]),
    "odd names": (
        'CREATE TABLE "select"("from" TEXT PRIMARY KEY, "or""der" INT, "группа 😀" TEXT, "a b.c" INT, [x]]y] INT);'.replace("[x]]y]", "[x[y]")
        + 'CREATE TABLE "it\'s ""odd"""("order" INTEGER PRIMARY KEY, "index" TEXT);' + 'CREATE TABLE "Größe"("schlüssel" TEXT PRIMARY KEY, "NEW" INT, "old" INT);'
        + 'CREATE TABLE "new"("rowid" TEXT PRIMARY KEY, "oid" INT);', [
            'INSERT INTO "select" VALUES (\'k\', 1, \'два\', 3, 4)', 'UPDATE "select" SET "or""der" = 5, "группа 😀" = NULL',
            'INSERT INTO "it\'s ""odd"""("index") VALUES (\'i\')', 'INSERT INTO "Größe" VALUES (\'ß\', 1, 2)', 'UPDATE "Größe" SET "NEW" = "old"',
            'INSERT INTO "new" VALUES (\'r\', 1)', 'UPDATE "new" SET "rowid" = \'s\'', 'DELETE FROM "select"']),
    "200 columns": (WIDE, [
        "INSERT INTO wide(%s) VALUES (%s)" % (", ".join("c%d" % i for i in range(200)), ", ".join(str(i) for i in range(200))),
        "UPDATE wide SET c7 = 'seven', c199 = NULL", "INSERT INTO wide(id) VALUES (77)", "DELETE FROM wide WHERE id = 1"]),
    "unique, check, foreign key, indexes": (
        "CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, CHECK(length(name) > 0));"
        "CREATE TABLE child(id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent(id) ON DELETE CASCADE, v INT, UNIQUE(parent_id, v));"
        "CREATE INDEX child_v ON child(v) WHERE v > 1; CREATE INDEX lower_name ON parent(lower(name)); CREATE VIEW both AS SELECT name, v FROM parent JOIN child ON parent_id = parent.id;", [
            "INSERT INTO parent(name) VALUES ('p'), ('q')", "INSERT INTO child(parent_id, v) VALUES (1, 1), (1, 2), (2, 1)",
            # two rows change places within a UNIQUE constraint
            "UPDATE parent SET name = CASE name WHEN 'p' THEN 'tmp' ELSE name END; UPDATE parent SET name = 'p' WHERE name = 'q'; UPDATE parent SET name = 'q' WHERE name = 'tmp'",
            "UPDATE child SET v = v + 10", "PRAGMA foreign_keys = ON; DELETE FROM parent WHERE id = 1", "INSERT OR REPLACE INTO parent VALUES (9, 'p')"]),
    "replace and upsert": ("CREATE TABLE t(id INTEGER PRIMARY KEY, k TEXT UNIQUE, v);", [
        "INSERT INTO t(k, v) VALUES ('a', 1), ('b', 2)", "INSERT OR REPLACE INTO t(id, k, v) VALUES (5, 'a', 3)", "INSERT INTO t(k, v) VALUES ('b', 4) ON CONFLICT(k) DO UPDATE SET v = excluded.v",
        "UPDATE OR REPLACE t SET k = 'a' WHERE k = 'b'", "REPLACE INTO t SELECT * FROM t", "INSERT OR IGNORE INTO t(k, v) VALUES ('a', 9)", "DELETE FROM t"]),
    "rows change places": ("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(k TEXT PRIMARY KEY, v);", [
        "INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')", "BEGIN; UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1; COMMIT",
        "INSERT INTO u VALUES ('a', 1), ('b', 2)", "BEGIN; UPDATE u SET k = 'c' WHERE k = 'a'; UPDATE u SET k = 'a' WHERE k = 'b'; UPDATE u SET k = 'b' WHERE k = 'c'; COMMIT",
        "BEGIN; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 'newborn'); COMMIT", "UPDATE t SET v = v || '.'"]),
    "the app's own triggers": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(k TEXT PRIMARY KEY, n INT);"
        "CREATE TRIGGER t_audit AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (NEW.v, 1) ON CONFLICT(k) DO UPDATE SET n = n + 1; END;"
        "CREATE TRIGGER t_count AFTER UPDATE ON t BEGIN UPDATE audit SET n = n + 1 WHERE k = NEW.v; END;", [
            "INSERT INTO t(v) VALUES ('x'), ('y')", "UPDATE t SET v = v WHERE v = 'x'", "INSERT INTO t(v) VALUES ('x')"]),
}


class Shapes(ClusterTest):
    def test_every_shape(self):
        a = self.make("n0")
        for i, (schema, _) in enumerate(SHAPES.values()):
            a.script(schema, db="shape%02d.db" % i)
        a.start()
        b = self.make("n1", join=[a]).start()
        c = harness.Cluster.__new__(harness.Cluster)
        c.nodes, c.db = [a, b], "shape00.db"
        names = list(SHAPES)
        wrong = {}
        for i, name in enumerate(names):
            tables = sorted(a.dump("shape%02d.db" % i))
            poll(lambda: b.has_tables(*tables, db="shape%02d.db" % i), what="%s: tables appear" % name)
        # all shapes step together: one look at convergence serves them all, until one shape is wrong
        steps = max(len(s) for _, s in SHAPES.values())
        for step in range(steps):
            node = c.nodes[step % 2]
            for i, name in enumerate(names):
                statements = SHAPES[name][1]
                if name not in wrong and step < len(statements):
                    try:
                        node.script(statements[step], "shape%02d.db" % i, journal=None)
                    except harness.sqlite3.Error as e:
                        wrong[name] = "step %d refused to the app: %s" % (step, e)
            said = None
            if not wrong:
                try:
                    c.wait(8)
                except AssertionError as e:
                    said = str(e)
            for i, name in enumerate(names):
                if name in wrong or step >= len(SHAPES[name][1]):
                    continue
                try:
                    poll(lambda: a.dump("shape%02d.db" % i) == b.dump("shape%02d.db" % i), 4 if wrong or said else 0)
                except AssertionError:
                    d = harness.difference(a.dump("shape%02d.db" % i), b.dump("shape%02d.db" % i))
                    wrong[name] = "step %d (%s): %s" % (step, SHAPES[name][1][step], d)
            if said:
                wrong.setdefault("wait", "step %d: %s" % (step, said))
        for name, why in wrong.items():
            with self.subTest(name):
                self.fail(why)

    def test_schema_arrives_whole(self):
        script = SHAPES["unique, check, foreign key, indexes"][0]
        c = self.cluster(2, script)
        poll(lambda: harness.user_schema(c[1].path()) == harness.user_schema(c[0].path()), 5, "the same schema: %s, %s" % (
            harness.user_schema(c[0].path()), harness.user_schema(c[1].path())))


class Unsupported(ClusterTest):
    SCHEMA = ("CREATE TABLE good(id TEXT PRIMARY KEY, v); CREATE TABLE nokey(a, b);"
              "CREATE VIRTUAL TABLE search USING fts5(body); INSERT INTO nokey VALUES (1, 2);")

    def test_named_never_skipped_in_silence(self):
        node = self.make("n0")
        node.script(self.SCHEMA)
        node.start()
        other = self.make("n1", join=[node]).start()
        poll(lambda: other.has_tables("good"))
        for sql in ("INSERT INTO good VALUES ('a', 1)", "INSERT INTO nokey VALUES (3, 4)", "INSERT INTO search VALUES ('find me')",
                    "UPDATE nokey SET b = 5", "DELETE FROM nokey WHERE a = 1"):
            node.sql(sql)
        self.eventually(other, "SELECT * FROM good", [("a", 1)])
        self.assertEqual(node.sql("SELECT * FROM nokey"), [(3, 5)])
        self.eventually(other, "SELECT * FROM nokey", [(3, 5)])
        self.assertEqual(node.sql("SELECT * FROM search WHERE search MATCH 'find'"), [("find me",)])
        text = node.cli("tables", "app.db")
        self.assertEqual(text.code, 0, text)
        found = find_tables(node.json("tables", "app.db"))
        self.assertEqual(found["good"]["problems"], [])
        for name in ("nokey", "search"):
            self.assertIn(name, found)
            self.assertTrue(found[name]["problems"], "%s has no problem named" % name)
            self.assertIn(name, text.out)
        self.assertIn("key", json_text(found["nokey"]["problems"]).lower())
        self.assertIn("virtual", json_text(found["search"]["problems"]).lower())


def json_text(value):
    return harness.json.dumps(value, ensure_ascii=False)


def find_tables(value):
    """The table objects of `tables --json`, by name, wherever they are nested."""
    out = {}

    def look(v):
        if isinstance(v, dict):
            if "problems" in v and "name" in v:
                out[v["name"]] = v
            for x in v.values():
                look(x)
        elif isinstance(v, list):
            for x in v:
                look(x)
    look(value)
    return out


if __name__ == "__main__":
    harness.main()
