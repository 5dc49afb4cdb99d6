/* The walk over the instance folder: in steps of any size it meets what it meets in one go, and may be left in the middle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <unistd.h>

#include "node/folder.h"

static char root[] = "/tmp/starling-folder-XXXXXX";

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void make(const char *name, bool folder) {
    char path[300];
    snprintf(path, sizeof(path), "%s/%s", root, name);
    int r = folder ? mkdir(path, 0700) : close(open(path, O_WRONLY | O_CREAT, 0600));
    assert_int_equal(r, 0);
}

static int setup(void **state) {
    char name[64];
    (void)state;
    assert_non_null(mkdtemp(root));
    static const char *const folders[] = {"a", "a/b", "a/b/c", "d", ".starling", "kept"};
    for (int i = 0; i < 6; i++)
        make(folders[i], true);
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "%s/f%d.db", folders[i % 6], i);
        make(name, false);
    }
    make("x.db", false);
    make("x.db-wal", false);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

struct met {
    unsigned files, folders;
    uint64_t sum;
};

static void on_folder(void *ctx, const char *path) {
    struct met *m = ctx;
    (void)path;
    m->folders++;
}

static void on_file(void *ctx, const char *name, const char *path, const struct stat *st) {
    struct met *m = ctx;
    uint64_t h = 5381;
    assert_true(S_ISREG(st->st_mode) && strcmp(path + strlen(root) + 1, name) == 0);
    for (const char *p = name; *p != 0; p++)
        h = h * 33 + (uint8_t)*p;
    m->files++;
    m->sum += h;
}

static struct folder_walk walk_of(struct met *m, const char *state) {
    *m = (struct met){0};
    return (struct folder_walk){root, state, m, on_folder, on_file, NULL};
}

static void test_steps(void **state) {
    struct met whole, steps;
    char kept[300];
    (void)state;
    snprintf(kept, sizeof(kept), "%s/kept", root);
    struct folder_walk walk = walk_of(&whole, kept);
    assert_int_equal(folder_walk(&walk), 0);
    assert_int_equal(whole.folders, 5);    /* neither .starling nor the state folder */
    assert_int_equal(whole.files, 14 + 1); /* no companions */
    for (uint32_t entries = 1; entries < 12; entries++) {
        unsigned rounds = 1;
        walk = walk_of(&steps, kept);
        struct folder_walker *w = folder_begin(&walk);
        assert_non_null(w);
        while (folder_step(w, entries))
            rounds++;
        folder_end(w);
        assert_memory_equal(&steps, &whole, sizeof(whole));
        assert_true(rounds >= 20 / entries);
    }
}

static void test_left_in_the_middle(void **state) {
    struct met met;
    (void)state;
    for (uint32_t entries = 0; entries < 25; entries++) {
        struct folder_walk walk = walk_of(&met, root);
        struct folder_walker *w = folder_begin(&walk);
        (void)folder_step(w, entries);
        folder_end(w);
    }
    folder_end(NULL);
    struct folder_walk walk = walk_of(&met, root);
    walk.root = "/nowhere/at all";
    assert_null(folder_begin(&walk));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_left_in_the_middle),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
