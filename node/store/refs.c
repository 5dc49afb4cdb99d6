/* References by number travel as identities. Which columns refer to rows that SQLite numbered is told by the declared foreign keys. A change of
 * ours carries the identity of the row that the number means here; what comes from others is shown under the number which that row has here.
 * Registers hold numbers, as the application's file does; keys of several columns, which are the names of their rows, hold identities. */
#include <stdlib.h>
#include <string.h>

#include "node/store/afar.h"
#include "node/store/forward.h"
#include "node/store/first_name.h"
#include "node/store/foreign.h"
#include "node/store/outdated.h"
#include "node/store/same.h"
#include "proto/err.h"

/* ---- which columns refer to what */

static bool set_to(struct tbl **at, struct tbl *to) {
    if (*at || !to)
        return false;
    *at = to;
    return true;
}

/* The table whose rows column k of this foreign key names by their numbers; NULL: none. */
static struct tbl *meant(const struct foreign *f, uint32_t k) {
    const struct tio *p = f->parent;
    if (p->table->columns[f->to[k]].key_place && p->table->key_kind == KEY_INTEGER)
        return p->tbl;
    for (uint32_t i = 0; i < p->count; i++)
        if (p->order[i] == f->to[k])
            return p->ref_to[i];
    return NULL;
}

static bool find_more(struct store *s) {
    bool more = false;
    for (uint32_t n = 0; n < s->foreigns_count; n++) {
        const struct foreign *f = s->foreigns[n];
        struct tio *c = f->child;
        for (uint32_t k = 0; k < f->count; k++) {
            struct tbl *to = meant(f, k);
            bool number = f->from[k] == NUMBER;
            if (number && to == c->tbl)
                continue;
            more |= set_to(number ? &c->key_ref : &c->ref_to[f->from[k]], to);
        }
        if (c != f->parent && c->rank <= f->parent->rank && c->rank < s->tios_count) {
            c->rank = f->parent->rank + 1;
            more = true;
        }
    }
    return more;
}

/* Two tables whose keys refer to each other's: one of them has to have rows of its own, the same on every server. */
static void break_circle(struct store *s, struct tio *io) {
    struct tio *first = io;
    uint32_t steps = 0;
    for (struct tio *at = io; at->key_ref; at = at->key_ref->io) {
        if (steps++ > s->tios_count)
            return; /* io only leads to a circle */
        if (sqlite3_stricmp(at->table->name, first->table->name) < 0)
            first = at;
        if (at->key_ref->io == io) {
            first->key_ref = NULL;
            return;
        }
    }
}

int refs_load(struct store *s) {
    for (uint32_t i = 0; i < s->tios_count; i++) {
        struct tio *io = &s->tios[i];
        if (io->tbl && !(io->ref_to = calloc(io->count + 1, sizeof(struct tbl *))))
            return ERR_NOMEM;
        int err = io->tbl ? policies_afar(s, io) : 0;
        if (err)
            return err;
    }
    while (find_more(s))
        ;
    for (uint32_t i = 0; i < s->tios_count; i++)
        break_circle(s, &s->tios[i]);
    for (uint32_t i = 0; i < s->tios_count; i++) {
        struct tio *io = &s->tios[i];
        io->telling = io->key_ref || io->afar;
        for (uint32_t k = 0; io->tbl && k < io->count; k++) {
            io->telling |= io->ref_to[k] != NULL;
            io->key_refs |= io->ref_to[k] && io->table->columns[io->order[k]].key_place;
        }
    }
    return 0;
}

/* ---- ours: a number becomes an identity */

static int ref_of(struct store *s, const struct tbl *t, const struct rowid *who, struct value_ref *out) {
    memset(out, 0, sizeof *out);
    out->table = t->hash;
    out->number = who->number;
    out->adopted = who->kind == IDENT_ADOPTED;
    out->hash = who->hash;
    if (who->kind == IDENT_BORN) {
        out->origin = s->origin_ids[who->origin];
        out->version = who->version;
    }
    return who->kind == IDENT_BORN || who->kind == IDENT_ADOPTED;
}

/* A row that a first capture has not come to yet will be known by its content. */
static int adopted_row(struct store *s, struct tbl *t, const struct rowid *place, struct rowid *who) {
    struct tio *io = t->io;
    struct row_look look = {.io = io, .place = *place, .ms = LOOK_ADOPTED, .born = true};
    uint64_t *hashes = calloc(io->count + 1, sizeof *hashes);
    int err = hashes ? drain_look(s, &look, io->read) : ERR_NOMEM;
    for (uint32_t i = 0; i < io->count && !err && look.present; i++)
        hashes[i] = value_hash(&look.values[i]);
    if (!err && look.present)
        drain_new_identity(s, &look, hashes, who);
    sqlite3_reset(io->read);
    free(hashes);
    return err ? err : look.present;
}

