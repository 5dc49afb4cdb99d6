/* The key of a row that refers to another is to stay the same when the table of that one is renamed, on whatever server first. So keys have the name that
 * the table had when it was new, and rows are looked for under all names that it had since. Who renamed a table knows; the others learn it from rows that
 * come as carried over and are known under another name. */
#include "node/store/first_name.h"

struct tbl *first_name(const struct tbl *t) {
    return t->first_name ? t->first_name : (struct tbl *)(uintptr_t)t;
}

int first_name_load(struct store *s) {
    sqlite3_stmt *q;
    int row, err = sql_prepare(s->db, &q, "SELECT substr(k, 12), v FROM meta WHERE k GLOB 'first name *'");
    while (!err && (row = sql_step(q)) != 0) {
        struct tbl *t = row < 0 ? NULL : state_table_of(s, (uint32_t)sqlite3_column_int64(q, 0));
        err = row < 0 ? row : 0;
        if (t)
            t->first_name = state_table_of(s, (uint32_t)sqlite3_column_int64(q, 1));
    }
    sqlite3_finalize(q);
    return err;
}

int first_name_renamed(struct store *s, struct tbl *t, struct tbl *from) {
    struct tbl *first = first_name(from);
    if (t->first_name || first == t || t->shape != SHAPE_NUMBER || first->shape != SHAPE_NUMBER)
        return 0;
    int err = state_begin(s);
    t->first_name = first;
    return err ? err : sql_exec(s->db, "INSERT OR REPLACE INTO meta VALUES('first name %u', %u)", t->no, first->no);
}

int first_name_carried(struct store *s, struct tbl *t, const struct rowid *who) {
    struct reg found;
    bool home;
    int err = 0;
    if (t->first_name || t->shape != SHAPE_NUMBER || who->kind == IDENT_GIVEN)
        return 0;
    reg_init(&found);
    for (uint32_t i = 0; i < s->tbls_count && !err && !t->first_name; i++) {
        struct tbl *other = s->tbls[i];
        if (other == t || other->shape != SHAPE_NUMBER || (err = rows_find(s, other, who, &found, &home)) || !reg_known(&found))
            continue;
        err = first_name_renamed(s, t, other);
    }
    reg_release(&found);
    return err;
}

struct tbl *first_name_here(struct store *s, struct tbl *t, const struct rowid *who) {
    struct tbl *here = NULL;
    struct reg found;
    bool home;
    for (uint32_t i = 0; i < s->tbls_count && !here; i++)
        here = s->tbls[i]->first_name == t && s->tbls[i]->io ? s->tbls[i] : NULL;
    if (!here)
        return t;
    here = NULL;
    reg_init(&found);
    bool under_first = t->io && rows_find(s, t, who, &found, &home) == 0 && reg_known(&found);
    for (uint32_t i = 0; i < s->tbls_count && !here && !under_first; i++) {
        struct tbl *other = s->tbls[i];
        if (other->first_name == t && other->io && rows_find(s, other, who, &found, &home) == 0 && reg_known(&found))
            here = other;
    }
    reg_release(&found);
    return here ? here : t;
}

size_t first_name_pack(struct store *s, const struct tbl *t, const struct rowid *who, uint8_t bytes[VALUE_REF_BORN_BYTES]) {
    return refs_pack(s, first_name(t), who, bytes);
}
