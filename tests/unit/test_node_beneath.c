/* Files beneath a folder: what a hostile name, a link or a special file would reach elsewhere, and a folder that is swapped for a link all the time. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/files/beneath.h"

struct place {
    char folder[64];
    int root;
};

static void put(const char *folder, const char *name, const char *text) {
    char path[200];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

static int make(void **state) {
    struct place *p = calloc(1, sizeof(*p));
    char path[128];
    strncpy(p->folder, "/tmp/starling-beneath-XXXXXX", sizeof(p->folder) - 1);
    assert_non_null(mkdtemp(p->folder));
    snprintf(path, sizeof(path), "%s/in", p->folder);
    assert_int_equal(mkdir(path, 0700), 0);
    p->root = beneath_root(path);
    assert_true(p->root >= 0);
    put(p->folder, "secret", "outside");
    put(path, "a", "inside");
    assert_int_equal(mkdirat(p->root, "d", 0700), 0);
    put(path, "d/b", "inside");
    *state = p;
    return 0;
}

static int clean(void **state) {
    struct place *p = *state;
    char command[128];
    close(p->root);
    snprintf(command, sizeof(command), "%s", p->folder);
    pid_t child = fork();
    if (child == 0) {
        execlp("rm", "rm", "-rf", command, (char *)NULL);
        _exit(1);
    }
    free(p);
    return 0;
}

static void names(void **state) {
    char deep[2 * BENEATH_DEPTH_MAX + 8] = "", longest[300];
    (void)state;
    static const char *const GOOD[] = {"a", "a/b", "...", "a..", ".a", "\xff\xfe", " ", "a\nb", "a/..b/c"};
    static const char *const BAD[] = {"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "./a", "a/./b"};
    for (size_t i = 0; i < sizeof(GOOD) / sizeof(GOOD[0]); i++)
        assert_true(beneath_path_ok(GOOD[i], strlen(GOOD[i])));
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++)
        assert_false(beneath_path_ok(BAD[i], strlen(BAD[i])));
    assert_false(beneath_path_ok("a\0b", 3));
    for (int i = 0; i < BENEATH_DEPTH_MAX; i++)
        memcpy(deep + 2 * i, "a/", 3);
    assert_false(beneath_path_ok(deep, strlen(deep)));
    assert_true(beneath_path_ok(deep, strlen(deep) - 1));
    memset(longest, 'n', sizeof(longest));
    assert_true(beneath_path_ok(longest, 255));
    assert_false(beneath_path_ok(longest, 256));
    assert_string_equal(beneath_name("a/b"), "b");
    assert_string_equal(beneath_name("b"), "b");
}

static void look(const struct place *p, const char *path, struct stat *st) {
    int fd = beneath_look(p->root, path);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, st), 0);
    close(fd);
}

static void reads(void **state) {
    struct place *p = *state;
    struct stat st;
    char text[16] = "";
    int fd = beneath_read(p->root, "d/b", &st);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, text, sizeof(text)), 6);
    assert_int_equal(st.st_size, 6);
    close(fd);
    assert_int_equal(beneath_read(p->root, "none", NULL), -ENOENT);
    assert_int_equal(beneath_read(p->root, "a/b", NULL), -ENOTDIR);
    assert_int_equal(beneath_read(p->root, "d", NULL), -EINVAL);
    look(p, "", &st);
    assert_true(S_ISDIR(st.st_mode));
}

static void links_are_not_followed(void **state) {
    struct place *p = *state;
    struct stat st;
    char target[16];
    assert_int_equal(symlinkat("../secret", p->root, "leak"), 0);
    assert_int_equal(symlinkat("..", p->root, "up"), 0);
    assert_int_equal(symlinkat("d", p->root, "side"), 0);
    assert_int_equal(beneath_read(p->root, "leak", NULL), -EINVAL);
    assert_true(beneath_read(p->root, "up/secret", NULL) < 0);
    assert_true(beneath_read(p->root, "side/b", NULL) < 0);
    assert_true(beneath_read(p->root, "../secret", NULL) < 0);
    assert_true(beneath_read(p->root, "d/../../secret", NULL) < 0);
    look(p, "leak", &st);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(beneath_link(p->root, "leak", target, sizeof(target)), 9);
    assert_string_equal(target, "../secret");
    assert_int_equal(beneath_link(p->root, "leak", target, 9), -ENAMETOOLONG);
    const char *name;
    assert_true(beneath_parent(p->root, "up/new", true, &name) < 0);
    assert_true(beneath_parent(p->root, "side/new/x", true, &name) < 0);
}

static void special_files_are_not_opened(void **state) {
    struct place *p = *state;
    assert_int_equal(mkfifoat(p->root, "fifo", 0600), 0);
    assert_int_equal(beneath_read(p->root, "fifo", NULL), -EINVAL); /* and does not wait */
}