size_t refs_pack(struct store *s, const struct tbl *t, const struct rowid *who, uint8_t bytes[VALUE_REF_BORN_BYTES]) {
    struct value_ref ref;
    return ref_of(s, t, who, &ref) ? value_ref_pack(&ref, bytes) : 0;
}

int refs_row(struct store *s, struct tbl *t, int64_t number, int64_t seq, struct rowid *who) {
    struct rowid place = {.kind = IDENT_GIVEN, .number = number};
    int born = drain_birth(s, t, number, seq, who);
    if (born)
        return born;
    int err = rows_at_home(s, t, &place, &s->meant);
    if (!err && !reg_known(&s->meant) && t->io && scan_adopts(s))
        return adopted_row(s, t, &place, who);
    int found = err ? err : forward_means(s, t, number, who);
    if (found)
        return found;
    if (err || !reg_known(&s->meant))
        return err ? err : same_by_number(s, t, number, who);
    *who = s->meant.who; /* also of one that is gone: what referred to it goes on meaning it */
    return 1;
}

/* 1: the value is a reference now, its bytes in `bytes`; 0: it stays what it is. */
static int tell(struct store *s, struct tbl *to, bool key, int64_t seq, int64_t ms, struct value *v, uint8_t bytes[VALUE_REF_BORN_BYTES]) {
    struct rowid who;
    struct value_ref ref;
    if (!to || v->type != VALUE_INT)
        return 0;
    int found = drain_birth(s, to, v->as.i, seq, &who);
    if (!found && ms >= 0)
        found = outdated_means(s, to, v->as.i, ms, &who);
    if (!found)
        found = refs_row(s, to, v->as.i, seq, &who);
    if (found != 1 || !ref_of(s, key ? first_name(to) : to, &who, &ref))
        return found < 0 ? found : 0;
    s->same->told = s->same->told || same_is_junior(s, to, &who);
    v->type = VALUE_REF;
    v->p = bytes;
    v->len = value_ref_pack(&ref, bytes);
    return 1;
}

/* A column of the row's own name says what the name says: whom it meant was told when it was noted. */
static void key_says(const struct value *key, struct value *v, uint8_t bytes[VALUE_REF_BORN_BYTES]) {
    if (key->type != VALUE_REF || key->len > VALUE_REF_BORN_BYTES)
        return;
    memcpy(bytes, key->p, key->len);
    v->type = VALUE_REF;
    v->p = bytes;
    v->len = key->len;
}

int refs_tell(struct store *s, struct tio *io, const struct rowid *who, const uint32_t *at, uint32_t count, int64_t ms,
              const struct value **values) {
    struct value key[16];
    if (!io->telling || !count)
        return 0;
    if (count > s->told_cap) {
        struct value *v = realloc(s->told, count * sizeof *v);
        if (v)
            s->told = v;
        uint8_t *b = v ? realloc(s->told_bytes, count * VALUE_REF_BORN_BYTES) : NULL;
        if (!b)
            return ERR_NOMEM;
        s->told_bytes = b;
        s->told_cap = count;
    }
    memcpy(s->told, *values, count * sizeof *s->told);
    int keys = who && who->text && io->key_refs ? tables_key_values(who, key, 16) : 0;
    if (keys < 0)
        return keys;
    for (uint32_t i = 0; i < count; i++) {
        int place = at[i] == NOT_HERE || !keys ? 0 : io->table->columns[io->order[at[i]]].key_place;
        if (place > 0 && place <= keys && io->ref_to[at[i]]) {
            key_says(&key[place - 1], &s->told[i], s->told_bytes + i * VALUE_REF_BORN_BYTES);
            continue;
        }
        bool in_key = at[i] != NOT_HERE && io->table->columns[io->order[at[i]]].key_place;
        uint8_t *bytes = s->told_bytes + i * VALUE_REF_BORN_BYTES;
        int err = at[i] == NOT_HERE             ? 0
                  : io->afar && io->afar[at[i]] ? afar_tell(s, io->afar[at[i]], ms, &s->told[i], bytes)
                                                : tell(s, io->ref_to[at[i]], in_key, INT64_MAX, ms, &s->told[i], bytes);
        if (err < 0)
            return err;
    }
    *values = s->told;
    return 0;
}

int refs_key(struct store *s, struct tio *io, const struct value *values, int64_t seq, uint32_t plain, struct buf *out) {
    uint8_t bytes[VALUE_REF_BORN_BYTES];
    buf_clear(out);
    for (uint32_t i = 0; i < io->table->key_count; i++) {
        struct value v = values[i];
        int err = plain >> i & 1 ? 0 : tell(s, io->ref_to[i], true, seq, -1, &v, bytes);
        if (err < 0)
            return err;
        tables_put_key_value(out, &v, io->table->columns[io->table->key[i]].collation);
    }
    return out->failed;
}

