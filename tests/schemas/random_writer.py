"""Random statements on the tables of a random schema."""
from random_schema import KEYS, NUMBERED, WIDTH, quote


class Writer:
    """Statements. `space` is whose rows they touch; rows are named by number within it."""

    def __init__(self, schema):
        self.s, self.r = schema, schema.r
        self.shapes = None      # the table that is being rebuilt
        self.moving = None      # the table that servers hold in two shapes: SQLite may give a REAL as an integer there, in RETURNING, or the other way

    # ---- keys and rows

    def key(self, t, space, i):
        if t.extremes and i == KEYS - 1 and space < 2:
            return ['9223372036854775807' if space == 0 else '-9223372036854775808']
        if len(t.key) > 1:
            first = str(space * WIDTH + 1 + i // 3 if t.key_parent else space * 10 + i // 3)
            second = str(i % 3) if t.key[1].type == 'INT' else ["'a'", "'B'", "'ä '"][i % 3]
            return [first, second] + ["x'0%d'" % (i % 2)] * (len(t.key) - 2)
        return [self.key_literal(t.key[0], space, i, t.strict)]

    def key_literal(self, c, space, i, strict=False):
        number = space * WIDTH + 1 + i
        if c.type in ('INTEGER', 'INT', 'BIGINT') or (c.type == 'NUMERIC' and i % 2):
            return "'%d'" % number if not strict and i == 5 else str(number)
        if c.type in ('REAL', 'NUMERIC'):
            return '%d.%d' % (number, i % 2 * 5)
        if c.type == 'BLOB':
            return "x'%02x%02x'" % (space, i)
        if c.type == '' and i % 3:
            return [None, str(number), "x'%02x%02x'" % (space, i)][i % 3]
        special = {3: "'ключ%d'" % space, 4: "'k%d x'" % space, 5: "CAST(x'6b3%d0041' AS TEXT)" % space, 2: "'K%d%d'" % (space, i)}
        if i == 6 and not strict:
            return str(number)
        v = special.get(i, "'k%d%d'" % (space, i))
        if c.collate == 'NOCASE' and self.r.random() < 0.3 and i != 5:
            v = v.swapcase() if v.isascii() else v
        if c.collate == 'RTRIM' and self.r.random() < 0.3 and i != 5:
            v = v[:-1] + "  '"
        return v

    def unique(self, c, space):
        i = self.r.randrange(5)
        if self.r.random() < 0.15 and not c.not_null:
            return 'NULL'
        if c.type == 'INTEGER':
            return str(space * 100000 + i)
        if c.type == 'BLOB':
            return "x'%02xee%02x'" % (space, i)
        v = "'u%d_%d'" % (space, i)
        if c.collate and self.r.random() < 0.3:
            v = v.upper() if c.collate == 'NOCASE' else v[:-1] + " '"
        return v

    def row(self, t, space, i):
        if not t.key:
            return '%s = %d AND %s = %d' % (t.column('own')[0].q, space, t.column('tag')[0].q, i)
        return ' AND '.join('%s = %s' % (c.q, v) for c, v in zip(t.key, self.key(t, space, i)))

    def rows(self, t, space):
        if not t.key:
            return '%s = %d' % (t.column('own')[0].q, space)
        if len(t.key) > 1 and not t.key_parent:
            return '%s BETWEEN %d AND %d' % (t.key[0].q, space * 10, space * 10 + 9)
        if t.numbers or t.key_parent:
            return '%s BETWEEN %d AND %d' % (t.key[0].q, space * WIDTH, space * WIDTH + WIDTH - 1)
        return '%s IN (%s)' % (t.key[0].q, ', '.join(self.key(t, space, i)[0] for i in range(KEYS)))

    def value(self, t, c, space):
        if c.role == 'apart':
            return self.unique(c, space)
        return self.s.literal(c)

    def foreign(self, t, space, group):
        mine, parent, target = group
        if self.r.random() < 0.3 or space == NUMBERED:
            return ['NULL'] * len(mine)
        if target is parent.key:
            return self.key(parent, space, self.r.randrange(KEYS))
        return [self.unique(target[0], space)]

    def values(self, t, space, columns=None):
        """Columns (some of them, and all that an INSERT needs) with values; without the key."""
        r = self.r
        out = []
        for c in t.columns:
            if c.role not in ('plain', 'apart') or c.generated:
                continue
            must = columns is None and c.not_null and not c.default
            if must or (r.random() < (0.6 if len(t.columns) < 30 else 0.05) if columns is None else c in columns):
                out.append((c, self.value(t, c, space)))
        for group in t.parents:
            if columns is None and r.random() < 0.7:
                out += list(zip(group[0], self.foreign(t, space, group)))
        return out

    # ---- statements; the table's name in q

    def insert(self, t, q, space, rows=None, alone=False):
        r = self.r
        verb = r.choice(['INSERT', 'INSERT', 'INSERT', 'INSERT', 'REPLACE', 'INSERT OR REPLACE', 'INSERT OR IGNORE', 'INSERT OR IGNORE',
                         'INSERT OR FAIL', 'INSERT OR ABORT', 'INSERT OR ROLLBACK'])
        keys = t.key or [t.column('own')[0], t.column('tag')[0]]
        head = None
        tuples = []
        for _ in range(rows or r.choice([1, 1, 1, 2, 4])):
            i = r.randrange(KEYS)
            key = self.key(t, space, i) if t.key else [str(space), str(i)]
            values = self.values(t, space, head)
            if head is None:
                head = [c for c, _ in values]
                foreign = [c for c in head if c.role == 'foreign']
            elif foreign:
                values += [(c, 'NULL') for c in foreign]
            got = {c: v for c, v in values}
            tuples.append('(%s)' % ', '.join(key + [got[c] for c in head]))
        s = '%s INTO %s(%s) VALUES %s' % (verb, q, ', '.join([c.q for c in keys + head]), ', '.join(tuples))
        if t.key and verb == 'INSERT' and r.random() < 0.35:
            s += self.upsert(t, head, space)
        if r.random() < 0.15 and t is not self.moving:
            s += ' RETURNING ' + ', '.join(c.q for c in keys + head[:2])
        return s

    def upsert(self, t, head, space):
        r = self.r
        target = ', '.join(c.q for c in t.key)
        unique = [c for c in head if c.unique]
        if unique and r.random() < 0.4:
            target = unique[0].q
            head = [c for c in head if c is not unique[0]]
        if r.random() < 0.3:
            return ' ON CONFLICT%s DO NOTHING' % r.choice(['', '(%s)' % target])
        sets = ['%s = excluded.%s' % (c.q, c.q) for c in head if c.role in ('plain', 'apart')][:3]
        if not sets:
            return ''
        return ' ON CONFLICT(%s) DO UPDATE SET %s%s' % (target, ', '.join(sets), r.choice(['', '', ' WHERE %s' % self.rows(t, space)]))

    def insert_select(self, t, q, space):
        """A row of its own table or another's, under a new key. Not of another type than a STRICT table wants: with any BEFORE trigger, as ours,
        SQLite looks at types before it looks for a key that exists."""
        r = self.r
        source = r.choice([t] + [x for x in t.tied if x.kind != 'log' and x.key and x.made])
        keys = t.key or [t.column('own')[0], t.column('tag')[0]]
        if not source.key:
            return self.insert(t, q, space)
        i = r.randrange(KEYS)
        key = self.key(t, space, i) if t.key else [str(space), str(i)]
        values = [(c, v) for c, v in self.values(t, space) if c.role != 'foreign']
        plain = source.column('plain')
        parts = key + [r.choice(plain).q if c.role == 'plain' and plain and not t.strict and r.random() < 0.7 else v for c, v in values]
        name = q if source is t else self.q_of(source, q)
        return ('INSERT OR %s INTO %s(%s) SELECT %s FROM %s WHERE %s ORDER BY %s LIMIT 1'
                % (r.choice(['IGNORE', 'REPLACE', 'ABORT']), q, ', '.join(c.q for c in keys + [c for c, _ in values]), ', '.join(parts), name,
                   self.rows(source, space), ', '.join(c.q for c in source.key)))

    @staticmethod
    def q_of(t, like):
        return ('w.' if like.startswith('w.') else '') + t.q

    def update(self, t, q, space):
        r = self.r
        one = r.random() < 0.7
        sets = []
        for c, v in self.values(t, space):
            if c.role == 'plain' and r.random() < 0.25 and not t.strict:
                v = r.choice(['%s + 1', "%s || 'y'", 'coalesce(%s, 1)', '%s']) % c.q
            if c.role == 'apart' and not one:
                continue
            sets.append('%s = %s' % (c.q, v))
        if not sets:
            return self.delete(t, q, space)
        verb = r.choice(['UPDATE', 'UPDATE', 'UPDATE', 'UPDATE OR REPLACE', 'UPDATE OR IGNORE', 'UPDATE OR FAIL', 'UPDATE OR ROLLBACK']) if one \
            else 'UPDATE'
        s = '%s %s SET %s WHERE %s' % (verb, q, ', '.join(sets), self.row(t, space, r.randrange(KEYS)) if one else self.rows(t, space))
        if r.random() < 0.1 and t.key and t is not self.moving:
            s += ' RETURNING ' + ', '.join(c.q for c in t.key)
        return s

    def delete(self, t, q, space):
        if t is self.shapes:    # rebuilt and then emptied at once looks as if it was dropped and made again: its rows would be shown again
            c = self.r.choice(t.column('plain'))
            return 'UPDATE %s SET %s = %s WHERE %s' % (q, c.q, self.s.literal(c), self.rows(t, space))
        if self.r.random() < 0.85:
            return 'DELETE FROM %s WHERE %s' % (q, self.row(t, space, self.r.randrange(KEYS)))
        return 'DELETE FROM %s WHERE %s' % (q, self.rows(t, space))

    def move(self, t, q, space, i=None, j=None):
        r = self.r
        i = r.randrange(KEYS) if i is None else i
        if j is None:       # its own key, written otherwise, is a move too
            j = i if t.key and any(c.collate for c in t.key) and r.random() < 0.4 else r.randrange(KEYS)
        if not t.key:
            return 'UPDATE %s SET %s = %d WHERE %s' % (q, t.column('tag')[0].q, j, self.row(t, space, i))
        sets = ', '.join('%s = %s' % (c.q, v) for c, v in zip(t.key, self.key(t, space, j)))
        return 'UPDATE%s %s SET %s WHERE %s' % (r.choice(['', '', ' OR REPLACE', ' OR IGNORE']), q, sets, self.row(t, space, i))

    def series(self, t, q, space):
        """Many rows from a recursive query, over those that are there."""
        k, c = t.key[0], self.r.choice(t.column('plain'))
        need = [x for x in self.s.needed(t, [c]) if x.role != 'foreign']
        first = space * WIDTH + self.r.randrange(1, KEYS)
        return ('INSERT OR %s INTO %s(%s) WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i + 1 FROM n LIMIT %d) SELECT i, %s FROM n ORDER BY i'
                % (self.r.choice(['IGNORE', 'REPLACE']), q, ', '.join(x.q for x in [k, c] + need), first, self.r.randrange(1, KEYS),
                   ', '.join(self.value(t, x, space) for x in [c] + need)))

    def update_from(self, t, q, space):
        """A row takes a value of another row of its table."""
        if not t.key:
            return self.update(t, q, space)
        a, b = self.r.choice(t.column('plain')), self.r.choice(t.column('plain'))
        i, j = self.r.randrange(KEYS), self.r.randrange(KEYS)
        mine = ' AND '.join('%s.%s = %s' % (t.q, c.q, v) for c, v in zip(t.key, self.key(t, space, i)))
        other = ' AND '.join('other.%s = %s' % (c.q, v) for c, v in zip(t.key, self.key(t, space, j)))
        return 'UPDATE %s SET %s = other.%s FROM %s AS other WHERE %s AND %s' % (q, a.q, b.q, q, mine, other)

    def update_from_parent(self, t, q, space):
        """Rows take a value of those that they refer to."""
        mine, p, target = self.r.choice(t.parents)
        a, b = self.r.choice(t.column('plain')), self.r.choice(p.column('plain'))
        where = ' AND '.join('other.%s = %s.%s' % (k.q, t.q, m.q) for k, m in zip(target, mine))
        rows = self.rows(t, space).replace(t.key[0].q, t.q + '.' + t.key[0].q, 1)
        return 'UPDATE %s SET %s = other.%s FROM %s AS other WHERE %s AND %s' % (q, a.q, b.q, self.q_of(p, q), where, rows)

    def the_first(self, t, q, space):
        """Of those that a query finds, as ORMs do it that have no DELETE with a limit."""
        r, k = self.r, t.key[0].q
        those = 'SELECT %s FROM %s WHERE %s ORDER BY %s %s LIMIT %d' % (k, q, self.rows(t, space), k, r.choice(['', 'DESC']), r.randrange(1, 4))
        if t is not self.shapes and r.random() < 0.5:
            return r.choice(['DELETE FROM %s WHERE %s IN (%s)' % (q, k, those),
                             'WITH w(k) AS (%s) DELETE FROM %s WHERE %s IN (SELECT k FROM w)' % (those, q, k)])
        c = r.choice(t.column('plain'))
        return 'UPDATE %s SET %s = %s WHERE %s IN (%s)' % (q, c.q, self.s.literal(c), k, those)

    def view(self, t, q, space):
        v, c, inserts = self.r.choice(t.views)
        name = ('w.' if q.startswith('w.') else '') + quote(v)
        key = self.key(t, space, self.r.randrange(KEYS))
        where = ' AND '.join('k%d = %s' % (i, k) for i, k in enumerate(key))
        form = self.r.randrange(3)
        if form == 0 and inserts:
            return 'INSERT INTO %s VALUES(%s, %s)' % (name, ', '.join(key), self.s.literal(c))
        if form == 1:
            return 'UPDATE %s SET v = %s WHERE %s' % (name, self.s.literal(c), where)
        return 'DELETE FROM %s WHERE %s' % (name, where)

    def numbered(self, t, q):
        r = self.r
        values = self.values(t, NUMBERED)
        if not values and not self.s.needed(t, []):
            return 'INSERT INTO %s DEFAULT VALUES' % q
        head = [c.q for c, _ in values]
        parts = [v for _, v in values]
        if r.random() < 0.2 or not head:
            head, parts = [t.key[0].q] + head, ['NULL'] + parts
        s = '%s INTO %s(%s) VALUES (%s)' % (r.choice(['INSERT', 'INSERT', 'INSERT OR IGNORE', 'REPLACE']), q, ', '.join(head), ', '.join(parts))
        return s + (' RETURNING ' + t.key[0].q if r.random() < 0.3 else '')

    def null_key(self, t, q, space):
        """A row that stays on its server: nothing that others may need is in it, and nothing but its key tells it."""
        t.nulls = True
        values = [(c, v) for c, v in self.values(t, space) if c.role == 'plain']
        key = ['NULL'] + self.key(t, space, self.r.randrange(KEYS))[1:]
        return 'INSERT INTO %s(%s) VALUES(%s)' % (q, ', '.join(c.q for c in t.key + [c for c, _ in values]), ', '.join(key + [v for _, v in values]))

    def everything(self, t, q):
        """All rows of the table, whoever made them."""
        plain = [c for c in t.column('plain')]
        if self.r.random() < 0.2:
            return 'DELETE FROM %s' % q
        c = self.r.choice(plain)
        return 'UPDATE %s SET %s = %s' % (q, c.q, self.s.literal(c))

    def statement(self, t, q, space, alone):
        """alone: nobody else writes this table, or what is tied to it, before the next quiet."""
        r = self.r
        forms = [(self.insert, 40), (self.insert_select, 6), (self.update, 28), (self.delete, 12), (self.move, 7)]
        if t.views:
            forms.append((self.view, 8))
        if t.key and len(t.key) == 1:
            forms.append((self.the_first, 5))
        if t.key and t.parents and not t.strict and all(p is not t for _, p, _ in t.parents):
            forms.append((self.update_from_parent, 5))
        if t.numbers and not t.strict:
            forms.append((self.series, 4))
        if not t.strict:
            forms.append((self.update_from, 4))
        if t.key and not t.numbers and not t.without_rowid and t.kind != 'log' and not t.key[0].not_null and not t.strict \
                and 'null_keys' not in self.s.without and t.kind not in ('int', 'autoincrement') and len(t.tied) == 1 and not t.triggers and not t.views and not t.unique_sets \
                and all(not c.not_null or c.default or c.generated or c.role == 'plain' for c in t.columns if c not in t.key):
            forms.append((self.null_key, 3))
        if alone and r.random() < 0.4:
            if t.numbers and r.random() < 0.8:
                return self.numbered(t, q)
            if r.random() < 0.3 and not t.nulls:
                return self.everything(t, q)
        form = r.choices([f for f, _ in forms], [w for _, w in forms])[0]
        return form(t, q, space)
