/* The engine: tables that link rows of others: keys that hold references, and rows that two servers link apart. */
#include "store_rig.h"

#define TAGS                                                                                                                               \
    "CREATE TABLE team(id INTEGER PRIMARY KEY, number INTEGER UNIQUE, name TEXT);"                                                         \
    "CREATE TABLE tag(team INTEGER REFERENCES team(id) ON DELETE CASCADE, label TEXT, note TEXT, PRIMARY KEY(team, label))"

static void share_same(struct rig *r) {
    rig_share(r);
    rig_assert_settled(r);
    assert_same_tables(r);
    rig_time_passes(r);
}

/* What each of them has, though not the same schema. */
static void share(struct rig *r) {
    rig_share(r);
    rig_time_passes(r);
}

/* Two link a team that a third deletes meanwhile; both links arrive at once. */
static void test_linked_twice_to_what_was_deleted(void **state) {
    (void)state;
    for (int order = 0; order < 2; order++) {
        struct rig r;
        rig_open(&r, 3, TAGS);
        rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(4, 'four')");
        share_same(&r);
        rig_act(&r, 0, "INSERT INTO team(number, name) VALUES(7, 'seven')");
        rig_act(&r, 0, "DELETE FROM team WHERE id = 1");
        rig_act(&r, 1, "INSERT INTO tag VALUES(1, 'a', 'x')");
        rig_tick();
        rig_act(&r, 2, "BEGIN; INSERT INTO tag VALUES(1, 'a', 'y'); INSERT INTO team(number, name) VALUES(8, 'eight'); COMMIT");
        peer_queue(&r.peers[0], &r.peers[1 + order]);
        peer_queue(&r.peers[0], &r.peers[2 - order]);
        peer_pull(&r.peers[2], &r.peers[0]);
        peer_pull(&r.peers[1], &r.peers[2]);
        peer_queue(&r.peers[0], &r.peers[1]);
        peer_rest(&r.peers[0]);
        share_same(&r);
        assert_everywhere(&r, "SELECT name, label FROM tag JOIN team ON team.id = tag.team", "tfour|ta|;");
        rig_close(&r);
    }
}

/* ---- as Django links rows: a table of its own, which SQLite numbers, that is made anew as what it links gets another name */

#define BOOKS                                                                                                                              \
    "CREATE TABLE book(id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name TEXT); CREATE TABLE tag(word TEXT NOT NULL PRIMARY KEY);"       \
    "CREATE TABLE link(id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, book_id INTEGER NOT NULL REFERENCES book(id), tag_id TEXT NOT NULL " \
    "REFERENCES tag(word)); CREATE UNIQUE INDEX link_both ON link(book_id, tag_id)"

static const char *const UPGRADE =
    "BEGIN; ALTER TABLE tag RENAME TO label;"
    "CREATE TABLE new__link(id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, book_id INTEGER NOT NULL REFERENCES book(id), label_id TEXT NOT "
    "NULL REFERENCES label(word)); INSERT INTO new__link(id, book_id, label_id) SELECT id, book_id, tag_id FROM link; DROP TABLE link;"
    "ALTER TABLE new__link RENAME TO link; CREATE UNIQUE INDEX link_both ON link(book_id, label_id); COMMIT";

static void link_one(struct rig *r, struct rig_random *x, uint32_t i, bool upgraded, int n) {
    char sql[600];
    const char *table = upgraded ? "label" : "tag";
    snprintf(sql, sizeof sql,
             "BEGIN; INSERT INTO book(name) SELECT 'book %u-%d' WHERE %u; INSERT INTO %s VALUES('%u-%d');"
             "INSERT INTO link(book_id, %s_id) SELECT id, '%u-%d' FROM book ORDER BY random() LIMIT %u;"
             "DELETE FROM link WHERE %u AND id = (SELECT id FROM link ORDER BY random() LIMIT 1); COMMIT",
             i, n, i == 0 && rig_below(x, 2), table, i, n, table, i, n, 1 + rig_below(x, 3), rig_below(x, 4) == 0);
    app_exec(rig_app(r, i), sql);
}

