/* Starling node: what the parts of the files thread share. See files.h for what it is about; each part says what it owns.
 *
 *   a path, from the disk to the others                        from the others to the disk
 *   watch.c  inotify, walk.c ─▶ item_touch()                   files.c  the index changed ─▶ item_show()
 *   take.c   still? read, hashed (content) ─▶ commit           place.c  fetched (content) ─▶ into its place
 *   clash.c  both changed: who stays, and the copy of the other
 *
 * An item is a path with something to do. It is queued by the time when it is due, or waits for content. */
#ifndef NODE_FILES_ENGINE_H
#define NODE_FILES_ENGINE_H

#include <uthash.h>
#include <uv.h>

#include "node/config_files.h"
#include "node/files/beneath.h"
#include "node/files/content.h"
#include "node/files/files.h"
#include "node/files/index.h"
#include "node/files/rules.h"
#include "node/held.h"

enum { ROOT_INSTANCE, ROOT_KEPT };

#define AGAIN_MS 100
#define RESTLESS_AFTER 3 /* looks at a file that is being written, until nobody waits for it any more */

struct item {
    char *path;
    uint64_t due_ms, noted, noted_ms; /* noted: in the order in which they came */
    bool disk, show;                  /* look at the disk; show what the index says */
    bool queued, restless;
    bool touched; /* while it was being read: to be looked at again */
    bool named;   /* namesake.c has heard of it */
    bool told;    /* that something happened there, by whom that can be taken from: if nothing is there, it was deleted */
    unsigned tries;
    uint64_t scan, want, want_ms;     /* numbers of content's, 0 none; since when it is wanted */
    uint8_t hash[CONTENT_HASH_BYTES]; /* that is wanted */
    bool rotten;                      /* what is there is not what was read, and nobody wrote it: to be fetched again */
    uint8_t rot[CONTENT_HASH_BYTES];  /* its hash */
    struct item *prev, *next;
    UT_hash_handle hh, hh_want;
};

struct content_door;
struct hooks;
struct lates;
struct root;
struct namesakes;
struct rereads;
struct watch;
struct walk;
struct gone;

struct barrier {
    uint64_t number, noted;
    bool walking; /* noted is what it will be at the end of the walk that is needed */
    struct barrier *next;
};

struct engine {
    struct files *files;
    uv_loop_t loop;
    uv_timer_t tick, walking, daily, telling;
    uv_prepare_t prepare;
    uv_poll_t poll, mounts;
    bool polling, stopping;

    struct index *ix;
    struct content *content;
    struct content_door *door; /* to the peers */
    struct held *held;
    struct rules rules;
    struct root *roots;          /* extra folders */
    pthread_rwlock_t roots_lock; /* the pool's threads look for files while the configuration is read again */
    uint32_t roots_count;
    char **rules_extra, roots_error[300];
    int near; /* a folder, held open for a moment: root_forget() */
    char near_path[BENEATH_PATH_MAX + 1];
    struct files_policy policy;
    struct hooks *hooks;
    struct lates *lates;
    struct rereads *rereads;
    struct namesakes *namesakes;
    char *instance, *state, *name;
    uint8_t id[NODE_ID_BYTES];
    uint64_t still_ms, bandwidth_kib;
    enum version_rank rank, rank_begun; /* of a first version now; and of what the first walk found, whomever we met meanwhile */
    uint64_t tidied_ms;
    uint64_t met_ms;              /* when that was; 0: before the start, or not yet */
    uint64_t noted_first;         /* the last item that the first walk noted */
    bool opened, served;          /* all parts of it; the index as a database */
    bool looked, recovered;       /* recovered: what a crash left */
    bool met_noted;               /* durable, that is */
    uint64_t walked, walk_needed; /* walks over everything that have ended; the one until whose end nobody knows what is there */
    bool judged, judged_noted;    /* what was missing when this server started; durable, that is */
    bool halting;                 /* a folder was halted, and that is not durable yet */
    bool forgot, thorough;        /* content does not know all that was read; the walk asks it of each file */
    uint64_t forgot_ms;           /* when it was last asked so */
    uint64_t held_until;          /* the index cannot be written: nothing is done before */
    int root, staging, kept;      /* descriptors */
    struct stat state_stat;