/* ---- theirs: an identity becomes a number */

static struct tbl *table_by_hash(const struct store *s, uint64_t hash) {
    for (uint32_t i = 0; i < s->tbls_count; i++)
        if (s->tbls[i]->hash == hash && s->tbls[i]->shape == SHAPE_NUMBER)
            return s->tbls[i];
    return NULL;
}

int refs_find(struct store *s, const struct value *v, struct tbl **t, struct rowid *who) {
    struct value_ref ref;
    memset(who, 0, sizeof *who);
    if (!value_ref_unpack(&ref, v->p, v->len) || !(*t = table_by_hash(s, ref.table)))
        return 0;
    who->number = ref.number;
    who->kind = ref.adopted ? IDENT_ADOPTED : IDENT_BORN;
    who->hash = ref.hash;
    who->version = ref.version;
    int origin = ref.adopted ? 0 : state_find_origin(s, &ref.origin);
    who->origin = origin < 0 ? UINT32_MAX : (uint32_t)origin;
    if (origin < 0)
        return 0;
    *t = first_name_here(s, *t, who);
    struct rowid root;
    if (same_any(s) && !s->same->literal && same_root(s, *t, who, &s->same->key, &root) == 1)
        *who = root;
    return 1;
}

/* v->as.i becomes the number of the row that v means. 1: it lives, but is not shown here; then it is the number that it wants. */
static int show(struct store *s, struct value *v) {
    struct value_ref ref;
    struct tbl *t;
    struct rowid who;
    if (!refs_find(s, v, &t, &who)) {
        if (!afar_number(s, v, &v->as.i))
            v->as.i = value_ref_unpack(&ref, v->p, v->len) ? ref.number : 0;
        return 0;
    }
    v->as.i = numbers_today(s, t, &who);
    int waits = numbers_wait(s, t, &who);
    if (waits == 1 && reg_known(&s->meant))
        v->as.i = numbers_wanted(s, t, &s->meant);
    return waits;
}

int refs_show(struct store *s, struct value *values, uint32_t count) {
    int waits = 0;
    for (uint32_t i = 0; i < count; i++) {
        int err = values[i].type == VALUE_REF ? show(s, &values[i]) : 0;
        if (err < 0)
            return err;
        waits = err > waits ? err : waits;
    }
    return waits;
}

int refs_in_file(struct store *s, struct value *values, uint32_t count) {
    int waits = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct tbl *t;
        struct rowid who;
        int err = values[i].type == VALUE_REF ? show(s, &values[i]) : 0;
        if (err < 0)
            return err;
        if (values[i].type == VALUE_REF && err != 1 && refs_find(s, &values[i], &t, &who))
            values[i].as.i = numbers_in_file(s, t, &who);
        waits = err > waits ? err : waits;
    }
    return waits;
}

int refs_plain(struct store *s, struct value *v) {
    int err = refs_show(s, v, 1);
    if (v->type == VALUE_REF)
        *v = (struct value){.type = VALUE_INT, .as.i = v->as.i};
    return err < 0 ? err : 0;
}

int refs_find_said(struct store *s, const struct value *v, struct tbl **t, struct rowid *who) {
    bool literal = s->same->literal;
    s->same->literal = true;
    int found = refs_find(s, v, t, who);
    s->same->literal = literal;
    return found;
}

/* Whom a key with this reference in it meant when it was written so: that of the row's own, of those that are one. */
static int key_said(struct store *s, const struct tbl *child, const struct rowid *who, const struct write *w, const struct tbl *t,
                    struct rowid *said) {
    struct arena arena = {0};
    struct rowid *list, root, one;
    struct value key[16];
    struct tbl *to;
    uint32_t count;
    struct reg own;
    bool home;
    root = *said;
    reg_init(&own);
    int err = unify_is(s, child, who) ? same_members(s, child, who, &arena, &list, &count) : 1;
    for (uint32_t i = 0; !err && i < count; i++) {
        bool wrote = false;
        err = unify_own(s, child, &list[i], &own, &home);
        for (uint32_t k = 0; k < own.writes_count; k++)
            wrote = wrote || (own.writes[k].origin == w->origin && own.writes[k].version == w->version && own.writes[k].at == w->at);
        int n = wrote ? tables_key_values(&list[i], key, 16) : 0;
        for (int k = 0; k < n; k++)
            if (key[k].type == VALUE_REF && refs_find(s, &key[k], &to, &one) && to == t && rowid_same(&one, &root) &&
                refs_find_said(s, &key[k], &to, &one))
                *said = one;
    }
    reg_release(&own);
    arena_release(&arena);
    return err < 0 ? err : 0;
}

