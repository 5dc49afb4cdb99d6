"""Random scripts: who writes what when, what moves between the servers, and migrations."""
import random

from random_schema import BLOBS, KEYS, STRICT_TYPES, TEXTS, TYPES, Column, Schema, quote
from random_writer import Writer


class Part(list):
    """A block that belongs to a migration."""

    def __init__(self, lines, migration):
        super().__init__(lines)
        self.migration = migration


class Script:
    """The steps of one schema, in blocks that may be left out."""

    def __init__(self, seed, without=()):
        self.seed, self.without = seed, set(without)
        self.r = r = random.Random(seed)
        self.nodes = r.choice([2, 2, 2, 3, 3, 4])
        self.head = ['begin %d %d' % (seed, self.nodes)]
        self.blocks = []
        self.schema = Schema(r, self.nodes, self.without, seed)
        self.writer = Writer(self.schema)
        self.writable = list(self.schema.tables)
        self.extra = 0
        fts = any(t.fts for t in self.schema.tables)      # keeps a read lock after a refused statement: SQLite's own way
        for n in range(self.nodes):
            if self.schema.may('delete_mode', 0.2) and not fts:
                self.head.append('mode %d PRAGMA journal_mode=DELETE; PRAGMA synchronous=OFF' % n)
        # SQLite enforces what a table refers to in itself otherwise where there are triggers, as beside a node: it counts rows that referred to
        # nothing before, and looks at what REPLACE leaves. So there nothing is enforced.
        self.unenforced = self.schema.self_references()
        self.late = None
        last = self.nodes - 1
        if self.schema.may('create', 0.08):
            self.head.append('create %d' % last)
        elif self.schema.may('late', 0.1):
            self.late = last
            self.head.append('late %d' % last)
        for sql in self.schema.created:
            self.emit('all ' + sql)
        if self.schema.may('adopted', 0.5):
            for _ in range(r.randrange(1, 12)):
                t = r.choice(self.writable)
                self.emit('all ' + self.writer.insert(t, t.q, r.randrange(self.nodes)))
        self.emit('start')
        if self.late is not None:
            self.apart([n for n in range(self.nodes) if n != self.late])
            self.emit('join %d' % self.late)
            self.late = None
        self.emit('quiet')
        for _ in range(r.choice([2, 3, 3, 4, 5])):
            if self.schema.may('migrations', 0.35):
                self.migration()
            elif self.schema.may('lives', 0.2):
                self.lives()
            elif r.random() < 0.6:
                self.apart(range(self.nodes))
            else:
                self.penned()
            self.emit('quiet')

    def emit(self, *lines):
        if lines:
            self.blocks.append(list(lines))

    def migrate(self, *lines):
        """A part of a migration: left out with all of it, or not at all."""
        self.blocks.append(Part(lines, self.extra))

    def lines(self, blocks=None):
        return self.head + [line for b in (self.blocks if blocks is None else blocks) for line in b] + ['end']

    # ---- writers

    def connection(self):
        c = self.r.choice([0, 0, 0, 1, 2, 3])
        return 0 if c == 3 and 'attached' in self.without else c

    def statement(self, node, c, t, alone):
        space = node if not alone else self.r.randrange(self.nodes)
        return 'on %d.%d %s' % (node, c, self.writer.statement(t, ('w.' if c == 3 else '') + t.q, space, alone))

    def turns(self, node, chance):
        return ['turn %d %d' % (node, self.r.choice([1, 2, 5, 20]))] if self.r.random() < chance else []

    def unit(self, node, tables, alone):
        """One block of one application's writes to one of the tables; each belongs to its own transaction, or all to one."""
        r, w = self.r, self.writer
        c = self.connection()
        t = r.choice(tables)
        form = r.randrange(100)
        if form < 55:
            return [self.statement(node, c, t, alone)]
        if form < 60:
            if r.random() < 0.5 and not self.unenforced:
                return ['on %d.%d PRAGMA foreign_keys=%s' % (node, c, r.choice(['ON', 'ON', 'OFF']))]
            return ['on %d.%d PRAGMA recursive_triggers=%s' % (node, c, r.choice(['ON', 'OFF']))]
        space = node if not alone else r.randrange(self.nodes)
        q = ('w.' if c == 3 else '') + t.q
        on = 'on %d.%d ' % (node, c)
        if form < 68:                   # a key's row goes and comes again
            i = r.randrange(KEYS)
            lines = [on + (w.delete(t, q, space) if t is w.shapes else 'DELETE FROM %s WHERE %s' % (q, w.row(t, space, i)))]
            lines += self.turns(node, 0.5)
            lines += [on + w.insert(t, q, space)] * r.choice([1, 1, 2])
            return lines if r.random() < 0.6 else [on + 'BEGIN'] + lines + [on + 'COMMIT', on + 'ROLLBACK']
        if form < 70 and 'migrations' not in self.without and not self.unenforced:     # a change of schema that is taken back
            c = quote('gone %d' % len(self.blocks))
            lines = [on + 'ALTER TABLE %s ADD COLUMN %s' % (q, c)] + self.turns(node, 0.3)
            lines += [on + w.delete(t, q, space), on + 'DROP TABLE %s' % q, on + 'CREATE TABLE %s(x)' % q] + self.turns(node, 0.3)
            return [on + 'BEGIN'] + lines + [on + 'ROLLBACK']
        if form < 72:                   # an administrator's wipe, and everything again
            lines = [on + 'PRAGMA foreign_keys=OFF', on + 'BEGIN']
            lines += [on + 'DELETE FROM %s WHERE %s' % (('w.' if c == 3 else '') + x.q, w.rows(x, space)) for x in tables if x is not w.shapes] + self.turns(node, 0.3)
            lines += [self.statement(node, c, r.choice(tables), alone) for _ in range(4)]
            return lines + [on + 'COMMIT', on + 'ROLLBACK'] + [on + 'PRAGMA foreign_keys=ON'] * (not self.unenforced)
        if form < 78 and t.key:         # two rows change places
            i, j, k = r.sample(range(KEYS), 3)
            lines = [on + w.move(t, q, space, i, k), on + w.move(t, q, space, j, i), on + w.move(t, q, space, k, j)]
            return [on + 'BEGIN IMMEDIATE'] + lines + [on + 'COMMIT', on + 'ROLLBACK'] if r.random() < 0.8 else lines
        lines = [on + r.choice(['BEGIN', 'BEGIN', 'BEGIN IMMEDIATE', 'BEGIN EXCLUSIVE', 'SAVEPOINT outer_one'])]
        if r.random() < 0.15:
            lines.append(on + 'PRAGMA defer_foreign_keys=ON')
        begun = lines[0].endswith('outer_one')
        inner = 0
        for _ in range(r.randrange(1, 6)):
            x = r.random()
            if x < 0.15 and inner < 2:
                inner += 1
                lines.append(on + 'SAVEPOINT s%d' % inner)
            elif x < 0.3 and inner:
                lines.append(on + r.choice(['ROLLBACK TO s%d', 'RELEASE s%d', 'RELEASE s%d']) % inner)
                inner -= lines[-1].split(' ')[2] == 'RELEASE'
            else:
                lines.append(self.statement(node, c, r.choice(tables), alone))
            lines += self.turns(node, 0.08)
        end = r.random()
        if begun:
            lines.append(on + ('RELEASE outer_one' if end < 0.8 else 'ROLLBACK'))
        else:
            lines.append(on + ('COMMIT' if end < 0.8 else 'ROLLBACK'))
        return lines + [on + 'ROLLBACK']        # a COMMIT that was refused leaves its transaction open

    def moves(self, nodes):
        """What is not a write: batches on their way, restarts, an administrator."""
        r = self.r
        a = r.choice(list(nodes))
        x = r.randrange(100)
        if x < 40:
            return ['turn %d %d' % (a, r.choice([1, 3, 20, 200]))]
        if x < 80:
            b = r.choice(list(nodes))
            return ['pull %d %d %d' % (a, b, r.choice([1, 2, 100]))] + self.turns(a, 0.7) if a != b else []
        if x < 86:
            return ['restart %d' % a]
        if x < 90:
            return ['reopen %d' % a]
        if x < 94:
            return ['only %d VACUUM' % a] if 'vacuum' not in self.without else []
        if x < 96 and 'switch' not in self.without and not any(t.fts for t in self.schema.tables):
            return ['reopen %d' % a, 'only %d PRAGMA journal_mode=%s' % (a, r.choice(['WAL', 'DELETE']))]
        return ['only %d %s' % (a, r.choice(['ANALYZE', 'REINDEX', 'PRAGMA wal_checkpoint(TRUNCATE)', 'PRAGMA wal_checkpoint(PASSIVE)']))]

    def apart(self, nodes, tables=None, most=18):
        r = self.r
        nodes, tables = list(nodes), tables or self.writable
        for _ in range(r.randrange(4, most)):
            if r.random() < 0.75:
                n = r.choice(nodes)
                self.emit(*(self.unit(n, tables, False) + self.turns(n, 0.3)))
            else:
                self.emit(*self.moves(nodes))

    def penned(self):
        """Each table, with what is tied to it, has one writer."""
        r = self.r
        groups = {}
        for t in self.writable:
            groups.setdefault(id(t.tied), []).append(t)
        pens = [(r.randrange(self.nodes), ts) for ts in groups.values()]
        if r.random() < 0.4:
            pens = [(pens[0][0], ts) for _, ts in pens]
        for _ in range(r.randrange(3, 14)):
            n, ts = r.choice(pens)
            if r.random() < 0.85:
                self.emit(*(self.unit(n, ts, True) + self.turns(n, 0.3)))
            else:
                self.emit(*self.moves(range(self.nodes)))

    def lives(self):
        """A number gets another life, or two change places, on one server; on another, which has not heard of it, somebody writes to the old one.
        He loses, and is listed: nothing of it may show in the row that has the number now."""
        r = self.r
        n, m = r.sample(range(self.nodes), 2)
        found = [(t, c) for t in self.writable for c in t.column('plain')
                 if t.kind == 'int' and len(t.tied) == 1 and not (t.triggers or t.views or t.fts or t.unique_sets or self.writer.s.needed(t, [c]))
                 and not c.check and not c.used and (c.type == 'TEXT' or not c.strict)]
        if not found:
            return self.apart(range(self.nodes))
        t, c = r.choice(found)
        k, on = t.key[0].q, 'on %d.0 ' % n
        top, low = ['(SELECT %s(%s) FROM %s)' % (f, k, t.q) for f in ('max', 'min')]

        def born(value):  # beside the highest number that there is SQLite draws numbers at random
            return on + "INSERT INTO %s(%s) SELECT '%s' WHERE coalesce(%s, 0) < (1 << 62)" % (t.q, c.q, value, top)

        def move(to, place):
            return on + 'UPDATE %s SET %s = %s WHERE %s = %s' % (t.q, k, to, k, place)
        self.extra += 1
        self.migrate('quiet', born('one'), born('two'), 'quiet')
        if r.random() < 0.5 or t.extremes:      # no place is below -9223372036854775808
            write, old = [on + 'DELETE FROM %s WHERE %s = %s' % (t.q, k, top), born('three')], ''
        else:       # by way of a number below all: no place is max(...) then but those of the two
            write = [on + 'BEGIN', move(low + ' - 1', top), move(top + ' + 1', top), move(top + ' - 1', low), on + 'COMMIT']
            old = r.choice(['', ' - 1'])
        met = "only %d UPDATE %s SET %s = 'met' WHERE %s = %s%s" % (m, t.q, c.q, k, top, old)
        self.migrate(*(self.turns(n, 0.3) + write + self.turns(n, 0.3) + [met]))

    # ---- migrations

    def shapes(self, t, rebuilt):
        self.writer.moving = t
        self.writer.shapes = t if rebuilt else None

    def migration(self):
        """The same DDL on every server, one after the other (or at once), with rows in flight."""
        r = self.r
        made = None
        for _ in range(20):
            t = r.choice(self.writable)
            form = r.choice([f for f in ('add', 'add', 'add_reference', 'drop', 'rename_column', 'rename_used', 'rename', 'rebuild', 'rebuild', 'rebuild',
                                         'index', 'create', 'drop_table', 'recreate') if f not in self.without])
            made = getattr(self, 'do_' + form)(t)
            if made:
                break
        else:
            return self.apart(range(self.nodes))
        sqls, before, after, tables, done = made
        # sqls: the migration; before, after: columns of t for who has not, and who has, done it; tables: what may be written meanwhile
        if r.random() < 0.6:
            self.apart(range(self.nodes), most=8)
            if r.random() < 0.4:
                self.emit('quiet')
        self.extra += 1
        # a table that is dropped and made again is empty for a moment only: on the shadow nothing happens. What no node has read is gone with it.
        again = form == 'recreate'
        if again and t.nulls:       # written just now: they would be gone
            return
        # that a parent's deletion left a child behind on purpose is not known of references that a new name carries: till quiet they are let be
        calm = again or (form.startswith('rename') and any(x.parents or x.key_parent for x in t.tied))
        if calm:
            self.emit('quiet')
            tables = [x for x in tables if x not in t.tied]
        if r.random() < 0.35:
            self.migrate(*(['ddl %d %s' % (n, sql) for n in range(self.nodes) for sql in sqls] if again else ['all ' + sql for sql in sqls]))
            done()
            self.shapes(t, form == 'rebuild')
            if not calm and r.random() < 0.7:
                self.apart(range(self.nodes))
            self.shapes(None, False)
            return
        split = r.random() < 0.5        # each statement a block of its own
        if not again:
            self.migrate(*['shadow ' + sql for sql in sqls])
        self.shapes(t, form == 'rebuild')
        order = list(range(self.nodes))
        r.shuffle(order)
        ready = []
        columns = t.columns
        while len(ready) < self.nodes:
            if r.random() < 0.4:
                n = order[len(ready)]
                lines = []
                for sql in sqls:
                    lines.append('ddl %d %s' % (n, sql))
                    lines += self.turns(n, 0.15 if split else 0)
                self.migrate(*lines)
                ready.append(n)
            elif r.random() < 0.7 and tables:
                n = r.randrange(self.nodes)
                t.columns = after if n in ready else before
                self.emit(*(self.unit(n, tables, False) + self.turns(n, 0.3)))
            else:
                self.emit(*self.moves(range(self.nodes)))
        t.columns = columns
        self.shapes(None, False)
        done()

    def fresh(self, t):
        c = Column(self.schema.name(t.taken), self.r.choice(STRICT_TYPES if t.strict else TYPES))
        c.strict = t.strict
        if self.r.random() < 0.6:
            # SQLite itself shows other numbers (-0.0, 9e999, 2^53 and more) in two ways when they are the default of a column that came later
            c.default = self.r.choice(['0', '1', '-1', '42'] if c.type in ('INTEGER', 'INT', 'REAL') else TEXTS[:12] if c.type == 'TEXT'
                                      else BLOBS[:4] if c.type == 'BLOB' else ['7', '0.5'] + TEXTS[:12] + BLOBS[:4])
            c.not_null = self.r.random() < 0.4
        return c

    def free_column(self, t):
        free = [c for c in t.column('plain') if not c.used]
        return self.r.choice(free) if free and len(t.column('plain')) > 1 else None

    def do_add(self, t):
        c = self.fresh(t)
        old, new = list(t.columns), t.columns + [c]

        def done():
            t.columns = new
            t.altered = True
        return ['ALTER TABLE %s ADD COLUMN %s' % (t.q, c.sql())], old, new, self.writable, done

    def do_add_reference(self, t):
        """A column that refers, as tools add it: NULL in every row."""
        parents = [p for p in self.schema.tables if p is not t and p.made and len(p.key) == 1 and not p.extremes]
        if not parents or t.strict or t.extremes or not t.made:
            return None
        p = self.r.choice(parents)
        c = Column(self.schema.name(t.taken), p.key[0].type, 'foreign')
        c.target, c.used = p.key[0], True
        c.references = ' REFERENCES %s%s%s' % (p.q, self.r.choice(['', '(%s)' % p.key[0].q]),
                                               self.r.choice(['', ' ON DELETE CASCADE', ' ON DELETE SET NULL', ' ON UPDATE CASCADE']))
        old, new = list(t.columns), t.columns + [c]

        def done():
            t.columns = new
            t.altered = t.frozen = True
            p.frozen = True
            t.parents.append(([c], p, p.key))
            self.schema.tie(t, p)
        return ['ALTER TABLE %s ADD COLUMN %s' % (t.q, c.sql())], old, new, self.writable, done

    def do_rename_used(self, t):
        """A column that is in a key, an index or a constraint, ours or another table's."""
        free = [c for c in t.columns if c.used and not c.generated and c.role in ('key', 'plain', 'apart', 'foreign')]
        if not free or not t.key or any(x.views or x.fts or x.triggers or x.writes for x in t.tied):
            return None
        c, name = self.r.choice(free), self.schema.name(t.taken)
        old = c.q

        def done():
            c.name = name
            for x in t.tied:
                x.altered = x.frozen = True
        # statements name the column as it is called where they run: nothing is written to it meanwhile
        return ['ALTER TABLE %s RENAME COLUMN %s TO %s' % (t.q, old, quote(name))], t.columns, t.columns, \
            [x for x in self.writable if x not in t.tied], done

    def do_drop(self, t):
        c = self.free_column(t)
        if not c:
            return None
        new = [x for x in t.columns if x is not c]

        def done():
            t.columns = new
            t.altered = True
        # who has not done it yet cannot insert without it, or not with what it is by default
        tables = [x for x in self.writable if x is not t] if (c.not_null and not c.default) or c.check else self.writable
        return ['ALTER TABLE %s DROP COLUMN %s' % (t.q, c.q)], new, new, tables, done

    def do_rename_column(self, t):
        c = self.free_column(t)
        if not c or (not t.key and 'keyless_rename' in self.without):
            return None
        d = Column(self.schema.name(t.taken), c.type)
        d.strict, d.not_null, d.collate, d.default = c.strict, c.not_null, c.collate, c.default
        d.check = c.check and c.check.replace(c.q, d.q)
        rest = [x for x in t.columns if x is not c]
        new = [d if x is c else x for x in t.columns]

        def done():
            t.columns = new
            t.altered = True
        sqls = ['ALTER TABLE %s RENAME COLUMN %s TO %s' % (t.q, c.q, d.q)]
        if c.not_null and not c.default:        # the same
            return sqls, new, new, [x for x in self.writable if x is not t], done
        return sqls, rest, new, self.writable, done

    def do_rename(self, t):
        if t.views or t.fts or (not t.key and 'keyless_rename' in self.without):
            return None
        old, name = t.q, self.schema.name()

        def done():
            t.name = name
            t.altered = True
            for x in self.schema.tables:
                x.constraints = [c.replace(' REFERENCES %s' % old, ' REFERENCES %s' % t.q) for c in x.constraints]
            self.schema.created = [s.replace(' ON %s(' % old, ' ON %s(' % t.q) for s in self.schema.created]
        # statements name the table as it is called where they run: nothing is written to it meanwhile
        return ['ALTER TABLE %s RENAME TO %s' % (old, quote(name))], t.columns, t.columns, [x for x in self.writable if x is not t], done

    def do_rebuild(self, t):
        """Create, copy, drop, rename: with a column more, one less, or in another order."""
        r = self.r
        if t.fts or not t.key or t.frozen or (t.altered and t.triggers):
            return None
        new = list(t.columns)
        before, after = t.columns, t.columns
        form = r.randrange(4)
        c = self.free_column(t)
        c = c if c and (not c.not_null or c.default) else None
        if form == 0:
            new.append(self.fresh(t))
            after = new
        elif form == 1 and c:
            new.remove(c)
            before = after = new
        elif form == 2:
            r.shuffle(new)
        sqls = self.rebuild(t, new)

        def done():
            t.columns = new
            t.altered = True
        whole = any(s.startswith('BEGIN') for s in sqls)
        return sqls, before, after, self.writable if whole else [x for x in self.writable if x is not t], done

    def rebuild(self, t, new):
        """As tools write it. Without legacy_alter_table SQLite refuses a name that a view or another table's trigger knew."""
        r = self.r
        plain = all(not x.views and (x is t or not x.writes) for x in self.schema.tables)
        style = r.choice(['by hand', 'by hand', 'alembic', 'django', 'prisma', 'drizzle', 'laravel', 'peewee', 'away', 'rails'] if plain else
                         ['by hand', 'away'])
        tmp = {'alembic': '_alembic_tmp_%s', 'django': 'new__%s', 'prisma': 'new_%s', 'drizzle': '__new_%s', 'laravel': '__temp__%s',
               'peewee': '%s__tmp__', 'away': '%s_old', 'rails': 'a%s'}.get(style, 'new %s') % t.name
        if tmp.lower() in self.schema.names:
            tmp = 'new ' + t.name
        tmp = quote(tmp)
        old, t.columns = t.columns, new
        both = ', '.join(x.q for x in new if x in old and not x.generated)
        copy = 'INSERT INTO {}(%s) SELECT %s FROM {}' % (both, both)
        if style == 'away':
            sqls = ['ALTER TABLE %s RENAME TO %s' % (t.q, tmp), t.sql(), copy.format(t.q, tmp), 'DROP TABLE %s' % tmp]
        elif style == 'rails':
            sqls = ['CREATE TEMPORARY TABLE %s AS SELECT %s FROM %s' % (tmp, both, t.q), 'DROP TABLE %s' % t.q, t.sql(), copy.format(t.q, tmp),
                    'DROP TABLE %s' % tmp]
        else:
            sqls = [t.sql(tmp), copy.format(tmp, t.q), 'DROP TABLE %s' % t.q, 'ALTER TABLE %s RENAME TO %s' % (tmp, t.q)]
        t.columns = old
        sqls += [s for s in self.schema.created if s.startswith(('CREATE INDEX', 'CREATE UNIQUE INDEX')) and ' ON %s(' % t.q in s]
        sqls += t.triggers
        if style == 'django' and r.random() < 0.5:
            sqls = ['SAVEPOINT rebuild'] + sqls + ['RELEASE rebuild']
        if style in ('alembic', 'django', 'drizzle', 'rails') or r.random() < (0 if style == 'prisma' else 0.8):
            sqls = [r.choice(['BEGIN', 'BEGIN IMMEDIATE'])] + sqls + ['COMMIT']
        sqls = ['PRAGMA foreign_keys=OFF'] + sqls
        return ['PRAGMA legacy_alter_table=ON'] + sqls + ['PRAGMA legacy_alter_table=OFF'] if style in ('by hand', 'away') else sqls

    def do_index(self, t):
        r = self.r
        names = [n for n, unique in t.index_names if not unique]
        if names and r.random() < 0.4:
            n = r.choice(names)
            t.index_names.remove((n, False))
            self.schema.created = [s for s in self.schema.created if not s.startswith('CREATE INDEX %s ' % quote(n))]
            return ['DROP INDEX %s' % quote(n)], t.columns, t.columns, self.writable, lambda: None
        c = r.choice(t.columns)
        c.used = True
        n = 'extra %d' % len(self.blocks)
        t.index_names.append((n, False))
        s = 'CREATE INDEX %s ON %s(%s%s)' % (quote(n), t.q, c.q, r.choice(['', ' DESC', ' COLLATE RTRIM']))
        self.schema.created.append(s)
        return [s], t.columns, t.columns, self.writable, lambda: None

    def do_create(self, t):
        made = len(self.schema.created)
        new = self.schema.add_table()
        sqls = [new.sql()]
        self.schema.add_indexes(new)
        sqls += self.schema.created[made:]

        def done():
            new.made = True
            self.writable.append(new)
        return sqls, t.columns, t.columns, list(self.writable), done

    def do_drop_table(self, t):
        if len(t.tied) > 1 or t.views or t.fts or len(self.writable) < 2:
            return None
        rest = [x for x in self.writable if x is not t]

        def done():
            self.writable.remove(t)
            self.schema.tables.remove(t)
        return ['DROP TABLE %s' % t.q], t.columns, t.columns, rest, done

    def do_recreate(self, t):
        """Dropped, and made again: no deletion, its rows are shown again."""
        if len(t.tied) > 1 or t.views or t.fts or t.triggers or t.nulls or t.altered:
            return None
        sqls = ['DROP TABLE %s' % t.q, t.sql()]
        sqls += [s for s in self.schema.created if s.startswith(('CREATE INDEX', 'CREATE UNIQUE INDEX')) and ' ON %s(' % t.q in s]
        return sqls, t.columns, t.columns, [x for x in self.writable if x is not t], lambda: None