static void test_random(void **state) {
    (void)state;
    struct rig_random x = {rig_seed()};
    for (int round = 0; round < 3; round++) {
        struct rig r;
        bool upgraded[2] = {false, false};
        uint32_t upgrade[2] = {15 + rig_below(&x, 15), 30 + rig_below(&x, 30)};
        rig_open(&r, 2, BOOKS);
        for (int step = 0; step < 60; step++) {
            for (uint32_t i = 0; i < 2; i++) {
                if (step == (int)upgrade[i]) {
                    app_exec(rig_app(&r, i), UPGRADE);
                    upgraded[i] = true;
                }
                if (rig_below(&x, 3))
                    link_one(&r, &x, i, upgraded[i], step);
                for (uint32_t n = rig_below(&x, 6); n > 0; n--) {
                    int wait = peer_turn(&r.peers[i]);
                    if (wait > 0 && rig_below(&x, 2))
                        side_skip((uint64_t)wait);
                }
                if (rig_below(&x, 4) == 0)
                    peer_queue(&r.peers[i], &r.peers[!i]);
                if (rig_below(&x, 8) == 0)
                    peer_rest(&r.peers[i]);
                if (rig_below(&x, 8) == 0)
                    rig_time_passes(&r);
                if (rig_below(&x, 20) == 0)
                    peer_reopen(&r.peers[i]);
            }
        }
        for (int n = 0; n < 3; n++) {
            rig_share(&r);
            for (uint32_t i = 0; i < 2; i++)
                peer_retry(&r.peers[i]);
        }
        share_same(&r);
        assert_same_conflicts(&r);
        assert_everywhere(&r, "PRAGMA foreign_key_check", "");
        rig_close(&r);
    }
}

/* ---- a table that is made anew: rows that come before our triggers are back */

#define SHELF                                                                                                                              \
    "CREATE TABLE shelf(id INTEGER PRIMARY KEY, name TEXT UNIQUE);"                                                                        \
    "CREATE TABLE book(id INTEGER PRIMARY KEY, name TEXT UNIQUE, shelf_id INTEGER REFERENCES shelf(id), next_id INTEGER "                  \
    "REFERENCES book(id) DEFERRABLE INITIALLY DEFERRED);"                                                                                  \
    "CREATE TABLE note(k TEXT PRIMARY KEY, book_id INTEGER REFERENCES book(id));"                                                          \
    "CREATE TABLE link(book_id INTEGER REFERENCES book(id), word TEXT, more, PRIMARY KEY(book_id, word))"

/* As Django does it: both in one transaction, and the references stay. */
static const char *const ANEW =
    "PRAGMA foreign_keys=OFF; PRAGMA legacy_alter_table=ON; BEGIN;"
    "CREATE TABLE new__shelf(id INTEGER PRIMARY KEY, name TEXT UNIQUE, wide INTEGER DEFAULT 1); INSERT INTO new__shelf(id, name) SELECT "
    "id, "
    "name FROM shelf; DROP TABLE shelf; ALTER TABLE new__shelf RENAME TO shelf;"
    "CREATE TABLE new__book(id INTEGER PRIMARY KEY, name TEXT UNIQUE, shelf_id INTEGER REFERENCES shelf(id), next_id INTEGER REFERENCES "
    "book(id) DEFERRABLE INITIALLY DEFERRED, isbn TEXT DEFAULT 'none'); INSERT INTO new__book(id, name, shelf_id, next_id) SELECT id, "
    "name, "
    "shelf_id, next_id FROM book; DROP TABLE book; ALTER TABLE new__book RENAME TO book; COMMIT; PRAGMA legacy_alter_table=OFF";

