/* Starling bench: capture's triggers and note table, put into a file without a node: the price of capture alone.
 *
 *   bench_capture PATH */
#include <stdio.h>
#include <string.h>

#include "node/store/capture.h"
#include "node/store/schema.h"
#include "proto/err.h"
#include "tests/bench/bench.h"

int main(int argc, char **argv) {
    if (argc != 2) {
        bench_die("usage: PATH");
    }
    sqlite3 *db = bench_open(argv[1], false);
    struct schema schema;
    memset(&schema, 0, sizeof schema);
    int r = schema_read(db, &schema);
    bool begun = r == 0 && sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK;
    r = r != 0 ? r : !begun ? ERR_BUSY : capture_install(db, &schema, NULL, 0, NULL);
    if (r != 0 || sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK) {
        bench_die("%s: %s", argv[1], err_text(r));
    }
    printf("{\"tables\":%u}\n", schema.count);
    schema_release(&schema);
    bench_close(db);
    return 0;
}
