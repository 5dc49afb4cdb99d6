/* Starling tests: see rows.h. */
#include "rows.h"

#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "side.h"

static void put_value(FILE *out, sqlite3_stmt *q, int i) {
    const unsigned char *p;
    double d;
    unsigned long long bits;
    int n, type = sqlite3_column_type(q, i);
    switch (type) {
    case SQLITE_INTEGER: fprintf(out, "%lld", (long long)sqlite3_column_int64(q, i)); break;
    case SQLITE_FLOAT:
        d = sqlite3_column_double(q, i);
        memcpy(&bits, &d, sizeof bits);
        fprintf(out, "%.17g(%llx)", d, bits);
        break;
    case SQLITE_NULL: fputs("NULL", out); break;
    default:
        p = type == SQLITE_TEXT ? sqlite3_column_text(q, i) : sqlite3_column_blob(q, i);
        n = sqlite3_column_bytes(q, i);
        fputc(type == SQLITE_TEXT ? '\'' : 'x', out);
        for (int k = 0; k < n && k < 60; k++)
            fprintf(out, p[k] >= ' ' && p[k] < 127 && type == SQLITE_TEXT ? "%c" : "\\%02x", p[k]);
        if (n > 60) {
            uint8_t hash[8 + 8];
            crypto_generichash(hash, sizeof hash, p, (size_t)n, NULL, 0);
            fprintf(out, "...%d bytes, %02x%02x%02x%02x", n, hash[0], hash[1], hash[2], hash[3]);
        }
    }
}

static void rows_add(struct rows *r, char *line) {
    r->lines = realloc(r->lines, (r->count + 1) * sizeof *r->lines);
    assert(r->lines);
    r->lines[r->count++] = line;
}

void rows_free(struct rows *r) {
    side_lines_free(r->lines, r->count);
    memset(r, 0, sizeof *r);
}

static int rows_step(sqlite3_stmt *q, struct rows *r) {
    int rc;
    while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
        char *line = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&line, &len);
        assert(out);
        for (int i = 0; i < sqlite3_column_count(q); i++) {
            fputs(i ? " " : "", out);
            put_value(out, q, i);
        }
        fclose(out);
        rows_add(r, line);
    }
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int rows_of(sqlite3 *db, const char *sql, struct rows *r) {
    sqlite3_stmt *q = NULL;
    memset(r, 0, sizeof *r);
    int rc = sqlite3_prepare_v2(db, sql, -1, &q, NULL);
    if (rc == SQLITE_OK)
        rc = rows_step(q, r);
    sqlite3_finalize(q);
    side_lines_sort(r->lines, r->count);
    return rc;
}

bool rows_same(const struct rows *a, const struct rows *b) {
    bool same = a->count == b->count;
    for (uint32_t i = 0; i < a->count && same; i++)
        same = strcmp(a->lines[i], b->lines[i]) == 0;
    return same;
}

char *rows_difference(const struct rows *a, const struct rows *b) {
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert(out);
    for (uint32_t i = 0, k = 0; i < a->count || k < b->count;) {
        int d = i == a->count ? 1 : k == b->count ? -1 : strcmp(a->lines[i], b->lines[k]);
        if (d < 0)
            fprintf(out, "\n    only the shadow: %s", a->lines[i]);
        if (d > 0)
            fprintf(out, "\n    only the server: %s", b->lines[k]);
        i += d <= 0;
        k += d >= 0;
    }
    fclose(out);
    return text;
}

char *rows_null_test(sqlite3 *db, const char *table, bool with) {
    sqlite3_stmt *q = NULL;
    sqlite3_str *sql = sqlite3_str_new(db);
    char *ask = sqlite3_mprintf("SELECT name FROM pragma_table_info(%Q, 'main') WHERE pk", table);
    int rc = sqlite3_prepare_v2(db, ask, -1, &q, NULL);
    assert(rc == SQLITE_OK);
    sqlite3_str_appendall(sql, with ? " WHERE (0" : " WHERE NOT (0");
    while (sqlite3_step(q) == SQLITE_ROW)
        sqlite3_str_appendf(sql, " OR \"%w\" IS NULL", sqlite3_column_text(q, 0));
    sqlite3_str_appendall(sql, ")");
    sqlite3_finalize(q);
    sqlite3_free(ask);
    return sqlite3_str_finish(sql);
}

char *rows_select_all(sqlite3 *db, const char *table) {
    sqlite3_stmt *q = NULL;
    sqlite3_str *sql = sqlite3_str_new(db);
    char *ask = sqlite3_mprintf("SELECT name FROM pragma_table_xinfo(%Q, 'main') WHERE hidden<>1 ORDER BY name", table);
    int n = 0, rc = sqlite3_prepare_v2(db, ask, -1, &q, NULL);
    assert(rc == SQLITE_OK);
    while (sqlite3_step(q) == SQLITE_ROW)
        sqlite3_str_appendf(sql, "%s\"%w\"", n++ ? "," : "SELECT ", sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    sqlite3_free(ask);
    char *where = rows_null_test(db, table, false);
    sqlite3_str_appendf(sql, " FROM main.\"%w\"%s", table, where);
    sqlite3_free(where);
    return sqlite3_str_finish(sql);
}