    struct item *items, *wants, *queue;
    uint64_t noted_last;
    uint32_t scans; /* of content's, under way for items */
    struct watch *watch;
    struct walk *walk;
    struct gone *gone;
    struct barrier *barriers;
    uint64_t error_item;               /* whose error it is */
    char unread[300], unread_new[300]; /* what cannot be read; as of the walk that is under way */
    char error[300], lost[300];        /* lost: a version that no server has whom we reach */
    char unwritten[200];               /* why the index cannot be */
    uint64_t conflicts;
    bool summary_due;
    uint64_t done, rested; /* what came and went: at the last look; when memory was given back */
};

/* ---- files.c */
__attribute__((format(printf, 3, 4))) void engine_say(struct engine *e, enum log_level level, const char *format, ...);
#define UNREAD_DENIED "it cannot be read: give the user who runs starlingd the right to"
void engine_unread(struct engine *e, const char *path, const char *why); /* it stands here, and is not replicated */
void engine_read(struct engine *e, const char *path);                    /* now it can be */
void engine_answer(struct engine *e, uint64_t number, json_t *answer);
/* The index could be written (0), or not: whatever was done since the last commit is found again, after a while, and until then nothing is begun. */
void engine_written(struct engine *e, int error);
void engine_trouble(struct engine *e, uint64_t item, const char *text); /* of the item with this number; "": it is over */
const char *engine_error(const struct engine *e);                       /* what is to be told first; "": nothing */
bool engine_takes(struct engine *e, const char *path, bool folder);
bool engine_wants(struct engine *e, const char *path, const struct version *v); /* is that to be here? */

/* ---- engine.c */
int engine_open(struct engine *e, char *why, size_t why_len); /* 0, or an error; then engine_shut(): it can be tried again */
void engine_begin(struct engine *e);                          /* open, and its index served: what is in the folder? */
void engine_shut(struct engine *e);
void engine_close(struct engine *e); /* for good, and the loop with it */

/* ---- items.c */
void item_touch(struct engine *e, const char *path, uint64_t in_ms); /* something happened there: what is gone was deleted */
void item_look(struct engine *e, const char *path, uint64_t in_ms); /* what is there? If nothing is, a walk judges whether it was deleted */
void item_show(struct engine *e, const char *path, uint64_t in_ms); /* the index may say something new */
struct item *item_find(struct engine *e, const char *path);
void item_rotten(struct engine *e, const char *path, const uint8_t hash[CONTENT_HASH_BYTES]);
void item_again(struct engine *e, struct item *it, uint64_t in_ms);
void items_arm(struct engine *e); /* what is queued is worked on when it is due */
void items_free(struct engine *e);

/* ---- roots.c: where a path of the index is; else as those of beneath.h */
int root_look(struct engine *e, const char *path); /* on any thread */
int root_stat(struct engine *e, const char *path, struct stat *st);
int root_read(const struct engine *e, const char *path);
int root_parent(struct engine *e, const char *path, bool make, const char **name);
void root_forget(struct engine *e); /* the folder that is held open: it may be another one now */
int root_link(const struct engine *e, const char *path, char *out, size_t out_len);
bool root_link_inside(const struct engine *e, const char *path, const char *target);
bool root_extra(const char *path);  /* in an extra folder */
bool root_itself(const char *path); /* an extra folder: neither made nor removed */
int roots_open(struct engine *e);   /* as the configuration says now; 0 or ERR_NOMEM */
void roots_close(struct engine *e);
void roots_each(struct engine *e, void (*each)(struct engine *e, const char *path));

