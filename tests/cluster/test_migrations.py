"""Applications that migrate by themselves, as people do it: Alembic's batches (create, copy, drop, rename) beside SQLAlchemy, and Django's.
One server is upgraded first, while the other goes on with the old version; rows are written all the time."""
import os
import sys
import threading
import uuid

import django.conf
import sqlalchemy as sa
from django.db import connections, transaction
from django.db.migrations.executor import MigrationExecutor

import harness
from harness import ClusterTest, poll

POLICY = 'database "app.db" { table "alembic_version" { replicate = no } table "django_migrations" { replicate = no } }\n'
PYTHON = "/usr/bin/python3"
PACE_S = 0.006


class Writer(threading.Thread):
    """Writes until it is told to end, and remembers what it committed: wrote[table, key] = {column: value}, columns by their first name."""

    def __init__(self, node):
        super().__init__()
        self.node, self.ending, self.error = node, threading.Event(), None
        self.wrote, self.gone, self.steps = {}, set(), 0

    def run(self):
        try:
            self.begin()
            while not self.ending.is_set():
                self.steps += 1
                self.step(self.steps)
                self.ending.wait(PACE_S)
            self.close()
        except Exception as e:
            self.error = e

    def note(self, table, key, **values):
        self.wrote.setdefault((table, key), {}).update(values)

    def end(self):
        self.ending.set()
        self.join()
        if self.error:
            raise AssertionError("the application of %s was refused: %r" % (self.node.name, self.error)) from self.error
        return self