#define LINKED                                                                                                                             \
    "SELECT 'note', k, b.name, s.name, n.name FROM note LEFT JOIN book b ON b.id = note.book_id LEFT JOIN shelf s ON s.id = "              \
    "b.shelf_id LEFT JOIN book n ON n.id = b.next_id UNION ALL SELECT 'link', word, b.name, s.name, n.name FROM link "                     \
    "LEFT JOIN book b ON b.id = link.book_id LEFT JOIN shelf s ON s.id = b.shelf_id LEFT JOIN book n ON n.id = b.next_id ORDER BY 1, 2"

/* Server 0 makes tables anew, and rows come right after: those of the new tables have no notes, those that refer to them have. Server 1 has rows under
 * these numbers, or comes to have them before the others tell. */
static void test_rows_of_a_new_table_without_notes(void **state) {
    (void)state;
    for (int mode = 0; mode < 8; mode++) {
        struct rig r;
        rig_open(&r, 2, SHELF);
        rig_act(&r, 0,
                "INSERT INTO shelf VALUES(1, 'first'); INSERT INTO book VALUES(1, 'old', 1, NULL); INSERT INTO note VALUES('old', 1)");
        share_same(&r);
        app_exec(rig_app(&r, 0), ANEW);
        app_exec(rig_app(&r, 0),
                 "BEGIN; INSERT INTO shelf(name) VALUES('new'); INSERT INTO book(name, shelf_id, next_id) VALUES('gap', 2, 3), "
                 "('last', 2, 2); INSERT INTO note VALUES('n', 2); INSERT INTO link VALUES(3, 'l', 1); COMMIT");
        if (mode & 1) /* by itself: SQLite numbers them alike */
            rig_act(&r, 1,
                    "INSERT INTO shelf(name) VALUES('one'); INSERT INTO book(name, shelf_id) VALUES('theirs', 2), ('other', 1); INSERT "
                    "INTO note VALUES('t', 2); INSERT INTO link VALUES(3, 't', 1)");
        for (int n = 0; n < 4; n++)
            peer_turn(&r.peers[0]);
        if (mode & 2) { /* the triggers are back */
            app_exec(rig_app(&r, 0),
                     "UPDATE book SET isbn = 'set' WHERE id = 2; INSERT OR REPLACE INTO link VALUES(3, 'l', 2); UPDATE note SET "
                     "book_id = 3 WHERE k = 'old'; UPDATE note SET book_id = 1 WHERE k = 'old'");
            for (int n = 0; n < 4; n++)
                peer_turn(&r.peers[0]);
        }
        if (mode & 4)
            peer_reopen(&r.peers[0]);
        peer_pull(&r.peers[1], &r.peers[0]); /* amid the hold */
        assert_rows(rig_app(&r, 1), "PRAGMA foreign_key_check", "");
        assert_rows(rig_app(&r, 1),
                    "SELECT b.name, s.name FROM note JOIN book b ON b.id = book_id JOIN shelf s ON s.id = shelf_id WHERE k = 'n'",
                    "tgap|tnew|;");
        share(&r);
        if (mode & 2)
            assert_rows(rig_app(&r, 0), "SELECT isbn FROM book WHERE name = 'gap'", "tset|;");
        app_exec(rig_app(&r, 1), ANEW);
        share_same(&r);
        assert_everywhere(&r, LINKED,
                          mode & 1
                              ? "tlink|tl|tlast|tnew|tgap|;tlink|tt|tother|tfirst|n|;tnote|tn|tgap|tnew|tlast|;tnote|told|told|tfirst|n|;"
                                "tnote|tt|ttheirs|tone|n|;"
                              : "tlink|tl|tlast|tnew|tgap|;tnote|tn|tgap|tnew|tlast|;tnote|told|told|tfirst|n|;");
        assert_everywhere(&r, "SELECT count(*) FROM book", mode & 1 ? "i5|;" : "i3|;");
        assert_everywhere(&r, "PRAGMA foreign_key_check", "");
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linked_twice_to_what_was_deleted),
        cmocka_unit_test(test_rows_of_a_new_table_without_notes),
        cmocka_unit_test(test_random),
    };
    cmocka_set_test_filter(getenv("TEST")); /* one test alone */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
