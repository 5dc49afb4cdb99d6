"""Policies per table: said in the configuration of one server, in force on all; what cannot hold is said where people look."""
import os

import harness
from harness import ClusterTest, poll, time_passes

SCRIPT = ("CREATE TABLE team(id INTEGER PRIMARY KEY, number INTEGER, season INTEGER, name TEXT UNIQUE);"
          "CREATE TABLE game(id INTEGER PRIMARY KEY, title TEXT);"
          "CREATE TABLE scouting(id INTEGER PRIMARY KEY, game_id INTEGER, note TEXT);")
CONFIG = """database "app.db" {
    table "team"     { unique = rename key = { "number", "season" } }
    table "scouting" { refs = { "game_id -> game.id" } orphans = cascade }
    table "tema"     { unique = rename }
}
"""


class Policies(ClusterTest):
    def configured(self, node, text):
        path = os.path.join(node.folder, "node.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        node.extra = ["--config", path]
        return path

    def test_one_server_says_it_and_all_follow(self):
        a, b = self.make("a"), self.make("b")
        path = self.configured(a, CONFIG)
        a.script(SCRIPT + "INSERT INTO game VALUES(1, 'one')")
        a.start()
        b.join = [a]
        b.start()
        poll(lambda: b.has_tables("team", "game", "scouting"))
        poll(lambda: a.alive() == 2 and all(n.cli("wait", "--converged", "--members", 2).code == 0 for n in (a, b)))
        for n in (a, b):
            said = {(p["table"], p["policy"]): p for p in n.database()["policies"]}
            self.assertEqual(said["team", "key"]["value"], "number, season")
            self.assertEqual(said["scouting", "refs"]["value"], "game_id -> game.id")
            self.assertNotIn("problem", said["team", "unique"])
            self.assertIn("has no table \"tema\"", said["tema", "unique"]["problem"])
        status = a.cli("status").out
        self.assertIn("%s:4: unique = rename: the application here has no table" % path, status)
        self.assertIn("until then the default is in force", status)
        self.assertIn("key = number, season", a.cli("tables").out)

        time_passes(2.2)
        for n in (a, b):
            self.assertEqual(n.cli("pause").code, 0)
        a.sql("DELETE FROM game WHERE id = 1")
        b.sql("INSERT INTO scouting(game_id, note) VALUES(1, 'seen')")
        a.sql("INSERT INTO team(number, season, name) VALUES(254, 2024, 'Poofs')")
        b.sql("INSERT INTO team(number, season, name) VALUES(254, 2024, 'The Poofs')")
        poll(lambda: all(n.database()["pending"] == 0 for n in (a, b)))
        for n in (a, b):
            self.assertEqual(n.cli("resume").code, 0)
        poll(lambda: all(n.cli("wait", "--converged", "--members", 2).code == 0 for n in (a, b)))
        self.assertEqual(a.dump(), b.dump())
        self.assertEqual(a.sql("SELECT count(*) FROM scouting"), [(0,)])
        self.assertEqual(a.sql("SELECT count(*) FROM team WHERE number = 254 AND season = 2024"), [(1,)])
        lost = next(c for c in a.json("conflicts")["conflicts"] if c["kind"] == "orphan")
        poll(lambda: b.cli("conflicts", "resolve", lost["id"], "--keep", "loser").code == 0)
        poll(lambda: all(n.cli("wait", "--converged", "--members", 2).code == 0 for n in (a, b)))
        self.assertEqual(a.sql("SELECT title, note FROM scouting JOIN game ON game.id = game_id"), [("one", "seen")])
        self.assertEqual(a.dump(), b.dump())

    def test_two_servers_say_different_things(self):
        c = self.cluster(2, SCRIPT)
        self.configured(c[0], 'database "app.db" { orphans = keep }\n')
        c[0].stop()
        c[0].restart()
        poll(lambda: [p["value"] for p in c[1].database()["policies"]] == ["keep"])
        self.configured(c[1], 'database "app.db" { orphans = cascade }\n')
        c[1].stop()
        c[1].restart()
        poll(lambda: [p["value"] for p in c[0].database()["policies"]] == ["cascade"])
        self.assertIn("orphans = keep is not in force", c[0].cli("status").out)
        self.assertNotIn("problem", c[1].database()["policies"][0])


    def test_lines_that_cannot_hold(self):
        """Each is named with its line, why, and what helps; the node goes on with the default, and with the lines that are right."""
        a = self.make("a")
        path = self.configured(a, """database "app.db" {
    table "team"  { key = { "number", "saeson" } }
    table "game"  { key = { "title" } }
    table "scouting" { refs = { "id -> scouting.id" } }
    table "loop1" { refs = { "id -> loop2.id" } }
    table "loop2" { refs = { "id -> loop1.id" } }
    table "away"  { refs = { "p -> other.db/team.id" } }
    table "none"  { refs = { "p -> nothing.id" } }
    table "good"  { refs = { "p -> team.id" } }
}
database "misspelt.db" { orphans = keep }
""")
        a.script(SCRIPT + "INSERT INTO game(title) VALUES('same'), ('same'), ('other'); CREATE TABLE loop1(id INTEGER PRIMARY KEY);"
                 "CREATE TABLE loop2(id INTEGER PRIMARY KEY); CREATE TABLE away(id INTEGER PRIMARY KEY, p INT);"
                 "CREATE TABLE none(id INTEGER PRIMARY KEY, p INT); CREATE TABLE good(id INTEGER PRIMARY KEY, p INT); INSERT INTO good(p) VALUES(1);")
        a.start()
        poll(lambda: a.database()["rows"] == 4 and a.database()["state"] == "ok")
        said = {(p["table"], p["policy"]): p.get("problem", "") for p in a.database()["policies"]}
        for table, policy, line, part in (("team", "key", 2, "saeson"), ("game", "key", 3, "several rows here"), ("scouting", "refs", 4, "loop"), ("loop1", "refs", 5, "loop"),
                                          ("loop2", "refs", 6, "loop"), ("away", "refs", 7, "no database here"), ("none", "refs", 8, "nothing")):
            self.assertIn(part, said[table, policy])
            for out in (a.cli("status").out, a.cli("tables").out, a.cli("doctor").out, a.log()):
                self.assertTrue([x for x in out.splitlines() if "%s:%d: " % (path, line) in x and part in x and ": " in x], (table, out))
        self.assertEqual(said["good", "refs"], "")
        self.assertIn("misspelt.db", a.cli("doctor").out)
        self.assertTrue(a.log_lines("misspelt.db", path))
        a.sql("INSERT INTO game(title) VALUES('other')")  # the default is in force: nothing stands in the application's way
        poll(lambda: a.database()["rows"] == 5)


if __name__ == "__main__":
    harness.main()
