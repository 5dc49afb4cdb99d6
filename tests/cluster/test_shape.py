"""An application as they are found: 7 databases with 48 tables, autocommit here and transactions there, REPLACE, cascades, ALTER TABLE at every
start, VACUUM, journal switches, wipes with foreign keys off, an updater that copies the files away and back. Three servers, each with keys of its
own; at the end all are equal, say so, and their files are sound."""
import os
import random
import shutil
import subprocess
import sys
import time

import harness
from harness import Cluster, ClusterTest, poll

DATABASES = ("main.db", "users.db", "pages.db", "chats.db", "media.db", "api/calls.db", "plans.db")
SERVERS = 3
SHAPE = (7, 48, 35, 6, 17)  # databases, tables, foreign keys, those that cascade, UNIQUE constraints

# The program, as one process: `program.py INSTANCE SERVER SEED`, ended by a line on its standard input.
PROGRAM = r'''
import json, os, random, sqlite3, sys, threading
import sqlalchemy as sa

DATABASES = %r
instance, server, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rnd = random.Random(seed)
BASE = (server + 1) * 1000000

# ---- 48 tables: 46 with a number as key, 2 that associate; 35 foreign keys, 6 of them cascade; 17 UNIQUE constraints
metadata, tables, n = {}, {}, 0
for d, db in enumerate(DATABASES):
    metadata[db], tables[db] = sa.MetaData(), []
    for j in range(12 if d == 0 else 6):
        name, columns = "t%%d_%%d" %% (d, j), [sa.Column("id", sa.Integer, primary_key=True)]
        if n < 46:
            columns += [sa.Column("number", sa.Integer), sa.Column("name", sa.String(80), unique=n %% 3 == 0 or n == 1), sa.Column("data", sa.JSON),
                        sa.Column("at", sa.String), sa.Column("photo", sa.LargeBinary)]
            if j and n < 41:
                columns.append(sa.Column("parent_id", sa.Integer, sa.ForeignKey("t%%d_%%d.id" %% (d, (j - 1) // 2), ondelete="CASCADE" if j %% 6 == 1 and n < 36 else None)))
        else:
            parents = ["t%%d_%%d.id" %% (d, k) for k in (0, 1)]
            columns = [sa.Column("left_id", sa.Integer, primary_key=True), sa.Column("right_id", sa.Integer, primary_key=True), sa.Column("note", sa.String)]
        tables[db].append(sa.Table(name, metadata[db], *columns))
        n += 1
numbered = [(db, t) for db in DATABASES for t in tables[db] if "id" in t.c]
pairs = [(db, t) for db in DATABASES for t in tables[db] if "left_id" in t.c]

# ---- start: engines with pools, tables, and columns that later versions added (most of these statements fail)
engines = {}
for db in DATABASES:
    os.makedirs(os.path.dirname(os.path.join(instance, db)), exist_ok=True)
    engines[db] = sa.create_engine("sqlite:///" + os.path.join(instance, db), connect_args={"timeout": 30},
                                   **({"isolation_level": "AUTOCOMMIT"} if db == "main.db" else {}))
    def pragmas(con, record):
        con.execute("PRAGMA foreign_keys = ON")
        con.execute("PRAGMA synchronous = NORMAL")
        con.execute("PRAGMA journal_mode = WAL")
    sa.event.listen(engines[db], "connect", pragmas)
    metadata[db].create_all(engines[db])
added = refused = 0
statements = [(db, "ALTER TABLE %%s ADD COLUMN %%s" %% (t.name, c)) for db, t in numbered for c in ("flags INTEGER DEFAULT 0", "updated_at TEXT", "name TEXT")]
rnd.shuffle(statements)  # the order of columns differs between servers
for db, sql in statements:
    try:
        with engines[db].connect() as con:
            con.execute(sa.text(sql))
        added += 1
    except sa.exc.OperationalError as e:
        assert "duplicate column" in str(e), e
        refused += 1
references = [f for db in DATABASES for t in tables[db] for f in t.foreign_keys]
print(len(metadata), sum(map(len, tables.values())), len(references), sum(f.ondelete == "CASCADE" for f in references),
      sum(bool(c.unique) for db in DATABASES for t in tables[db] for c in t.c), added, refused, flush=True)

# ---- work
ended, errors, count = threading.Event(), [], [0]

def mine(con, t):
    return [r[0] for r in con.execute(sa.select(t.c.id).where(t.c.id.between(BASE, BASE + 999999)).limit(40))]

def row(con, t, r):
    values = {"number": r.choice(["581B", 254, None]), "data": {"drawing": "x" * r.choice((5, 5, 3000))}, "at": "2026-11-21 %%06d" %% r.randrange(10**6),
              "name": "s%%d-%%d" %% (server, r.randrange(300)), "photo": os.urandom(r.choice((0, 0, 20000))) or None}
    if "parent_id" in t.c:
        parents = mine(con, list(t.c.parent_id.foreign_keys)[0].column.table)
        values["parent_id"] = r.choice(parents) if parents else None
    return values

def step(r):
    db, t = r.choice(numbered)
    what = r.random()
    with engines[db].begin() as con:
        ids = mine(con, t)
        new = BASE + r.randrange(200)
        if what < 0.35:
            con.execute(t.insert().prefix_with("OR IGNORE").values(id=new, **row(con, t, r)))
        elif what < 0.5:
            con.execute(t.insert().prefix_with("OR REPLACE").values(id=r.choice(ids or [new]), **row(con, t, r)))
        elif what < 0.55 and ids:  # the row as it is
            old = con.execute(t.select().where(t.c.id == r.choice(ids))).mappings().first()
            if old:  # with autocommit another thread may have deleted it
                con.execute(t.insert().prefix_with("OR REPLACE").values(**old))
        elif what < 0.75 and ids:
            con.execute(t.update().prefix_with("OR REPLACE").where(t.c.id == r.choice(ids)).values(**row(con, t, r)))
        elif what < 0.8:
            con.execute(t.update().where(t.c.id.between(BASE, BASE + 100)).values(at="bulk %%d" %% r.randrange(1000)))
        elif what < 0.9 and ids:
            con.exec_driver_sql("PRAGMA foreign_keys = OFF" if db == "main.db" and r.random() < 0.3 else "SELECT 1")
            try:
                con.execute(t.delete().where(t.c.id == r.choice(ids)))
            except sa.exc.IntegrityError:
                pass  # children refer to it
            finally:
                con.exec_driver_sql("PRAGMA foreign_keys = ON")
        else:
            pdb, p = r.choice(pairs)
            with engines[pdb].begin() as other:
                other.execute(p.insert().prefix_with("OR REPLACE").values(left_id=new, right_id=r.randrange(5), note="n%%d" %% r.randrange(9)))
                other.execute(p.delete().where(p.c.left_id == BASE + r.randrange(200)))

def admin(r):
    path = os.path.join(instance, r.choice(DATABASES))
    con = sqlite3.connect(path, timeout=30, isolation_level=None)
    what = r.randrange(4)
    if what == 0:
        con.execute("VACUUM")
    elif what == 1:  # refused, or not
        try:
            con.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as e:
            assert "locked" in str(e), e
        con.execute("PRAGMA journal_mode = WAL")
    elif what == 2:  # a wipe of what this server has
        con.execute("PRAGMA foreign_keys = OFF")
        con.execute("BEGIN IMMEDIATE")
        for name, in con.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 't*_[2-9]'").fetchall():
            if "id" in [c[1] for c in con.execute("PRAGMA table_info(%%s)" %% name)]:
                con.execute("DELETE FROM %%s WHERE id BETWEEN ? AND ?" %% name, (BASE, BASE + 99))
        con.execute("COMMIT")
    else:
        con.execute("PRAGMA optimize")
    con.close()

def work(which):
    r = random.Random(seed * 100 + which)
    try:
        while not ended.is_set():
            try:
                if which == 3:
                    admin(r)
                    ended.wait(0.3)
                else:
                    step(r)
                    ended.wait(0.005)
            except (sa.exc.IntegrityError, sqlite3.IntegrityError) as e:
                pass  # REPLACE would have left a child behind
            count[0] += 1
    except Exception as e:
        errors.append("%%d: %%r" %% (which, e))
        ended.set()

threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
[t.start() for t in threads]
sys.stdin.readline()
ended.set()
[t.join() for t in threads]
[e.dispose() for e in engines.values()]
sys.exit("; ".join(errors)) if errors else print(count[0])
''' % (DATABASES,)