static void folders_are_made(void **state) {
    struct place *p = *state;
    struct stat st;
    const char *name;
    assert_int_equal(beneath_parent(p->root, "x/y/z", false, &name), -ENOENT);
    int fd = beneath_parent(p->root, "x/y/z", true, &name);
    assert_true(fd >= 0);
    assert_string_equal(name, "z");
    close(fd);
    look(p, "x/y", &st);
    assert_int_equal(beneath_parent(p->root, "a/y", true, &name), -ENOTDIR);
}

static void links_inside(void **state) {
    (void)state;
    assert_true(beneath_link_inside("a", "b"));
    assert_true(beneath_link_inside("d/a", "../b"));
    assert_true(beneath_link_inside("d/e/a", ".././../b/c"));
    assert_false(beneath_link_inside("d/a", "./x/../../b"));
    assert_false(beneath_link_inside("a", "self/../b")); /* where self is a link to ".": beside the root */
    assert_false(beneath_link_inside("a", "x/.."));
    assert_false(beneath_link_inside("d/e/a", "x/../../b")); /* where x is a link to the root */
    assert_false(beneath_link_inside("a", "../b"));
    assert_false(beneath_link_inside("d/a", "../../b"));
    assert_false(beneath_link_inside("d/a", "x/../../../d/b"));
    assert_false(beneath_link_inside("a", "/etc/passwd"));
    assert_false(beneath_link_inside("a", ""));
    assert_true(beneath_link_inside("a", "..."));
}

/* The line of what is not as it should be; 0: all is. */
static int leads_out(int root) {
    static const char *const OUT[] = {"leak", "up/secret", "side/b", "../secret", "d/../../secret"};
    const char *name;
    for (size_t i = 0; i < sizeof(OUT) / sizeof(OUT[0]); i++)
        if (beneath_read(root, OUT[i], NULL) >= 0)
            return __LINE__;
    if (beneath_look(root, "..") >= 0 || beneath_look(root, "d/..") >= 0 || beneath_look(root, "a/../d") >= 0)
        return __LINE__;
    if (beneath_parent(root, "up/new", true, &name) >= 0 || beneath_parent(root, "side/new/x", true, &name) >= 0 ||
        beneath_parent(root, "../new/x", true, &name) >= 0)
        return __LINE__;
    if (beneath_read(root, "d/b", NULL) < 0 || beneath_read(root, "a", NULL) < 0 || beneath_look(root, "") < 0)
        return __LINE__;
    return beneath_parent(root, "new/folder/file", true, &name) < 0 ? __LINE__ : 0;
}

/* As where the kernel has no openat2, or a sandbox refuses it. */
static bool forget_openat2(int error) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void nothing_leads_out(void **state) {
    static const int ERRORS[] = {0, ENOSYS, EPERM};
    struct place *p = *state;
    int status;
    assert_int_equal(symlinkat("../secret", p->root, "leak"), 0);
    assert_int_equal(symlinkat("..", p->root, "up"), 0);
    assert_int_equal(symlinkat("d", p->root, "side"), 0);
    for (size_t i = 0; i < sizeof(ERRORS) / sizeof(ERRORS[0]); i++) {
        pid_t child = fork();
        if (child == 0) {
            int line = ERRORS[i] != 0 && !forget_openat2(ERRORS[i]) ? 0 : leads_out(p->root); /* no filters here: nothing to see */
            if (line != 0)
                printf("line %d, after error %d\n", line, ERRORS[i]);
            fflush(stdout);
            _exit(line != 0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

struct swapping {
    int root;
    atomic_bool stop;
};

static void *swap(void *arg) {
    struct swapping *s = arg;
    while (!atomic_load(&s->stop))
        (void)syscall(SYS_renameat2, s->root, "d", s->root, "evil", 2 /* RENAME_EXCHANGE */);
    return NULL;
}

/* A folder and a link that leads out change places all the time: what is read is inside, or nothing. */
static void a_folder_that_is_swapped(void **state) {
    struct place *p = *state;
    struct swapping s = {.root = p->root};
    pthread_t thread;
    int inside = 0;
    put(p->folder, "b", "outside");
    assert_int_equal(symlinkat("..", p->root, "evil"), 0);
    assert_int_equal(pthread_create(&thread, NULL, swap, &s), 0);
    for (int i = 0; i < 20000; i++) {
        char text[16] = "";
        int fd = beneath_read(p->root, "d/b", NULL);
        if (fd < 0)
            continue;
        assert_true(read(fd, text, sizeof(text) - 1) > 0);
        assert_string_equal(text, "inside");
        inside++;
        close(fd);
    }
    atomic_store(&s.stop, true);
    pthread_join(thread, NULL);
    assert_true(inside > 0);
}

#define PLACED(f) cmocka_unit_test_setup_teardown(f, make, clean)
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),        PLACED(reads),
        PLACED(links_are_not_followed), PLACED(special_files_are_not_opened),
        PLACED(folders_are_made),       cmocka_unit_test(links_inside),
        PLACED(nothing_leads_out),      PLACED(a_folder_that_is_swapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
