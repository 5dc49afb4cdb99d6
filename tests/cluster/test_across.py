"""References to rows of another database, named in the configuration: they mean the row, and follow its number, on every server."""
import os

import harness
from harness import ClusterTest, poll, time_passes

PEOPLE = "CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT)"
GAMES = "CREATE TABLE game(id INTEGER PRIMARY KEY, scout_id INTEGER, scout TEXT, seen TEXT)"
CONFIG = 'database "games.db" { table "game" { refs = { "scout_id -> people.db/user.id" } } }\n'


class Across(ClusterTest):
    def node(self, name, config=CONFIG):
        node = self.make(name)
        path = os.path.join(node.folder, "node.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write(config)
        node.extra = ["--config", path]
        return node

    def enters(self, node, *names, games=3):
        """The application: a user in one database, and then what refers to him in the other."""
        people, games_db = node.connect("people.db"), node.connect("games.db")
        for name in names:
            with people:
                number = people.execute("INSERT INTO user(name) VALUES(?)", (name,)).lastrowid
            for k in range(games):
                with games_db:
                    games_db.execute("INSERT INTO game(scout_id, scout, seen) VALUES(?, ?, ?)", (number, name, node.name + str(k)))
        people.close()
        games_db.close()

    def wrong(self, node):
        con = node.connect("people.db")
        con.execute("ATTACH ? AS g", (node.path("games.db"),))
        rows = con.execute("SELECT g.game.id, scout_id, scout, name FROM g.game LEFT JOIN user ON user.id = scout_id WHERE name IS NOT scout").fetchall()
        con.close()
        return rows

    def right(self, nodes, games):
        poll(lambda: all(n.cli("wait", "--converged", "--members", len(nodes)).code == 0 for n in nodes))
        for n in nodes:
            self.eventually(n, "SELECT count(*) FROM game", [(games,)], db="games.db")
            poll(lambda: self.wrong(n) == [], what=lambda: self.wrong(n))
        poll(lambda: all(n.cli("wait", "--converged", "--members", len(nodes)).code == 0 for n in nodes))
        for db in ("people.db", "games.db"):
            for n in nodes[1:]:
                self.assertEqual(n.dump(db), nodes[0].dump(db))
        self.assertEqual([self.wrong(n) for n in nodes], [[] for _ in nodes])

    def test_numbers_of_another_database(self):
        a, b = self.node("a"), self.node("b")
        for n in (a, b):
            n.script(PEOPLE, db="people.db")
            n.script(GAMES, db="games.db")
            n.start()
            poll(lambda: all((n.database(db) or {}).get("state") == "ok" for db in ("people.db", "games.db")))
            self.enters(n, *("%s%d" % (n.name, i) for i in range(5)))
        b.stop()
        b.join = [a]
        b.start()
        poll(lambda: a.alive() == 2)
        self.right((a, b), 30)
        time_passes(2.2)

        for n in (a, b):  # and apart again
            self.assertEqual(n.cli("pause").code, 0)
        a.sql("DELETE FROM user WHERE id = (SELECT max(id) FROM user)", db="people.db")
        gone = a.sql("SELECT count(*) FROM game WHERE scout_id NOT IN (%s)" % ",".join(str(r[0]) for r in a.sql("SELECT id FROM user", db="people.db")), db="games.db")
        self.assertEqual(gone, [(3,)])
        a.sql("DELETE FROM game WHERE scout_id NOT IN (%s)" % ",".join(str(r[0]) for r in a.sql("SELECT id FROM user", db="people.db")), db="games.db")
        for n in (a, b):
            self.enters(n, *("again %s%d" % (n.name, i) for i in range(20)))
        poll(lambda: all(d["pending"] == 0 for n in (a, b) for d in n.status()["databases"]))
        b.kill()  # whoever refers and who is referred to may be at different points
        self.assertEqual(a.cli("resume").code, 0)
        b.start()
        b.cli("resume")
        self.right((a, b), 30 - 3 + 120)
        said = {p["table"]: p for p in a.database("games.db")["policies"]}
        self.assertNotIn("problem", said["game"])

    def test_rows_that_were_there_before_and_a_user_that_both_entered(self):
        """First captures, and rows that become one."""
        a, b = self.node("a"), self.node("b")
        for n in (a, b):
            n.script("CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT UNIQUE)", db="people.db")
            n.script(GAMES, db="games.db")
            self.enters(n, *("%s%d" % (n.name, i) for i in range(3)), games=2)
        a.start()
        b.join = [a]
        b.start()
        poll(lambda: a.alive() == 2)
        poll(lambda: all(n.cli("wait", "--converged", "--members", 2).code == 0 for n in (a, b)))
        time_passes(2.2)
        for n in (a, b):
            self.assertEqual(n.cli("pause").code, 0)
        for n in (a, b):
            self.enters(n, *(["%s late" % n.name, "admin"] if n is a else ["admin", "%s late" % n.name]))
        poll(lambda: all(d["pending"] == 0 for n in (a, b) for d in n.status()["databases"]))
        for n in (a, b):
            self.assertEqual(n.cli("resume").code, 0)
        poll(lambda: all(n.cli("wait", "--converged", "--members", 2).code == 0 for n in (a, b)))
        self.right((a, b), 12 + 12)
        self.assertEqual(a.sql("SELECT count(*) FROM user WHERE name = 'admin'", db="people.db"), [(1,)])


if __name__ == "__main__":
    harness.main()