class Application:
    def __init__(self, node, server, seed):
        self.proc = subprocess.Popen([sys.executable, "-c", PROGRAM, node.instance, str(server), str(seed)], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ready(self):
        """The shape; columns added, statements refused."""
        line = self.proc.stdout.readline().split()
        if len(line) != 7:
            raise AssertionError("the application did not start: %s" % self.proc.communicate("end\n")[1][-3000:])
        return tuple(map(int, line))

    def end(self):
        out, err = self.proc.communicate("end\n", timeout=60 * harness.SLOW)
        if self.proc.returncode != 0:
            raise AssertionError("the application failed: %s" % err[-3000:])
        return int(out)


class Shape(ClusterTest):
    def work(self, c, seconds, seed):
        apps = [Application(node, i, seed + i) for i, node in enumerate(c)]
        started = [a.ready() for a in apps]
        harness.time_passes(seconds)
        return started, [a.end() for a in apps]

    def equal(self, c):
        c.converge(60, DATABASES)
        done = c[0].cli("verify")
        self.assertEqual(done.code, 0, done)
        for node in c:
            for db in DATABASES:
                self.assertEqual(node.sql("PRAGMA integrity_check", db=db), [("ok",)])
                self.assertEqual((node.database(db)["parked"], node.database(db)["conflicts"]), (0, 0))
        print("%d rows" % sum(len(rows) for db in DATABASES for _, rows in c[0].dump(db).values()))

    def test_an_application_as_they_are_found(self):
        seed = int(os.environ.get("STARLING_SEED", random.randrange(10**6)))
        print("STARLING_SEED=%d" % seed)
        first = self.make("n0")
        app = Application(first, 0, seed)  # before there is a node
        self.assertEqual(app.ready(), (*SHAPE, 92, 46))
        app.end()
        nodes = [first.start()] + [self.make("n%d" % i, join=[first]).start() for i in range(1, SERVERS)]
        for node in nodes[1:]:
            for db in DATABASES:
                poll(lambda: node.has_tables(db=db) and node.database(db)["state"] == "ok", 30, "%s has %s" % (node.name, db))
        c = Cluster.__new__(Cluster)
        c.test, c.db, c.nodes = self, DATABASES[0], nodes
        started, counts = self.work(c, 6, seed + 10)
        self.assertEqual(started, [(*SHAPE, 0, 138)] * SERVERS)
        print("%s operations" % counts)
        self.equal(c)
        # The updater: the files away and back, beside the node. Everything may be in the -wal, so that the copies are older than the databases.
        away = os.path.join(self.root, "away")
        for db in DATABASES:
            os.makedirs(os.path.dirname(os.path.join(away, db)), exist_ok=True)
            shutil.copy2(nodes[1].path(db), os.path.join(away, db))
        for db in DATABASES:
            shutil.copy2(os.path.join(away, db), nodes[1].path(db))
        _, counts = self.work(c, 4, seed + 20)
        print("%s operations after the update" % counts)
        self.equal(c)


if __name__ == "__main__":
    harness.main()
