"""Random schemas: tables with everything around them, as CREATE statements and as what writers must know of them."""
import random

NAMES = ['t', 'team', 'order', 'group', 'select', 'Größe', 'a b', "it's", 'say "hi"', '日本', 'x.y', 'a-b', '1st', 'b[r]', 'a`b', 'index',
         'Table', 'per%cent', '😀', 'new', 'old', 'excluded', 'seq', 'kind', 'k0', 'at', 'tbl', 'nonce', 'rowid', 'oid', 'main', 'temp', 'value',
         'key', 'note', 'a;b', 'a,b', 'a(b)', 'ünï', 'null', 'default', 'x', 'y', 'z', 'last_name', 'isbn', 'data', 'rank', 'stamp', 'match']
TYPES = ['INTEGER', 'INT', 'BIGINT', 'TEXT', 'VARCHAR(20)', 'REAL', 'DOUBLE', 'NUMERIC', 'DECIMAL(10,2)', 'BLOB', '', 'BOOLEAN', 'DATE', 'JSON',
         'FLOATING POINT', 'STRING', 'CLOB']
STRICT_TYPES = ['INTEGER', 'INT', 'REAL', 'TEXT', 'BLOB', 'ANY']
ACTIONS = ['NO ACTION', 'RESTRICT', 'SET NULL', 'SET DEFAULT', 'CASCADE']
INTS = ['0', '1', '2', '7', '42', '-1', '9223372036854775807', '-9223372036854775808', '4294967296', '140737488355328']
REALS = ['0.5', '-0.0', '1.0', '1e300', '0.1', '-2.5', '9e999', '-9e999', '9007199254740993.0', '3.14159265358979']
TEXTS = ["''", "'abc'", "'ABC'", "'abc  '", "'581B'", "'12'", "' 12 '", "'1e3'", "'0x10'", "'1.0'", "'inf'", "'NaN'", "'grün'", "'日本語'",
         "CAST(x'610062' AS TEXT)", "CAST(x'00' AS TEXT)", "CAST(x'ff00fe80' AS TEXT)", "CAST(x'eda080' AS TEXT)", "'9223372036854775808'",
         "'line' || char(10) || 'two'", "'it''s'"]
LONG = ["replace(hex(zeroblob(700)), '00', 'lorem ')", "replace(hex(zeroblob(9000)), '00', 'x')"]
BLOBS = ["x''", "x'00'", "x'00ff00'", "x'616263'", 'zeroblob(40)', "x'ffffffffffffffff'", 'zeroblob(5000)']
KEYS = 8        # keys of a space that statements name one by one
WIDTH = 1000    # from one space to the next, for integers
NUMBERED = 9    # the space of UNIQUE values of rows that SQLite numbered


def quote(name):
    return '"' + name.replace('"', '""') + '"'


def text(value):
    return "'" + value.replace("'", "''") + "'"


class Column:
    def __init__(self, name, declared, role='plain'):
        self.name, self.type, self.role = name, declared, role
        self.not_null = False
        self.collate = self.default = self.check = self.generated = self.references = None
        self.strict = self.unique = False
        self.used = False       # something besides the table's own columns names it: not to be dropped

    @property
    def q(self):
        return quote(self.name)

    def sql(self):
        s = self.q + (' ' + self.type if self.type else '')
        if self.generated:
            return '%s GENERATED ALWAYS AS (%s) %s' % (s, self.generated[0], self.generated[1])
        if self.not_null:
            s += ' NOT NULL'
        if self.collate:
            s += ' COLLATE ' + self.collate
        if self.default:
            s += ' DEFAULT ' + self.default
        if self.check:
            s += ' CHECK (%s)' % self.check
        return s + (self.references or '')