class Jobs(Writer):
    """What goes on during a migration: a script beside the application, which names only what every version has. Each statement by itself."""

    def begin(self):
        self.con = self.node.connect()
        self.mine = []

    def step(self, i):
        key = str(uuid.uuid4())
        self.con.execute("INSERT INTO note(id, stars) VALUES (?, ?)", (key, i))
        self.note("note", key, stars=i, text=None)
        self.mine.append(key)
        if i % 3 == 0:
            self.con.execute("UPDATE note SET stars = ? WHERE id = ?", (-i, self.mine[i // 2]))
            self.note("note", self.mine[i // 2], stars=-i)
        if i % 7 == 0:
            gone = self.mine.pop(0)
            self.con.execute("DELETE FROM note WHERE id = ?", (gone,))
            self.gone.add(("note", gone))
            del self.wrote["note", gone]

    def close(self):
        self.con.close()


class Migrating(ClusterTest):
    def servers(self):
        """Two servers whose application made its own database, with its first version, before the node came."""
        nodes = [self.make("n0")]
        nodes.append(self.make("n1", join=nodes))
        for node in nodes:
            conf = os.path.join(node.folder, "conf")
            with open(conf, "w") as f:
                f.write(POLICY)
            node.extra += ["--config", conf]
            con = node.connect()
            con.execute("PRAGMA journal_mode = WAL")
            con.close()
            self.upgrade(node, 1)
            node.start()
        poll(lambda: all(n.alive() == 2 for n in nodes))
        self.writers, self.wrote = [], []
        return nodes

    def run_app(self, node, *args):
        done = harness.run([PYTHON, *args], env=harness.environment(APP_DB=node.path(), PYTHONPATH=os.path.join(self.root, "app")), cwd=self.root)
        if done.code != 0:
            raise AssertionError("a migration of %s failed: %r" % (node.name, done))
        return done

    def start(self, writer):
        self.writers.append(writer)
        writer.start()
        return writer

    def stop(self, writer):
        self.writers.remove(writer)
        self.wrote.append(writer.end())

    def migrate(self, node, version, writer):
        """The application is stopped, upgraded and started again; a script goes on writing meanwhile. Gives the new writer."""
        self.stop(writer)
        jobs = self.start(Jobs(node))
        poll(lambda: jobs.steps > 3 or jobs.error)
        self.upgrade(node, version)
        steps = jobs.steps
        poll(lambda: jobs.steps > steps + 3 or jobs.error)
        self.stop(jobs)
        return self.start(self.app(node, version))

    def expected(self):
        """Later writers of a server wrote after earlier ones; a cell has one server that edits it, but for who inserted the row."""
        rows, gone = {}, set()
        for w in self.wrote:
            gone |= w.gone
        for first in (True, False):
            for w in self.wrote:
                for key, values in w.wrote.items():
                    if key not in gone and (key[0] != "book" or (w.node.name == "n0") == first):
                        rows.setdefault(key, {}).update(values)
        return rows

    def grown(self, *writers, steps=25):
        before = [w.steps for w in writers]
        poll(lambda: any(w.error for w in writers) or all(w.steps > b + steps for w, b in zip(writers, before)), 30, "the applications write")

    def finish(self, nodes, columns, keys):
        """columns[table] = {name at the end: first name}; keys[table] = columns of the key."""
        for w in list(self.writers):
            self.stop(w)
        for node in nodes:
            done = node.cli("wait", "--converged", "--members", 2, "--timeout", int(30 * harness.SLOW), timeout=60)
            self.assertEqual(done.code, 0, "%r\n%s" % (done, node.cli("tables").out))
        self.assertEqual(nodes[0].cli("verify").code, 0, nodes[0].cli("verify"))
        rows = self.expected()
        for node in nodes:
            wrong = []
            for table, names in columns.items():
                first = {}
                con = node.connect()
                for row in con.execute("SELECT %s FROM %s" % (", ".join(keys[table] + list(names)), table)):
                    n = len(keys[table])
                    first[row[0] if n == 1 else row[:n]] = dict(zip(names.values(), row[n:]))
                con.close()
                for (t, key), values in rows.items():
                    if names is not None and t == self.first_names.get(table, table):
                        values = {c: v for c, v in values.items() if c in names.values()}
                        shown = {c: v for c, v in (first.get(key) or {}).items() if c in values}
                        if key not in first or {c: self.as_text(v) for c, v in shown.items()} != {c: self.as_text(v) for c, v in values.items()}:
                            wrong.append("%s %s is %s and not %s" % (table, key, first.get(key), values))
                known = {k for t, k in rows if t == self.first_names.get(table, table)}
                wrong += ["%s %s should not be there: %s" % (table, k, first[k]) for k in set(first) - known]
            self.assertEqual(wrong[:5], [], "%s: %d rows are wrong" % (node.name, len(wrong)))
            # two rows that were given one number while the servers could not show each other's
            lost = [c for c in node.json("conflicts")["conflicts"] if c["kind"] != "number"]
            self.assertEqual(lost, [])
            self.assertEqual([], node.log_lines("error"))
        self.assertEqual({k: v for k, v in nodes[0].dump().items() if k not in self.own}, {k: v for k, v in nodes[1].dump().items() if k not in self.own})

    own = ("alembic_version", "django_migrations")
    first_names = {}

    @staticmethod
    def as_text(value):  # a column that became text
        return str(value) if isinstance(value, int) else value

    def tearDown(self):
        for w in getattr(self, "writers", []):
            w.ending.set()


# ---- Alembic

ENV = """
import os, sqlalchemy as sa
from alembic import context
engine = sa.create_engine("sqlite:///" + os.environ["APP_DB"], connect_args={"timeout": 30})
with engine.connect() as connection:
    context.configure(connection=connection, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISIONS = ["""
    op.create_table("book", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(80), nullable=False), sa.Column("pages", sa.Integer),
                    sa.Column("shelf", sa.String(20)))
    op.create_table("note", sa.Column("id", sa.String(36), primary_key=True), sa.Column("book_id", sa.Integer, sa.ForeignKey("book.id")),
                    sa.Column("text", sa.Text), sa.Column("stars", sa.Integer))
    op.create_table("tag", sa.Column("book_id", sa.Integer, sa.ForeignKey("book.id"), primary_key=True), sa.Column("word", sa.String(30), primary_key=True))
""", """
    with op.batch_alter_table("book") as batch:
        batch.add_column(sa.Column("isbn", sa.String(20), server_default="none"))
        batch.alter_column("pages", type_=sa.BigInteger, existing_type=sa.Integer)
        batch.create_index("book_isbn", ["isbn"])
""", """
    with op.batch_alter_table("note") as batch:
        batch.alter_column("text", new_column_name="body")
        batch.alter_column("stars", existing_type=sa.Integer, server_default="0")
    op.execute("UPDATE note SET stars = 0 WHERE stars IS NULL")
""", """
    with op.batch_alter_table("book") as batch:
        batch.add_column(sa.Column("price", sa.Integer, nullable=False, server_default="0"))
        batch.drop_column("shelf")
    op.execute("UPDATE book SET price = length(name)")
""", """
    op.create_table("author", sa.Column("id", sa.String(36), primary_key=True), sa.Column("name", sa.String(80)))
    op.rename_table("tag", "label")
    op.add_column("book", sa.Column("author_id", sa.String(36)))
    with op.batch_alter_table("book") as batch:
        batch.create_foreign_key("book_author", "author", ["author_id"], ["id"])
        batch.create_unique_constraint("book_name", ["name"])
    with op.batch_alter_table("note") as batch:
        batch.create_check_constraint("note_stars", sa.text("stars < 1000000"))
    op.execute("ALTER TABLE book RENAME COLUMN isbn TO ean")
"""]
REVISION = 'import sqlalchemy as sa\nfrom alembic import op\nrevision = "v%d"\ndown_revision = %s\ndef upgrade():%s'


class Library(Writer):
    """SQLAlchemy, with the tables of one version. n0 lets SQLite number the books; both edit them, each its own."""

    def __init__(self, node, version):
        super().__init__(node)
        self.version, self.first = version, node.name == "n0"
        m = sa.MetaData()
        self.book = sa.Table("book", m, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String),
                             sa.Column("pages", sa.Integer), *[sa.Column("shelf", sa.String)] * (version < 4),
                             *[sa.Column("isbn" if version < 5 else "ean", sa.String)] * (version > 1), *[sa.Column("price", sa.Integer)] * (version > 3))
        self.text = "text" if version < 3 else "body"
        self.a_note = sa.Table("note", m, sa.Column("id", sa.String, primary_key=True), sa.Column("book_id", sa.Integer), sa.Column(self.text, sa.Text),
                               sa.Column("stars", sa.Integer))
        self.tag = sa.Table("tag" if version < 5 else "label", m, sa.Column("book_id", sa.Integer, primary_key=True), sa.Column("word", sa.String, primary_key=True))

    def begin(self):
        self.engine = sa.create_engine("sqlite:///" + self.node.path(), connect_args={"timeout": 30, "check_same_thread": False})
        self.notes, self.spare = [], []  # those that are edited, and those that are deleted as they came

    def pages(self, i):
        return i

    def step(self, i):
        key, told = str(uuid.uuid4()), []
        with self.engine.begin() as c:
            if self.first:
                values = dict(name="%s-%d-%d" % (self.node.name, self.version, i), pages=self.pages(i))
                if self.version < 4:
                    values["shelf"] = "s%d" % i
                if self.version > 3:
                    values["price"] = len(values["name"])
                number = c.execute(self.book.insert().values(**values)).inserted_primary_key[0]
                told.append(("book", number, {**{k: v for k, v in values.items() if k != "price"}, "price": len(values["name"]), "isbn": "none"}))
            else:
                number = None
            c.execute(self.a_note.insert().values(**{"id": key, "book_id": number, self.text: "text %d" % i, "stars": i}))
            told.append(("note", key, {"book_id": number, "text": "text %d" % i, "stars": i}))
            mine = c.execute(sa.select(self.book.c.id).where(self.book.c.id % 2 == (0 if self.first else 1), self.book.c.id <= 24).order_by(sa.func.random()).limit(1)).scalar()
            if mine:
                values = {"pages": self.pages(-i)}
                if self.version > 1:
                    values["isbn" if self.version < 5 else "ean"] = "isbn %d" % i
                c.execute(self.book.update().where(self.book.c.id == mine).values(**values))
                told.append(("book", mine, {"isbn" if k == "ean" else k: v for k, v in values.items()}))
                c.execute(self.tag.insert().values(book_id=mine, word="%s-%d-%d" % (self.node.name, self.version, i)))
                told.append(("tag", (mine, "%s-%d-%d" % (self.node.name, self.version, i)), {}))
            if self.notes and i % 2:
                other = self.notes[i % len(self.notes)]
                c.execute(self.a_note.update().where(self.a_note.c.id == other).values(**{self.text: "changed %d" % i}))
                told.append(("note", other, {"text": "changed %d" % i}))
            gone = self.spare.pop(0) if i % 11 == 0 and self.spare else None
            if gone:
                c.execute(self.a_note.delete().where(self.a_note.c.id == gone))
        (self.notes if i % 2 else self.spare).append(key)
        for table, k, values in told:
            self.note(table, k, **values)
        if gone:
            self.gone.add(("note", gone))

    def close(self):
        self.engine.dispose()


class Alembic(Migrating):
    first_names = {"label": "tag"}

    def setUp(self):
        super().setUp()
        folder = os.path.join(self.root, "alembic", "versions")
        os.makedirs(folder)
        for i, body in enumerate(REVISIONS, 1):
            with open(os.path.join(folder, "v%d.py" % i), "w") as f:
                f.write(REVISION % (i, '"v%d"' % (i - 1) if i > 1 else None, body))
        with open(os.path.join(self.root, "alembic", "env.py"), "w") as f:
            f.write(ENV)
        with open(os.path.join(self.root, "alembic.ini"), "w") as f:
            f.write("[alembic]\nscript_location = %s\n" % os.path.join(self.root, "alembic"))

    def upgrade(self, node, version):
        self.run_app(node, "-m", "alembic", "upgrade", "v%d" % version)

    def app(self, node, version):
        return Library(node, version)

    def test_one_server_first_step_by_step(self):
        a, b = nodes = self.servers()
        first = self.start(self.app(a, 1))
        self.grown(first, steps=30)
        harness.time_passes(2.5)  # what came less than 2 s ago does not count as seen, and what nobody saw is no false conflict
        second = self.start(self.app(b, 1))
        self.grown(first, second)
        for version in (2, 3, 4, 5):
            first = self.migrate(a, version, first)
            self.grown(first, second)
        second = self.migrate(b, 3, second)  # two at once
        self.grown(first, second)
        self.stop(second)
        b.stop()
        jobs = self.start(Jobs(b))
        self.grown(jobs, steps=5)
        self.upgrade(b, 5)  # while the node is down
        self.stop(jobs)
        b.restart()
        second = self.start(self.app(b, 5))
        self.grown(first, second)
        self.finish(nodes, {"book": {"name": "name", "pages": "pages", "ean": "isbn", "price": "price"}, "note": {"book_id": "book_id", "body": "text", "stars": "stars"},
                            "label": {}}, {"book": ["id"], "note": ["id"], "label": ["book_id", "word"]})


# ---- Django

STEPS = ["""
    migrations.CreateModel("Book", [("id", models.AutoField(primary_key=True)), ("name", models.CharField(max_length=80)),
                                    ("pages", models.IntegerField(null=True)), ("shelf", models.CharField(max_length=20))], {"db_table": "book"}),
    migrations.CreateModel("Note", [("id", models.CharField(max_length=36, primary_key=True)),
                                    ("book", models.ForeignKey("library.Book", models.CASCADE, null=True)), ("text", models.TextField(null=True)),
                                    ("stars", models.IntegerField(null=True))], {"db_table": "note"}),
    migrations.CreateModel("Tag", [("word", models.CharField(max_length=30, primary_key=True))]),
    migrations.AddField("Book", "tags", models.ManyToManyField("library.Tag")),
""", """
    migrations.AddField("Book", "isbn", models.CharField(max_length=20, default="none")),
    migrations.AlterField("Book", "pages", models.BigIntegerField(null=True)),
    migrations.AddIndex("Book", models.Index(fields=["isbn"], name="book_isbn")),
""", """
    migrations.RenameField("Note", "text", "body"),
    migrations.AlterField("Note", "stars", models.BigIntegerField(default=0, null=True)),
""", """
    migrations.AddField("Book", "price", models.IntegerField(default=0)),
    migrations.RemoveField("Book", "shelf"),
    migrations.RunPython(lambda apps, editor: apps.get_model("library", "Book").objects.using(editor.connection.alias).update(price=Length("name"))),
""", """
    migrations.CreateModel("Author", [("id", models.CharField(max_length=36, primary_key=True)), ("name", models.CharField(max_length=80))]),
    migrations.RenameModel("Tag", "Label"),
    migrations.AddField("Book", "author", models.ForeignKey("library.Author", models.SET_NULL, null=True)),
    migrations.RenameField("Book", "isbn", "ean"),
    migrations.AlterUniqueTogether("Book", {("name", "ean")}),
    migrations.AddConstraint("Note", models.CheckConstraint(check=models.Q(stars__lt=1000000), name="note_stars")),
"""]
STEP = """
from django.db import migrations, models
from django.db.models.functions import Length
class Migration(migrations.Migration):
    dependencies = %s
    operations = [%s]
"""


class Shelves(Writer):
    """Django's ORM, with the models of one version. n0 lets SQLite number the books; both edit and tag them, each its own."""

    def __init__(self, node, version):
        super().__init__(node)
        self.version, self.first, self.db = version, node.name == "n0", node.name
        apps = MigrationExecutor(connections[self.db]).loader.project_state(("library", "v%d" % version)).apps
        self.book, self.tag, self.a_note = (apps.get_model("library", name) for name in ("Book", "Tag" if version < 5 else "Label", "Note"))
        self.text = "text" if version < 3 else "body"
        self.isbn = "isbn" if version < 5 else "ean"

    def begin(self):
        self.notes, self.spare = [], []

    def add(self, i, key, told):
        book = None
        if self.first:
            values = dict(name="%s-%d-%d" % (self.db, self.version, i), pages=i)
            values.update({"shelf": "s%d" % i} if self.version < 4 else {"price": len(values["name"])})
            book = self.book.objects.using(self.db).create(**values)
            told.append(("book", book.pk, dict(values, price=len(values["name"]), isbn="none")))
        self.a_note.objects.using(self.db).create(**{"id": key, "book": book, self.text: "text %d" % i, "stars": i})
        told.append(("note", key, {"book_id": book and book.pk, "text": "text %d" % i, "stars": i}))

    def edit(self, i, told):
        mine = self.book.objects.using(self.db).filter(pk__lte=24).extra(where=["id %% 2 = %d" % (not self.first)]).order_by("?").first()
        if mine is None:
            return
        values = {"pages": -i}
        if self.version > 1:
            values[self.isbn] = "isbn %d" % i
        for name, value in values.items():
            setattr(mine, name, value)
        mine.save(update_fields=list(values))
        told.append(("book", mine.pk, {"isbn" if k == "ean" else k: v for k, v in values.items()}))
        word = "%s-%d-%d" % (self.db, self.version, i)
        tag = self.tag.objects.using(self.db).create(word=word)
        told.append(("library_tag", word, {}))
        mine.tags.add(tag)
        told.append(("book_tags", (mine.pk, word), {}))

    def step(self, i):
        key, told, gone = str(uuid.uuid4()), [], None
        with transaction.atomic(using=self.db):
            self.add(i, key, told)
            self.edit(i, told)
            if self.notes and i % 2:
                other = self.notes[i % len(self.notes)]
                self.a_note.objects.using(self.db).filter(pk=other).update(**{self.text: "changed %d" % i})
                told.append(("note", other, {"text": "changed %d" % i}))
            if i % 11 == 0 and self.spare:
                gone = self.spare.pop(0)
                self.a_note.objects.using(self.db).get(pk=gone).delete()
        (self.notes if i % 2 else self.spare).append(key)
        for table, k, values in told:
            self.note(table, k, **values)
        if gone:
            self.gone.add(("note", gone))

    def close(self):
        connections[self.db].close()


class Django(Migrating):
    first_names = {"library_label": "library_tag"}

    def setUp(self):
        super().setUp()
        folder = os.path.join(self.root, "app", "library", "migrations")
        os.makedirs(folder)
        open(os.path.join(folder, "..", "__init__.py"), "w").close()
        open(os.path.join(folder, "__init__.py"), "w").close()
        for i, body in enumerate(STEPS, 1):
            with open(os.path.join(folder, "v%d.py" % i), "w") as f:
                f.write(STEP % ([("library", "v%d" % (i - 1))] if i > 1 else [], body))
        sys.path.insert(0, os.path.join(self.root, "app"))
        databases = {name: {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(self.root, name, "instance", "app.db"),
                            "OPTIONS": {"timeout": 30}} for name in ("n0", "n1")}
        django.conf.settings.configure(INSTALLED_APPS=["library"], DATABASES=dict(databases, default={}), USE_TZ=True)
        django.setup()

    def upgrade(self, node, version):
        self.assertEqual(connections[node.name].settings_dict["NAME"], node.path())
        MigrationExecutor(connections[node.name]).migrate([("library", "v%d" % version)])
        connections[node.name].close()

    def app(self, node, version):
        return Shelves(node, version)

    def test_one_server_after_the_other(self):
        a, b = nodes = self.servers()
        first = self.start(self.app(a, 1))
        self.grown(first, steps=30)
        harness.time_passes(2.5)
        second = self.start(self.app(b, 1))
        self.grown(first, second)
        for version in (2, 3, 4, 5):
            first = self.migrate(a, version, first)
            self.grown(first, second, steps=12)
        harness.time_passes(2.5)    # what the first one's migrations wrote was seen, too
        second = self.migrate(b, 5, second)  # all at once
        self.grown(first, second)
        self.finish(nodes, {"book": {"name": "name", "pages": "pages", "ean": "isbn", "price": "price"},
                            "note": {"book_id": "book_id", "body": "text", "stars": "stars"}, "library_label": {}, "book_tags": {}},
                    {"book": ["id"], "note": ["id"], "library_label": ["word"], "book_tags": ["book_id", "label_id"]})


if __name__ == "__main__":
    harness.main()
