#include "node/store/sql.h"

#include <stdarg.h>

#include "node/store/appfile.h"
#include "proto/err.h"

static int prepare(sqlite3 *db, sqlite3_stmt **out, const char *format, va_list args) {
    char *text = sqlite3_vmprintf(format, args);
    if (!text)
        return ERR_NOMEM;
    int rc = sqlite3_prepare_v3(db, text, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
    sqlite3_free(text);
    return rc == SQLITE_OK ? 0 : appfile_error(rc);
}

int sql_prepare(sqlite3 *db, sqlite3_stmt **out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int err = prepare(db, out, format, args);
    va_end(args);
    return err;
}

int sql_exec(sqlite3 *db, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = sqlite3_vmprintf(format, args);
    va_end(args);
    if (!text)
        return ERR_NOMEM;
    int rc = sqlite3_exec(db, text, NULL, NULL, NULL);
    sqlite3_free(text);
    return rc == SQLITE_OK ? 0 : appfile_error(rc);
}

int sql_run(sqlite3_stmt *stmt) {
    int rc = sqlite3_step(stmt);
    int rc2 = sqlite3_reset(stmt);
    if (rc == SQLITE_DONE || rc == SQLITE_ROW)
        return 0;
    return appfile_error(rc2 ? rc2 : rc);
}

int sql_step(sqlite3_stmt *stmt) {
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        return 1;
    if (rc == SQLITE_DONE)
        return 0;
    int rc2 = sqlite3_reset(stmt);
    return appfile_error(rc2 ? rc2 : rc);
}

int sql_int(sqlite3 *db, int64_t none, int64_t *out, const char *format, ...) {
    va_list args;
    sqlite3_stmt *stmt = NULL;
    va_start(args, format);
    int err = prepare(db, &stmt, format, args);
    va_end(args);
    *out = none;
    if (err)
        return err;
    int row = sql_step(stmt);
    if (row == 1 && sqlite3_column_type(stmt, 0) != SQLITE_NULL)
        *out = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return row < 0 ? row : 0;
}

void sql_bind_value(sqlite3_stmt *stmt, int at, const struct value *v) {
    switch (v->type) {
    case VALUE_NULL: sqlite3_bind_null(stmt, at); break;
    case VALUE_REF: /* the number that it means here */
    case VALUE_INT: sqlite3_bind_int64(stmt, at, v->as.i); break;
    case VALUE_FLOAT: sqlite3_bind_double(stmt, at, v->as.f); break;
    case VALUE_TEXT: sqlite3_bind_text64(stmt, at, v->len ? (const char *)v->p : "", v->len, SQLITE_STATIC, SQLITE_UTF8); break;
    case VALUE_BLOB:
        if (v->len)
            sqlite3_bind_blob64(stmt, at, v->p, v->len, SQLITE_STATIC);
        else
            sqlite3_bind_zeroblob(stmt, at, 0);
        break;
    }
}

void sql_column_value(sqlite3_stmt *stmt, int at, struct value *v) {
    v->p = NULL;
    v->len = 0;
    v->as.i = 0;
    switch (sqlite3_column_type(stmt, at)) {
    case SQLITE_NULL: v->type = VALUE_NULL; break;
    case SQLITE_INTEGER:
        v->type = VALUE_INT;
        v->as.i = sqlite3_column_int64(stmt, at);
        break;
    case SQLITE_FLOAT:
        v->type = VALUE_FLOAT;
        v->as.f = sqlite3_column_double(stmt, at);
        break;
    case SQLITE_TEXT:
        v->type = VALUE_TEXT;
        v->p = sqlite3_column_text(stmt, at);
        v->len = (size_t)sqlite3_column_bytes(stmt, at);
        break;
    default:
        v->type = VALUE_BLOB;
        v->p = sqlite3_column_blob(stmt, at);
        v->len = (size_t)sqlite3_column_bytes(stmt, at);
        break;
    }
}

int sql_sync(sqlite3 *db) {
    sqlite3_file *file = NULL;
    if (sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file) != SQLITE_OK || !file || !file->pMethods) {
        if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK || !file || !file->pMethods)
            return 0; /* in memory */
    }
    int rc = file->pMethods->xSync(file, SQLITE_SYNC_NORMAL | SQLITE_SYNC_DATAONLY);
    return rc == SQLITE_OK ? 0 : appfile_error(rc);
}