class Table:
    def __init__(self, name):
        self.name = name
        self.columns, self.key = [], []
        self.kind = None
        self.strict = self.without_rowid = self.numbers = self.autoincrement = False
        self.tied = [self]          # what foreign keys and triggers tie to it, itself included
        self.parents = []           # (our columns, table, its columns)
        self.key_parent = None      # the table that the first column of the key refers to
        self.constraints, self.indexes, self.triggers = [], [], []
        self.views = []
        self.extremes = self.made = self.self_reference = False
        self.altered = False        # its text is not that of sql() any more
        self.frozen = False         # and cannot be: what refers to it, or it to others, is not what its constraints say
        self.writes = False         # a trigger of it writes another table than its log, or one of another's writes it
        self.nulls = False          # rows with NULL in their key were written
        self.fts = None
        self.unique_sets = 0

    @property
    def q(self):
        return quote(self.name)

    def column(self, role):
        return [c for c in self.columns if c.role == role]

    def sql(self, name=None):
        parts = [self.column_sql(c) for c in self.columns]
        if self.key and self.kind not in ('int', 'autoincrement', 'desc', 'inline'):
            parts.append('PRIMARY KEY (%s)' % ', '.join(c.q for c in self.key))
        options = [o for o, on in (('STRICT', self.strict), ('WITHOUT ROWID', self.without_rowid)) if on]
        return 'CREATE TABLE %s(%s)%s' % (name or self.q, ', '.join(parts + self.constraints), ' ' + ', '.join(options) if options else '')

    def column_sql(self, c):
        s = c.sql()
        if [c] == self.key and self.kind in ('int', 'autoincrement', 'desc', 'inline'):
            s = c.q + ' ' + c.type + {'int': ' PRIMARY KEY', 'autoincrement': ' PRIMARY KEY AUTOINCREMENT', 'desc': ' PRIMARY KEY DESC',
                                      'inline': ' PRIMARY KEY'}[self.kind] + (' COLLATE ' + c.collate if c.collate else '') + (' NOT NULL' if c.not_null else '')
        return s


