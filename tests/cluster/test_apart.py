"""Two servers that never met: each wrote 600 operations by itself into the same 48 tables of 7 databases, whose rows SQLite numbers, with UNIQUE
values and foreign keys. Then they join. An audit finds where each value is that either of them showed before: shown, or an open conflict."""
import base64
import collections
import copy
import json
import os
import random
import unittest

import harness
from harness import ClusterTest, poll

OPERATIONS = 600
DATABASES = ("main.db", "users.db", "pages.db", "chats.db", "media.db", "api/calls.db", "plans.db")
ID_MAX = 5000  # a mend gives a number a little above the clashing one


class Table:
    """unique: name is; parents: column -> table that it refers to. A pair has no number: its key is two references."""

    def __init__(self, db, name, unique, parents, pair=False):
        self.db, self.name, self.unique, self.parents, self.pair = db, name, unique, parents, pair


def shape():
    """CREATE statements and tables of each database: 46 numbered tables and 2 that associate; 35 foreign keys, 10 of them cascade; 17 UNIQUE."""
    out, n = {}, 0
    for d, db in enumerate(DATABASES):
        script, tables = [], []
        for j in range(12 if d == 0 else 6):
            name, parents = "t%d_%d" % (d, j), {}
            if n >= 46:
                parents = {"left_id": "t%d_0" % d, "right_id": "t%d_1" % d}
                script.append("CREATE TABLE %s(left_id INTEGER NOT NULL REFERENCES t%d_0(id) ON DELETE CASCADE, right_id INTEGER NOT NULL "
                              "REFERENCES t%d_1(id) ON DELETE CASCADE, note VARCHAR, PRIMARY KEY (left_id, right_id));" % (name, d, d))
            else:
                reference = ""
                if j and n < 37:
                    parents["parent_id"] = "t%d_%d" % (d, (j - 1) // 2)
                    reference = ", parent_id INTEGER REFERENCES %s(id)%s" % (parents["parent_id"], " ON DELETE CASCADE" if j % 6 == 1 else "")
                script.append("CREATE TABLE %s(id INTEGER NOT NULL, number INTEGER, name VARCHAR(80)%s, data JSON, at VARCHAR, photo BLOB%s, "
                              "PRIMARY KEY (id));" % (name, " UNIQUE" if n % 3 == 0 or n == 1 else "", reference))
            tables.append(Table(db, name, n < 46 and (n % 3 == 0 or n == 1), parents, n >= 46))
            n += 1
        out[db] = ("".join(script), tables)
    return out


class Application:
    """One server's: 600 operations, each a transaction. Each row says in `data` who made it, and no later write changes that."""

    def __init__(self, node, server, seed, shape, far):
        self.node, self.server, self.shape, self.random = node, server, shape, random.Random(seed)
        self.names = "natural" if not far else "s%d" % server  # what both may enter, or each its own
        self.made, self.done = set(), collections.Counter()
        self.connections = {db: node.connect(db) for db in DATABASES}
        for db, con in self.connections.items():
            con.execute("PRAGMA foreign_keys = ON")
            if far:  # as if this server had numbers of its own
                for t in shape[db][1]:
                    if not t.pair:
                        born = "far-%d-%s" % (server, t.name)
                        self.made.add((db, t.name, born))
                        con.execute("INSERT INTO %s(id, data) VALUES (?, ?)" % t.name, (1000 * (server + 1), json.dumps({"born": born})))

    def work(self):
        for n in range(OPERATIONS):
            db = self.random.choice(DATABASES)
            con, t = self.connections[db], self.random.choice(self.shape[db][1])
            if db == "main.db":  # autocommit, as its pool has it
                self.operation(con, t, n)
                continue
            con.execute("BEGIN")
            for part in range(self.random.choice((1, 1, 3))):
                self.operation(con, t, "%d.%d" % (n, part))
            con.execute("COMMIT")

    def operation(self, con, t, n):
        what = self.random.random()
        verb = self.pair if t.pair else self.insert if what < 0.55 else self.update if what < 0.75 else self.replace if what < 0.83 \
            else self.delete if what < 0.93 else self.bulk
        try:
            self.done[verb.__name__] += bool(verb(con, t, n))
        except harness.sqlite3.IntegrityError as e:
            assert "FOREIGN KEY" in str(e), e  # children without ON DELETE
            self.done["refused"] += 1

    def ids(self, con, table):
        return [r[0] for r in con.execute("SELECT id FROM %s WHERE id <> %d" % (table, 1000 * (self.server + 1)))]

    def name(self, con, t):
        """Query first, then insert, as applications do."""
        name = "%s %d" % (self.names, self.random.randrange(12)) if self.random.random() < 0.5 else None
        if name and t.unique and con.execute("SELECT 1 FROM %s WHERE name = ?" % t.name, (name,)).fetchone():
            name = None
        return name or "s%d %d" % (self.server, self.random.randrange(10**9))

    def insert(self, con, t, n):
        born = "s%d-%s" % (self.server, n)
        values = {"number": self.random.randrange(10**9), "name": self.name(con, t), "data": json.dumps({"born": born}), "at": "%s/born" % born,
                  "photo": os.urandom(20) if self.random.random() < 0.3 else None}
        for column, parent in t.parents.items():
            ids = self.ids(con, parent)
            values[column] = self.random.choice(ids) if ids else None
        con.execute("INSERT INTO %s(%s) VALUES (%s)" % (t.name, ",".join(values), ",".join("?" * len(values))), list(values.values()))
        self.made.add((t.db, t.name, born))
        return True

    def update(self, con, t, n):
        ids = self.ids(con, t.name)
        if ids:
            column, value = self.random.choice((("number", self.random.randrange(10**9)), ("name", self.name(con, t)), ("at", "s%d/%s" % (self.server, n))))
            con.execute("UPDATE %s SET %s = ? WHERE id = ?" % (t.name, column), (value, self.random.choice(ids)))
        return ids

    def replace(self, con, t, n):
        """The row by itself, with another time."""
        ids = self.ids(con, t.name)
        if ids:
            cursor = con.execute("SELECT * FROM %s WHERE id = ?" % t.name, (self.random.choice(ids),))
            row = dict(zip([c[0] for c in cursor.description], cursor.fetchone()))
            row["at"] = "s%d/%s" % (self.server, n)
            con.execute("INSERT OR REPLACE INTO %s(%s) VALUES (%s)" % (t.name, ",".join(row), ",".join("?" * len(row))), list(row.values()))
        return ids

    def delete(self, con, t, n):
        ids = self.ids(con, t.name)
        if ids:
            con.execute("DELETE FROM %s WHERE id = ?" % t.name, (self.random.choice(ids),))
        return ids

    def bulk(self, con, t, n):
        return con.execute("UPDATE %s SET at = ? WHERE id %% 3 = 0" % t.name, ("s%d/%s" % (self.server, n),)).rowcount

    def pair(self, con, t, n):
        sides = [self.ids(con, p) for p in t.parents.values()]
        if all(sides):
            key = [self.random.choice(s) for s in sides]
            con.execute("INSERT OR REPLACE INTO %s VALUES (?, ?, ?)" % t.name, (*key, "s%d/%s" % (self.server, n)))
            if self.random.random() < 0.2:
                con.execute("DELETE FROM %s WHERE left_id = ?" % t.name, (self.random.choice(sides[0]),))
        return all(sides)

    def end(self):
        for con in self.connections.values():
            con.close()


class Look:
    """What a server shows: rows of each table by who made them (a pair: by who made its two sides)."""

    def __init__(self, node, shape):
        self.rows, self.born, self.max_id = {}, {}, 0
        for db, (_, tables) in shape.items():
            con = node.connect(db)
            con.execute("BEGIN")
            for t in tables:
                cursor = con.execute("SELECT * FROM %s" % t.name)
                columns = [c[0] for c in cursor.description]
                rows = [dict(zip(columns, row)) for row in cursor]
                if not t.pair:
                    self.born[db, t.name] = {row["id"]: json.loads(row["data"])["born"] for row in rows}
                    self.max_id = max([self.max_id] + [row["id"] for row in rows])
                self.rows[db, t.name] = rows
            con.execute("COMMIT")
            con.close()
        for db, (_, tables) in shape.items():
            for t in tables:
                self.rows[db, t.name] = self.by_birth(t, self.rows[db, t.name])

    def by_birth(self, t, rows):
        out = {}
        for row in rows:
            for column, parent in t.parents.items():
                row[column] = row[column] and ("row", self.born[t.db, parent].get(row[column], "nobody"))
            key = (row["left_id"][1], row["right_id"][1]) if t.pair else self.born[t.db, t.name][row["id"]]
            assert key not in out, "%s of %s is shown twice" % (key, t.name)
            out[key] = row
        return out


class Audit:
    """before: what each server showed when they met."""

    def __init__(self, shape, before, after, conflicts):
        self.shape, self.before, self.after = shape, before, after
        self.tables = {(db, t.name): t for db, (_, tables) in shape.items() for t in tables}
        self.lost = {(c["db"], c["table"], c["column"], self.plain(c["loser"]["value"])) for c in conflicts}
        self.lost_columns = {c[:3] for c in self.lost}
        self.wrong, self.found = [], collections.Counter()

    @staticmethod
    def plain(value):
        if isinstance(value, dict) and "base64" in value:
            return base64.b64decode(value["base64"])
        return value if isinstance(value, (str, int, float, type(None))) else json.dumps(value)

    def one_of(self, key, born):
        """This row, and the one of the other server that has the same UNIQUE name: the two may have become one."""
        t = self.tables[key]
        if t.pair:
            sides = [self.one_of((t.db, p), b) for p, b in zip(t.parents.values(), born)]
            return {(x, y) for x in sides[0] for y in sides[1]}
        out = {born}
        for mine, theirs in (self.before, self.before[::-1]):
            if t.unique and born in mine.rows[key]:
                name = mine.rows[key][born]["name"]
                out |= {b for b, row in theirs.rows[key].items() if name is not None and row["name"] == name}
        return out

    def run(self, made):
        for server, look in enumerate(self.before):
            for key, rows in look.rows.items():
                for born, row in rows.items():
                    self.row(server, key, born, row)
        for key, rows in self.after.rows.items():
            for born in rows:
                ever = born in self.before[0].rows[key] or born in self.before[1].rows[key]
                if not self.tables[key].pair and not ever:
                    self.wrong.append("%s of %s is shown, and was %s" % (born, key, "deleted before" if (*key, born) in made else "never made"))
        return self

    def row(self, server, key, born, row):
        rows = self.after.rows[key]
        shown = [b for b in sorted(self.one_of(key, born)) if b in rows]
        if not shown:
            self.wrong.append("%s of %s, on server %d %s: the row is gone" % (born, key, server, row))
            return
        there = rows[born if born in rows else shown[0]]
        self.found["rows as they were" if born in rows else "rows that are one with another"] += 1
        for column, value in row.items():
            if column != "id":
                self.value(server, key, born, column, value, there)

    def value(self, server, key, born, column, value, there):
        t, now = self.tables[key], there[column]
        if column in t.parents and value is not None:
            right = now is not None and now[1] in self.one_of((t.db, t.parents[column]), value[1])
            listed = (*key, column) in self.lost_columns
        else:
            right, listed = now == value, (*key, column, value) in self.lost
        self.found["values shown" if right else "values that are open conflicts" if listed else "values that are nowhere"] += 1
        if not right and not listed:
            self.wrong.append("%s of %s on server %d: %s was %r, is %r and no open conflict" % (born, key, server, column, value, now))


class Apart(ClusterTest):
    def apart(self, far):
        """Two nodes that do not know of each other, after 600 operations each."""
        seed = int(os.environ.get("STARLING_SEED", random.randrange(10**6)))
        print("STARLING_SEED=%d" % seed)
        tables, nodes, apps = shape(), [], []
        for server in range(2):
            node = self.make("n%d" % server)
            for db in DATABASES:
                node.script(tables[db][0], db)
            node.start()
            for db in DATABASES:
                poll(lambda: node.database(db) and node.database(db)["state"] == "ok", what=db)
            nodes.append(node)
            apps.append(Application(node, server, seed * 2 + server, tables, far))
        for app in apps:
            app.work()
            app.end()
            print("server %d: %s" % (app.server, dict(app.done)))
        return tables, nodes, set().union(*(app.made for app in apps))

    def join_and_audit(self, far):
        tables, nodes, made = self.apart(far)
        for node in nodes:
            self.assertEqual(node.cli("wait").code, 0)
        before = [Look(node, tables) for node in nodes]
        clashes = sum(row["id"] in ids for key in before[0].born for ids in [before[0].born[key]] for row in before[1].rows[key].values())
        print("%d rows and %d; %d numbers that both gave" % (*(sum(map(len, look.rows.values())) for look in before), clashes))
        self.assertEqual(clashes > 100, not far)
        self.assertEqual(nodes[1].cli("join", nodes[0].address()).code, 0)
        c = harness.Cluster.__new__(harness.Cluster)
        c.test, c.db, c.nodes = self, DATABASES[0], nodes
        for node in nodes:
            poll(lambda: node.alive() == 2, what="%s met the other" % node.name)
        c.converge(60, DATABASES)
        lists = [sorted(node.json("conflicts")["conflicts"], key=lambda x: x["id"]) for node in nodes]
        self.assertEqual([x["id"] for x in lists[0]], [x["id"] for x in lists[1]])
        for node in nodes:
            for db in DATABASES:
                self.assertEqual(node.sql("PRAGMA integrity_check", db=db), [("ok",)])
                self.assertEqual(node.sql("PRAGMA foreign_key_check", db=db), [])
                self.assertEqual(node.database(db)["parked"], 0)
        self.assertEqual(nodes[0].cli("verify").code, 0)
        after = Look(nodes[0], tables)
        audit = Audit(tables, before, after, lists[0]).run(made)
        print("%s; %d open conflicts" % (dict(audit.found), len(lists[0])))
        self.assertEqual(audit.wrong, [], "%d are wrong, such as %s" % (len(audit.wrong), audit.wrong[:5]))
        self.assertLess(after.max_id, ID_MAX)
        self.canary(tables, before, after, lists[0], made)

    def canary(self, tables, before, after, conflicts, made):
        """The audit finds a row that is gone, one that should be, a value and a reference that are others."""
        for spoil in (lambda rows: rows.popitem(), lambda rows: rows.update(stranger=dict(next(iter(rows.values())))),
                      lambda rows: next(iter(rows.values())).update(number=-1),
                      lambda rows: [row.update(parent_id=("row", "another")) for row in rows.values()]):
            spoilt = copy.deepcopy(after)
            spoil(spoilt.rows["users.db", "t1_1"])
            self.assertTrue(Audit(tables, before, spoilt, conflicts).run(made).wrong)

    def test_numbers_of_their_own(self):
        self.join_and_audit(far=True)

    def test_the_same_numbers(self):
        self.join_and_audit(far=False)


class Meetings(ClusterTest):
    """What real servers do to each other, small."""

    def never_met(self, script, *writes):
        """Two servers with the same schema, each with writes of its own; then they join."""
        nodes = []
        for server, sql in enumerate(writes):
            node = self.make("n%d" % server)
            node.script(script)
            node.start()
            poll(lambda: node.database() and node.database()["state"] == "ok")
            node.script(sql)
            self.assertEqual(node.cli("wait").code, 0)
            nodes.append(node)
        self.assertEqual(nodes[1].cli("join", nodes[0].address()).code, 0)
        return self.cluster_of(nodes)

    def cluster_of(self, nodes):
        c = harness.Cluster.__new__(harness.Cluster)
        c.test, c.db, c.nodes = self, "app.db", nodes
        for node in nodes:
            poll(lambda: node.alive() == len(nodes))
        c.converge()
        for node in nodes:
            self.assertEqual((node.sql("PRAGMA foreign_key_check"), node.database()["parked"]), ([], 0))
        return c

    def lost(self, c):
        lists = [node.json("conflicts")["conflicts"] for node in c]
        self.assertEqual(*[sorted(x["id"] for x in found) for found in lists])
        return {(x["table"], x["column"], x["loser"]["value"]) for x in lists[0]}

    def apart(self, c):
        harness.time_passes(2.2)  # what there is counts as known
        for node in c:
            self.assertEqual(node.cli("pause").code, 0)
            poll(lambda: node.status()["node"]["state"] == "paused")

    def together(self, c):
        for node in c:
            self.assertEqual(node.cli("resume").code, 0)
        return self.cluster_of(c.nodes)

    def test_fresh_servers_made_roles_and_users_for_themselves(self):
        write = ("INSERT INTO role(name) VALUES ('admin'), ('analyst'), ('scout'), ('viewer');"
                 "INSERT INTO user(username, password, role_id) SELECT 'admin', '%s', id FROM role WHERE name = 'admin';"
                 "INSERT INTO user(username, password, role_id) SELECT 'superadmin', 'super %s', id FROM role WHERE name = 'admin';"
                 "INSERT INTO user(username, password, role_id) SELECT 'only %s', 'p', id FROM role WHERE name = 'scout'")
        c = self.never_met("CREATE TABLE role(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
                           "CREATE TABLE user(id INTEGER PRIMARY KEY, username TEXT NOT NULL UNIQUE, password TEXT, role_id INTEGER REFERENCES role(id));",
                           write % ("zero", "zero", "zero"), write % ("one", "one", "one"))
        self.assertEqual(c[0].sql("SELECT name FROM role ORDER BY name"), [("admin",), ("analyst",), ("scout",), ("viewer",)])
        users = c[0].sql("SELECT username, r.name, password FROM user JOIN role r ON r.id = role_id ORDER BY username")
        self.assertEqual([u[:2] for u in users], [("admin", "admin"), ("only one", "scout"), ("only zero", "scout"), ("superadmin", "admin")])
        passwords = [v for t, column, v in self.lost(c) if (t, column) == ("user", "password")]
        self.assertEqual(sorted(passwords + [users[0][2], users[3][2]]), ["one", "super one", "super zero", "zero"])

    def test_both_import_the_same_teams(self):
        """60 teams under a declared UNIQUE number, in another order, and the matches between them."""
        schema = ("CREATE TABLE team(id INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL UNIQUE, name TEXT, city TEXT);"
                  "CREATE TABLE match(id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT, number INTEGER, red_id INTEGER REFERENCES team(id), "
                  "blue_id INTEGER REFERENCES team(id), by TEXT, UNIQUE (event, number));"
                  "CREATE TABLE scouted(team_id INTEGER REFERENCES team(id) ON DELETE CASCADE, scout TEXT, note TEXT, PRIMARY KEY (team_id, scout));")
        teams = [100 + 7 * n for n in range(60)]
        matches = [(n, teams[n], teams[(n * 11 + 1) % 60]) for n in range(40)]

        def imports(server):
            order = sorted(teams, key=lambda t: (t * 31 + server * 17) % 97)
            write = "".join("INSERT INTO team(number, name, city) VALUES (%d, 'Team %d', %s);" % (t, t, "'here'" if t % 2 == server else "NULL") for t in order)
            team = "(SELECT id FROM team WHERE number = %d)"
            write += "".join(("INSERT INTO match(event, number, red_id, blue_id, by) VALUES ('e', %%d, %s, %s, 'server %d');" % (team, team, server)) % m
                             for m in matches[::1 if server else -1])
            write += "".join("INSERT INTO scouted VALUES ((SELECT id FROM team WHERE number = %d), 'both', '%d by %d');" % (t, t, server) for t in teams[:10])
            return write + "INSERT INTO scouted SELECT id, 'server %d', number FROM team" % server

        c = self.never_met(schema, imports(0), imports(1))
        for node in c:
            self.assertEqual(node.sql("SELECT number, name FROM team ORDER BY number"), [(t, "Team %d" % t) for t in teams])
            self.assertEqual(node.sql("SELECT m.number, r.number, b.number FROM match m JOIN team r ON r.id = red_id JOIN team b ON b.id = blue_id "
                                      "ORDER BY 1"), matches)
            self.assertEqual(node.sql("SELECT scout, count(*), min(note GLOB number || '*') FROM scouted JOIN team ON id = team_id GROUP BY scout"),
                             [("both", 10, 1), ("server 0", 60, 1), ("server 1", 60, 1)])
        self.assertEqual(c[0].cli("verify").code, 0)
        lost = c[0].json("conflicts")["conflicts"]
        one = [x for x in lost if x.get("same")]
        self.assertEqual({(x["kind"], x["table"]) for x in one}, {("unique", "team"), ("unique", "match")})
        self.assertEqual(len(one), 100)
        shown = c[0].sql("SELECT name FROM team WHERE id = %d" % one[0]["winner"]["value"]) if one[0]["table"] == "team" else None
        self.assertNotEqual(shown, [])
        split = next(x for x in one if x["table"] == "team")
        self.assertIn("--split", c[1].cli("conflicts", "show", split["id"]).out)
        self.assertEqual(c[1].cli("conflicts", "resolve", split["id"], "--split").code, 0)
        c.converge()
        self.assertEqual(c[0].sql("SELECT count(*), count(DISTINCT number) FROM team"), [(61, 61)])
        self.assertEqual(c[1].cli("conflicts", "resolve", next(x for x in one if x is not split)["id"], "--keep", "winner").code, 0)
        c.converge()
        self.assertEqual(len([x for x in c[0].json("conflicts")["conflicts"] if x.get("same")]), 98)

    def test_both_import_the_same_teams_and_remove_duplicates(self):
        """(number, season) is checked by the application, and not declared."""
        rows = range(8)
        write = "".join("INSERT INTO team(number, season) VALUES (%d, 2026);" % n for n in rows)
        match = "".join("INSERT INTO match(team_id, who) SELECT id, '%%s%d' FROM team WHERE number = %d;" % (n, n) for n in rows)
        c = self.never_met("CREATE TABLE team(id INTEGER PRIMARY KEY, number INTEGER, season INTEGER);"
                           "CREATE TABLE match(id INTEGER PRIMARY KEY, team_id INTEGER REFERENCES team(id), who TEXT);",
                           write + match.replace("%s", "zero "), "INSERT INTO team(number, season) VALUES (99, 2026);" + write + match.replace("%s", "one "))
        expected = sorted(("%s %d" % (who, n), n) for who in ("zero", "one") for n in rows)
        matches = "SELECT who, number FROM match JOIN team ON team.id = team_id ORDER BY who"
        self.assertEqual(c[0].sql(matches), expected)
        self.assertEqual(c[0].sql("SELECT count(*) FROM team"), [(2 * len(rows) + 1,)])
        self.apart(c)
        for node in c:
            node.script("UPDATE match SET team_id = (SELECT min(o.id) FROM team o JOIN team t USING (number, season) WHERE t.id = team_id);"
                        "DELETE FROM team WHERE id NOT IN (SELECT min(id) FROM team GROUP BY number, season)", journal=None)
        self.together(c)
        self.assertEqual(c[0].sql(matches), expected)
        self.assertEqual(c[0].sql("SELECT number FROM team ORDER BY number"), [(n,) for n in rows] + [(99,)])

    def test_a_wipe_while_another_edits(self):
        c = self.cluster(2, "CREATE TABLE team(id INTEGER PRIMARY KEY, name TEXT);"
                            "CREATE TABLE match(id INTEGER PRIMARY KEY, team_id INTEGER REFERENCES team(id) ON DELETE CASCADE, who TEXT);")
        c[0].script("INSERT INTO team(name) VALUES ('a'), ('b'), ('c'), ('d');"
                    "INSERT INTO match(team_id, who) SELECT id, 'of ' || name FROM team", journal=None)
        c.converge()
        self.apart(c)
        c[0].script("PRAGMA foreign_keys = OFF; DELETE FROM team; DELETE FROM match", journal=None)
        c[1].script("UPDATE team SET name = 'edited' WHERE name = 'b'; INSERT INTO match(team_id, who) SELECT id, 'new' FROM team WHERE name = 'c'",
                    journal=None)
        self.together(c)
        self.assertEqual(c[1].sql("SELECT name, who FROM team LEFT JOIN match ON team.id = team_id"), [("c", "new")])
        self.assertLessEqual({("team", "name", "edited"), ("team", "(deleted)", None)}, self.lost(c))


if __name__ == "__main__":
    harness.main()