int refs_left(struct store *s, struct tbl *child, const struct rowid *who, const struct write *w, const struct value *v, bool *left) {
    struct tbl *t;
    struct rowid parent, said;
    bool home;
    *left = true;
    if (!refs_find(s, v, &t, &parent) || !refs_find_said(s, v, &t, &said))
        return 0;
    int err = values_orphan(s, w->origin, w->version, child, who, left);
    if (!err && !*left && rowid_same(&said, &parent) && who->text)
        err = key_said(s, child, who, w, t, &said);
    if (!err && !*left)
        err = dead_knowing(s, t, &said, w, left);
    return err || *left ? err : rows_find(s, t, &parent, &s->meant, &home);
}

int refs_unsettle(struct store *s, struct tbl *t, const struct rowid *who, struct shown_cell shown, uint64_t hash) {
    struct pending_row *p;
    bool home;
    int err = state_begin(s);
    if (err || (err = pending_map_flights(s)) || (err = rows_find(s, t, who, &s->meant, &home)))
        return err;
    rows_account(s, t, who, &s->meant, NULL);
    for (uint32_t i = 0; i < s->meant.cells_count; i++)
        if (s->meant.cells[i].column == shown.column && s->meant.cells[i].hash == shown.hash)
            s->meant.cells[i].hash = hash;
    rows_account(s, t, who, NULL, &s->meant);
    if ((err = rows_store(s, t, who, &s->meant, home)))
        return err;
    if ((p = pending_find(s, t, who)))
        return pending_touch(s, p, &shown, 1);
    return (err = pending_set(s, t, who, true, &shown, 1, NULL, &p)) ? err : pending_store(s, p);
}

int refs_outdated(struct store *s, struct tio *io, const struct rowid *who, const uint32_t *at, uint32_t count, const struct value *told,
                  const uint64_t *hashes) {
    for (uint32_t i = 0; i < count; i++) {
        struct tbl *to;
        struct rowid row;
        struct value today = {.type = VALUE_INT};
        if (told[i].type != VALUE_REF || at[i] == NOT_HERE || io->table->columns[io->order[at[i]]].key_place)
            continue;
        if (refs_find(s, &told[i], &to, &row))
            today.as.i = numbers_today(s, to, &row);
        else if (!afar_number(s, &told[i], &today.as.i))
            continue;
        uint64_t hash = value_hash(&today);
        int err = tables_converts(io, at[i], &today) ? tables_convert(s, io, at[i], &today, &hash) : 0;
        if (!err && hash != hashes[at[i]])
            err = refs_unsettle(s, io->tbl, who, (struct shown_cell){io->numbers[at[i]], hashes[at[i]]}, value_hash(&told[i]));
        if (err)
            return err;
    }
    return 0;
}

/* ---- within a projection */

/* References get the numbers of today. What the registers were told by the merge may be another one, or the row is not shown yet: then it is for
 * show_row() to look. */
int refs_settled(struct store *s, struct value *values, uint32_t count, bool ahead) {
    for (uint32_t i = 0; i < count; i++) {
        int64_t was = values[i].as.i;
        int err = values[i].type == VALUE_REF ? refs_show(s, &values[i], 1) : 0;
        if (err < 0 || (err == 1 && !ahead))
            return err < 0 ? err : ERR_CONSTRAINT;
        s->same->dead_refs = s->same->dead_refs || err == 2;
        if (values[i].type == VALUE_REF && values[i].as.i != was)
            return ERR_CONSTRAINT;
    }
    return 0;
}

/* The same for a row whose key is the reference. */
int refs_key_settled(struct store *s, struct tio *io, const struct rowid *who) {
    int waits = who->kind == IDENT_GIVEN ? 0 : numbers_wait(s, io->key_ref, who);
    if (waits < 0 || waits == 1)
        return waits < 0 ? waits : ERR_CONSTRAINT;
    return numbers_shown(io->key_ref, who) == numbers_shown(io->tbl, who) ? 0 : ERR_CONSTRAINT;
}

/* What it refers to was deleted. Whoever deleted it had not seen this: then it lives again, and if
 * another row has its number, it is the one of the two that gets another. 0: it was left so on purpose, or seen; 1: not now. */
int refs_gone(struct store *s, struct tbl *t, const struct rowid *who, const struct write *w, const struct value *v) {
    struct tbl *to;
    struct rowid parent;
    bool left;
    if (t->io->policy.orphans == ORPHANS_KEEP)
        return 0;
    int err = refs_left(s, t, who, w, v, &left); /* the parent is in s->meant */
    if (err || left || !refs_find(s, v, &to, &parent))
        return err;
    err =
        t->io->policy.orphans == ORPHANS_CASCADE || reg_cascaded(&s->meant) ? mend_cascade_row(s, t, who) : mend_revive_row(s, to, &parent);
    return err < 0 ? err : 1;
}