/* ---- watch.c */
int watch_open(struct engine *e);
void watch_close(struct engine *e);
void watch_drain(struct engine *e);                    /* what inotify has to say now */
void watch_folder(struct engine *e, const char *path); /* from now on */
bool watch_blind(const struct engine *e);              /* changes are found by looking alone */

/* ---- walk.c */
int walk_open(struct engine *e);
void walk_close(struct engine *e);
void walk_begin(struct engine *e, const char *folder); /* what is in a folder, "": everything, and what is not any more */
void walk_all(struct engine *e, bool trusting);        /* trusting: what is gone was deleted */
void walk_need(struct engine *e, bool trusting);       /* only one that begins now knows what is there */
bool walk_names(struct engine *e);                     /* namesakes are counted; false: later */
void walk_mounts(struct engine *e);                    /* something was mounted, or unmounted */
void walk_arm(struct engine *e, uint64_t ms);

/* ---- gone.c */
int gone_open(struct engine *e);
void gone_close(struct engine *e);
void gone_begin(struct engine *e, bool trusting);   /* a walk over everything */
void gone_moved(struct engine *e);                  /* it has found one file under another name */
void gone_missing(void *ctx, const char *path);     /* this one, which was on disk: is it missing? ctx: the engine */
void gone_judge(struct engine *e);                  /* what is missing was deleted, or its folder is halted */
void gone_lift(struct engine *e);                   /* a folder that was halted goes on when most of it is back */
void gone_left(struct engine *e, const char *path); /* that folder was moved away */
bool gone_unmounted(struct engine *e,
                    const char *path); /* path is gone: is that because what was mounted above it is not? Then that folder is halted. */
bool gone_emptied(struct engine *e,
                  const char *folder); /* a folder is on another device than it was: halted, if all that was in it is gone */

/* ---- take.c */
void take_look(struct engine *e, struct item *it);
/* What stands there is not for us: a database, no file at all, or it cannot be looked at. *told: which; NULL where that is nobody's trouble. */
bool take_leaves(struct engine *e, const char *path, const char **told);
void take_scanned(struct engine *e, const struct content_scanned *s);
/* This is on disk now, made after what `before` (NULL: nothing) holds: into the index. */
int take_commit(struct engine *e, const char *path, struct version *v, const struct disk *before, const struct content_stamp *stamp,
                int mode);

/* ---- place.c */
void place_look(struct engine *e, struct item *it);
void place_staged(struct engine *e, const struct content_staged *staged, uint32_t count);
/* Puts the file `staged` of the staging folder at folder/name (path), in place of what is there: `was` (NULL: nobody knows). expected, if not NULL:
 * only if that is what is there; VERSION_GONE: nothing. 0, -EBUSY: it was not, and nothing has changed; or -errno. The staged file is gone in any case.
 * *put: what it looked like. */
int place_put(struct engine *e, const char *path, int folder, const char *name, const char *staged, const struct version *was,
              const struct disk *expected, struct content_stamp *put);

/* Is what is wanted for it at no server that we reach, for some time already? */
bool place_lost(struct engine *e, const struct item *it);
void place_lost_look(struct engine *e); /* brings e->lost up to date */

/* ---- kept.c */
#define KEPT_NAME_MAX 72
#define KEPT_BASE "-base" /* in the names of fuse.c */

struct taken { /* out of its place: a file in a folder */
    int folder;
    char name[KEPT_NAME_MAX];
};