class Schema:
    """Tables, and everything around them, as CREATE statements in order."""

    def __init__(self, rng, nodes, without, seed):
        self.r, self.nodes, self.without = rng, nodes, without
        self.complete = False
        keys = random.Random('keys %d' % seed)      # apart, so that all other schemas stay the ones of their seeds
        self.key_refs = keys if keys.random() < 0.5 and 'key_refs' not in without else None
        self.names, self.created, self.tables, self.logs = set(), [], [], []
        for _ in range(self.r.choice([1, 1, 2, 2, 3, 4])):
            self.add_table()
        for t in self.tables:
            t.made = True
            self.created.append(t.sql())
        for t in list(self.tables):
            self.add_indexes(t)
        for t in list(self.tables):
            if t.parents and self.may('counters', 0.4):
                self.count_children(t)
        for t in list(self.tables):
            if self.may('triggers', 0.35):
                self.add_triggers(t)
            if self.may('views', 0.2):
                self.add_view(t)
            if self.may('fts', 0.12):
                self.add_fts(t)
        self.complete = True

    def may(self, what, chance):
        hit = self.r.random() < chance
        return hit and what not in self.without

    def name(self, taken=None):
        taken = self.names if taken is None else taken
        while True:
            n = self.r.choice(NAMES)
            if self.r.random() < 0.5:
                n = self.r.choice('abcdefgh') + str(self.r.randrange(100))
            if n.lower() not in taken and not (taken is self.names and n in ('rowid', 'oid', 'new', 'old')):
                taken.add(n.lower())
                return n

    # ---- tables

    def add_table(self):
        r = self.r
        t = Table(self.name())
        taken = set()
        t.taken = taken
        t.strict = self.may('strict', 0.15)
        kinds = ['int'] * 6 + ['autoincrement'] * 3 + ['inline'] * 4 + ['desc', 'composite', 'composite', 'text', 'wr', 'wr', 'wrc', 'wri']
        if 'keyless' not in self.without:
            kinds += ['none'] * 3
        t.kind = kind = r.choice(kinds)

        def col(declared, role='plain'):
            c = Column(self.name(taken), declared if not t.strict or declared in STRICT_TYPES else 'ANY', role)
            c.strict = t.strict
            t.columns.append(c)
            return c

        if kind in ('int', 'autoincrement', 'desc', 'wri'):
            t.key = [col('INTEGER', 'key')]
            t.numbers = kind in ('int', 'autoincrement')
        elif kind in ('text', 'wr', 'inline'):
            t.key = [col(r.choice(['TEXT', 'BLOB', 'REAL', 'INT'] + ([] if t.strict else ['', 'VARCHAR(9)', 'NUMERIC'])), 'key')]
        elif kind in ('composite', 'wrc'):
            t.key = [col('INTEGER' if t.strict else r.choice(['INTEGER', 'INT', '', 'NUMERIC']), 'key'), col(r.choice(['TEXT', 'INT']), 'key')]
            if r.random() < 0.3:
                t.key.append(col('BLOB', 'key'))
        else:
            col('INTEGER', 'own')
            col('INTEGER', 'tag')
        t.without_rowid = kind in ('wr', 'wrc', 'wri')
        for c in t.key:
            if c.type in ('TEXT', 'VARCHAR(9)', '') and r.random() < 0.35:
                c.collate = r.choice(['NOCASE', 'RTRIM'])
            if 'null_keys' in self.without and not t.numbers:
                c.not_null = c.type != 'INTEGER' or len(t.key) > 1
        if kind in ('desc',):
            t.key[0].not_null = False
        t.extremes = bool(t.key) and len(t.key) == 1 and t.key[0].type in ('INTEGER', 'INT') and r.random() < 0.15
        if t.extremes:
            t.numbers = False
        wide = r.random() < 0.03
        for _ in range(r.choice([1, 2, 3, 4, 5, 6])):
            self.plain(t, col(r.choice(STRICT_TYPES if t.strict else TYPES)))
        if r.random() < 0.45:
            self.apart(t, col(r.choice(['INTEGER', 'TEXT', 'TEXT'] + ([] if t.strict else ['VARCHAR(30)', '', 'BLOB'])), 'apart'))
        if self.may('foreign', 0.5):
            self.foreign(t, col)
        if self.may('generated', 0.3):
            self.generated(t, col)
        if wide:
            for i in range(200 - len(t.columns) - r.randrange(5)):
                t.columns.append(Column('c%03d' % i, r.choice(STRICT_TYPES if t.strict else TYPES)))
                t.columns[-1].strict = t.strict
                taken.add('c%03d' % i)
        if r.random() < 0.3:
            r.shuffle(t.columns)
        if r.random() < 0.15 and len(t.column('plain')) > 1:
            a, b = r.sample(t.column('plain'), 2)
            t.constraints.append('CHECK (%s IS NOT 42 OR %s IS NOT 7)' % (a.q, b.q))
            a.used = b.used = True
        if self.key_refs and kind in ('int', 'wri', 'composite', 'wrc'):
            self.refer_by_key(t)
        self.tables.append(t)
        return t

    def refer_by_key(self, t):
        """The key is, or begins with, the number of another row. (No SET NULL: a key with NULL stays on its server.)"""
        r, first = self.key_refs, t.key[0]
        parents = [p for p in self.tables if p.kind in ('int', 'autoincrement', 'wri') and not p.extremes]
        if not parents or t.extremes or first.type not in ('INTEGER', 'INT'):
            return
        p = t.key_parent = r.choice(parents)
        t.numbers, first.not_null = False, len(t.key) > 1
        t.constraints.append('FOREIGN KEY (%s) REFERENCES %s%s%s' % (first.q, p.q, r.choice(['', ' ON DELETE CASCADE']),
                                                                     r.choice(['', ' ON UPDATE CASCADE', ' ON UPDATE CASCADE'])))
        self.tie(t, p)

    def plain(self, t, c):
        r = self.r
        if r.random() < 0.3:
            c.default = self.literal(c, null=False, parens=True)
        if r.random() < 0.15:
            c.not_null = True
        if r.random() < 0.15 and c.type in ('TEXT', 'VARCHAR(20)', 'CLOB', ''):
            c.collate = r.choice(['NOCASE', 'RTRIM'])
        if r.random() < 0.12:
            c.check = '%s IS NOT 7' % c.q

    def apart(self, t, c):
        """A column whose values are of its row's space: UNIQUE in some form."""
        r, form = self.r, self.r.randrange(7)
        others = [o for o in t.column('plain')]
        if c.type == 'TEXT' and r.random() < 0.3:
            c.collate = r.choice(['NOCASE', 'RTRIM'])
        c.used = True
        t.unique_sets += 1
        if form == 0:
            c.references = ' UNIQUE'
            c.unique = True
        elif form == 1:
            t.constraints.append('UNIQUE (%s)' % c.q)
            c.unique = True
        elif form == 2 and others:
            o = r.choice(others)
            o.used = True
            t.constraints.append('UNIQUE (%s, %s)' % (c.q, o.q))
        elif form == 3 and others:
            o = r.choice(others)
            o.used = True
            t.indexes.append((True, '%s' % c.q, ' WHERE %s IS NOT NULL' % o.q))
        elif form == 4:
            t.indexes.append((True, 'lower(%s)' % c.q, ''))
        elif form == 5:
            t.indexes.append((True, '%s COLLATE NOCASE DESC' % c.q, ''))
        else:
            t.indexes.append((True, c.q, ''))
        if r.random() < 0.2:
            c.references = ' UNIQUE ON CONFLICT ' + r.choice(['REPLACE', 'IGNORE', 'FAIL', 'ABORT', 'ROLLBACK'])
            c.unique = True

    def foreign(self, t, col):
        r = self.r
        p = r.choice(self.tables + ([t, t] if not self.complete or self.self_references() else []))
        targets = [p.key] if p.key else []
        targets += [[c] for c in p.column('apart') if c.unique]
        if not targets:
            return
        target = r.choice(targets)
        mine = []
        for k in target:
            c = col(k.type, 'foreign')
            c.target, c.used = k, True
            mine.append(c)
        s = 'FOREIGN KEY (%s) REFERENCES %s' % (', '.join(c.q for c in mine), p.q)
        if target is not p.key or r.random() < 0.6:
            s += '(%s)' % ', '.join(c.q for c in target)
        for what in ('DELETE', 'UPDATE'):
            if r.random() < 0.75:
                s += ' ON %s %s' % (what, r.choice(ACTIONS))
        if r.random() < 0.4:
            s += ' DEFERRABLE INITIALLY ' + r.choice(['DEFERRED', 'DEFERRED', 'IMMEDIATE'])
        t.constraints.append(s)
        t.parents.append((mine, p, target))
        if p is t:
            t.self_reference = True
        for c in target:
            c.used = True
        self.tie(t, p)

    def self_references(self):
        return any(t.self_reference for t in self.tables)

    def tie(self, a, b):
        both = a.tied + [x for x in b.tied if x not in a.tied]
        for x in both:
            x.tied = both

    def generated(self, t, col):
        r = self.r
        for _ in range(r.choice([1, 1, 2])):
            base = r.choice(t.column('plain') + t.column('apart'))
            expr = r.choice(['coalesce(%s, 0)', 'length(%s)', 'typeof(%s)', "%s || '!'", 'substr(hex(%s), 1, 8)', '%s IS NULL', 'lower(%s)'])
            c = col('ANY' if t.strict else r.choice(['', 'TEXT', 'INTEGER', 'BLOB']), 'generated')
            c.generated = (expr % base.q, r.choice(['VIRTUAL', 'STORED']))
            base.used = c.used = True
            if base.role == 'apart' and expr == "%s || '!'" and c.type != 'INTEGER' and r.random() < 0.5:
                t.indexes.append((True, c.q, ''))
                t.unique_sets += 1
            elif r.random() < 0.4:
                t.indexes.append((False, c.q, ''))

    def add_indexes(self, t):
        r = self.r
        for _ in range(r.choice([0, 0, 1, 2])):
            c = r.choice(t.columns)
            o = r.choice(t.columns)
            form = r.choice(['%s', '%s DESC', '%s COLLATE NOCASE', 'typeof(%s)', "%s || 'x'"])
            where = r.choice(['', '', ' WHERE %s IS NOT NULL' % o.q, " WHERE %s > 1" % o.q])
            c.used = o.used = True
            t.indexes.append((False, form % c.q, where))
        t.index_names = []
        for unique, what, where in t.indexes:
            n = 'ix%d %s' % (len(self.created), r.choice(['', 'ö', "'"]))
            t.index_names.append((n, unique))
            self.created.append('CREATE %sINDEX %s ON %s(%s)%s' % ('UNIQUE ' if unique else '', quote(n), t.q, what, where))

    # ---- triggers, views, FTS5

    def key_text(self, t, row):
        if not t.key:
            return "'o' || %s.%s || 't' || %s.%s" % (row, t.column('own')[0].q, row, t.column('tag')[0].q)
        return ' || '.join(["'k'"] + ["coalesce(hex(%s.%s), '')" % (row, c.q) for c in t.key])

    def log(self, t):
        """A table that triggers write: a row for each row that wrote, so that it stays in that row's space."""
        log = Table(self.name())
        log.kind, log.taken = 'log', {'id', 'n', 'v'}
        k = Column('id', 'TEXT', 'key')
        log.columns, log.key = [k, Column('n', 'INTEGER'), Column('v', '')], [k]
        k.not_null = True
        for c in log.columns:
            c.used = True
        log.without_rowid = self.r.random() < 0.4
        self.created.append(log.sql())
        self.logs.append(log)
        self.tie(t, log)
        return log

    def trigger(self, t, s):
        n = 'tr%d %s' % (len(self.created), self.r.choice(['', 'é', '"']))
        t.triggers.append('CREATE TRIGGER %s %s' % (quote(n), s))
        self.created.append(t.triggers[-1])

    def add_triggers(self, t):
        r = self.r
        plain = t.column('plain')
        log = None
        for form in r.sample(range(6), r.choice([1, 1, 2, 3])):
            c = r.choice(plain)
            c.used = True
            if form in (0, 1, 2) and not log:
                log = self.log(t)
            v, name = c.q, log.q if log else ''

            def put(row, value):
                return ('INSERT INTO %s(id, n, v) VALUES(%s, 1, %s.%s) ON CONFLICT(id) DO UPDATE SET n = n + 1, v = excluded.v'
                        % (name, self.key_text(t, row), value, v))
            if form == 0:
                self.trigger(t, 'AFTER INSERT ON %s BEGIN %s; END' % (t.q, put('NEW', 'NEW')))
            elif form == 1:
                self.trigger(t, '%s UPDATE OF %s ON %s WHEN NEW.%s IS NOT OLD.%s BEGIN %s; END'
                             % (r.choice(['AFTER', 'BEFORE']), c.q, t.q, c.q, c.q, put('OLD', 'NEW')))
            elif form == 2:
                self.trigger(t, '%s DELETE ON %s BEGIN %s; END'
                             % (r.choice(['AFTER', 'BEFORE']), t.q, put('OLD', 'OLD')))
            elif form == 3:
                # FAIL keeps the rows that came before, and only a number tells which these are
                ends = r.choice(['IGNORE', "ABORT, 'no'", "FAIL, 'no'" if t.kind in ('int', 'autoincrement') else "ABORT, 'no'", "ROLLBACK, 'no'"])
                self.trigger(t, "BEFORE UPDATE ON %s WHEN NEW.%s = 'abc' BEGIN SELECT RAISE(%s); END" % (t.q, c.q, ends))
            elif form == 4 and t.key and not t.strict and not c.not_null:
                self.trigger(t, "AFTER INSERT ON %s WHEN NEW.%s = 'ABC' BEGIN UPDATE %s SET %s = 'made ' || NEW.%s WHERE %s; END"
                             % (t.q, c.q, t.q, c.q, c.q, ' AND '.join('%s = NEW.%s' % (k.q, k.q) for k in t.key)))
            elif form == 5 and t.key:
                self.trigger(t, 'AFTER UPDATE OF %s ON %s WHEN NEW.%s = 42 BEGIN DELETE FROM %s WHERE %s; END'
                             % (c.q, t.q, c.q, t.q, ' AND '.join('%s = NEW.%s' % (k.q, k.q) for k in t.key)))

    def count_children(self, t):
        """What applications keep in the parent: a counter; and what takes the place of ON DELETE CASCADE."""
        mine, p, target = self.r.choice(t.parents)
        counter = [c for c in p.column('plain') if not c.check and not p.strict]
        if p is t or not counter:
            return
        c = self.r.choice(counter)
        c.used = t.writes = p.writes = True

        def meant(row):
            return ' AND '.join('%s = %s.%s' % (k.q, row, m.q) for k, m in zip(target, mine))
        if self.r.random() < 0.7:
            for what, row, by in (('INSERT', 'NEW', '+ 1'), ('DELETE', 'OLD', '- 1')):
                self.trigger(t, 'AFTER %s ON %s BEGIN UPDATE %s SET %s = coalesce(length(%s), 0) %s WHERE %s; END'
                             % (what, t.q, p.q, c.q, c.q, by, meant(row)))
        else:
            self.trigger(p, 'AFTER DELETE ON %s BEGIN DELETE FROM %s WHERE %s; END'
                         % (p.q, t.q, ' AND '.join('%s = OLD.%s' % (m.q, k.q) for k, m in zip(target, mine))))

    def add_view(self, t):
        if not t.key:
            return
        c = self.r.choice(t.column('plain'))
        c.used = True
        v = self.name()
        keys = ', '.join('%s AS k%d' % (k.q, i) for i, k in enumerate(t.key))
        need = self.needed(t, [c])
        self.created.append('CREATE VIEW %s AS SELECT %s, %s AS v FROM %s' % (quote(v), keys, c.q, t.q))
        where = ' AND '.join('%s = OLD.k%d' % (k.q, i) for i, k in enumerate(t.key))
        if not need:
            self.created.append('CREATE TRIGGER %s INSTEAD OF INSERT ON %s BEGIN INSERT INTO %s(%s, %s) VALUES(%s, NEW.v); END'
                                % (quote('vi ' + v), quote(v), t.q, ', '.join(k.q for k in t.key), c.q,
                                   ', '.join('NEW.k%d' % i for i in range(len(t.key)))))
        self.created.append('CREATE TRIGGER %s INSTEAD OF UPDATE ON %s BEGIN UPDATE %s SET %s = NEW.v WHERE %s; END'
                            % (quote('vu ' + v), quote(v), t.q, c.q, where))
        self.created.append('CREATE TRIGGER %s INSTEAD OF DELETE ON %s BEGIN DELETE FROM %s WHERE %s; END'
                            % (quote('vd ' + v), quote(v), t.q, where))
        t.views.append((v, c, not need))

    def needed(self, t, given):
        """Columns that an INSERT must name besides these."""
        return [c for c in t.columns if c.not_null and not c.default and c not in t.key and c not in given and not c.generated]

    def add_fts(self, t):
        texts = [c for c in t.column('plain') if c.type in ('TEXT', 'VARCHAR(20)', 'CLOB') and c.name.isascii() and c.name.isalnum()
                 and c.name.lower() not in ('rank', 'rowid')]
        if not t.numbers or not texts:
            return
        c = self.r.choice(texts)
        c.used = True
        f = 'fts%d' % len(self.created)
        k = t.key[0].q
        self.created.append("CREATE VIRTUAL TABLE %s USING fts5(%s, content=%s, content_rowid=%s)"
                            % (f, c.q, text(t.name), text(t.key[0].name)))
        add = 'INSERT INTO %s(rowid, %s) VALUES(NEW.%s, NEW.%s)' % (f, c.q, k, c.q)
        cut = "INSERT INTO %s(%s, rowid, %s) VALUES('delete', OLD.%s, OLD.%s)" % (f, f, c.q, k, c.q)
        self.trigger(t, 'AFTER INSERT ON %s BEGIN %s; END' % (t.q, add))
        self.trigger(t, 'AFTER DELETE ON %s BEGIN %s; END' % (t.q, cut))
        self.trigger(t, 'AFTER UPDATE ON %s BEGIN %s; %s; END' % (t.q, cut, add))
        t.fts = f

    # ---- values

    def literal(self, c, null=True, parens=False):
        r = self.r
        kind = c.type
        pools = [INTS, REALS, TEXTS, BLOBS]
        if c.strict:
            pools = {'INTEGER': [INTS], 'INT': [INTS], 'REAL': [REALS, INTS[:6]], 'TEXT': [TEXTS], 'BLOB': [BLOBS]}.get(kind, pools)
        elif kind in ('INTEGER', 'INT', 'BIGINT', 'BOOLEAN'):
            pools = [INTS, INTS, INTS, TEXTS, REALS, BLOBS]
        elif kind in ('TEXT', 'VARCHAR(20)', 'DATE', 'JSON', 'CLOB'):
            pools = [TEXTS, TEXTS, TEXTS, INTS, REALS, BLOBS]
        if null and not c.not_null and r.random() < 0.15:
            return r.choice(['NULL', 'NULL', '9e999 - 9e999'])
        if r.random() < 0.03 and TEXTS in pools:
            v = r.choice(LONG)
        else:
            v = r.choice(r.choice(pools))
        return '(%s)' % v if parens else v