int kept_open(struct engine *e); /* the folders; 0 or -errno */
/* A name for what is at path while it is out of its place. beside: in a folder of the instance. */
void kept_taken_name(const char *path, bool beside, char out[KEPT_NAME_MAX]);
int kept_take(struct engine *e, int folder, const char *name, const char *path, struct taken *t); /* out of its place; 0 or -errno */
/* Moves it to the kept versions: v (NULL: nobody knows). was: what it looked like when it was read (NULL: never mind). 0 or -errno. */
int kept_put(struct engine *e, int folder, const char *name, const char *path, const struct version *v, const struct content_stamp *was);
bool kept_as_version(const struct stat *st, const struct version *v);
int kept_copy(int from, const char *name, int to, const char *as); /* whole and durable; 0, -EBUSY: it was written meanwhile; or -errno */
bool kept_leftover(const char *name);                              /* a name of ours beside the files: a crash left it there */
void kept_recover(struct engine *e, int folder, const char *name); /* such a file */
void kept_tidy(struct engine *e); /* forgets the oldest versions; finds what a crash left, and who wrote late */

/* ---- hooks.c */
int hooks_open(struct engine *e);
void hooks_run(struct engine *e, const char *path, const char *op); /* a change of others is in its place; op: "change" or "delete" */
void hooks_stop(struct engine *e);
void hooks_close(struct engine *e); /* after its handles */

/* ---- late.c */
int late_open(struct engine *e);
void late_close(struct engine *e); /* after its handles */
void late_note(struct engine *e, const char *path, const char *kept,
               const struct content_stamp *stamp); /* it was replaced, and stands there now */
void late_scanned(struct engine *e, const struct content_scanned *s);

/* ---- namesake.c */
int namesakes_open(struct engine *e);
void namesakes_close(struct engine *e);                  /* after its handles */
void namesakes_came(struct engine *e, const char *path); /* the index has it now, and had it not */
void namesakes_went(struct engine *e, const char *path);
bool namesakes_count(struct engine *e);     /* some more; false: all are counted */
uint64_t namesakes(const struct engine *e); /* names that several paths have */
bool namesakes_has(const struct engine *e, const char *path);
void namesakes_list(struct engine *e, uint32_t max, index_each each, void *ctx); /* their paths */
/* The path under which what is at `path` is known here already, as the file system takes both for one. NULL: none; free it. */
char *namesake_here(struct engine *e, const char *path, const struct stat *st);

/* ---- reread.c */
int reread_open(struct engine *e);
void reread_close(struct engine *e);
json_t *reread_ask(struct engine *e, const char *token); /* {"over", "read", "total", "rotten"}; begins it */
bool reread_scanned(struct engine *e, const struct content_scanned *s);

bool hooks_match(const char *pattern, const char *path);

/* ---- fuse.c */
bool fuse_wanted(const struct engine *e, const char *path);
void fuse_note(struct engine *e, const char *path,
               const struct version *v); /* this version is on disk: a copy for later merges, if wanted */
enum fused { FUSED_NOT, FUSED_OURS, FUSED_THEIRS, FUSED_NEW };
/* Merges what is on disk with the staged content of `theirs`: not at all; it comes to ours, or theirs; or what staging/out holds now. */
enum fused fuse(struct engine *e, const char *path, const struct version *theirs, const struct disk *ours, int staged_dir,
                const char *staged, const char *out);

/* ---- clash.c */
/* `loser` was not known to whoever made `winner`: a copy of it beside it, and an entry in the list. copies: false: only listed. */
int clash_note(struct engine *e, const char *path, const struct version *winner, const struct version *loser, bool copies);
/* v is a copy of what this server wrote, and nobody has: if it wrote another one since, before anybody had fetched the first, that was no loss, and there is nothing
 * to copy. True: so it was, and the copy is taken back. */
bool clash_withdraw(struct engine *e, const char *copy, const struct version *v);
/* The name of a copy: "name (conflict 2026-11-21 pit).ext"; n > 1: another one of that day. */
void clash_name(const char *path, const struct version *loser, int n, char *out, size_t out_len);

/* ---- ask.c */
json_t *ask_answer(struct engine *e, uint64_t number, const json_t *question); /* NULL: it is answered later */
void ask_barriers(struct engine *e);
bool ask_path(const json_t *j, char out[BENEATH_PATH_MAX + 1]); /* text, or {"base64"}; false: no clean path */

#endif
