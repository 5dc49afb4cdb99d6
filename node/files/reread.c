/* Starling node: reading everything again, for `verify`: what looks as it did when it was read may have rotted since. What has another content under the same stamp was
 * written by nobody: it is said, and fetched anew from whoever has it; what stood there is kept.
 *
 * A reading has a token, given by who asks: he asks again until it is at its end. Who comes while another one's is under way waits for his own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/files/engine.h"
#include "proto/err.h"

#define AT_ONCE 8
#define TOKEN_MAX 40

struct rereads {
    struct engine *e;
    char token[TOKEN_MAX], finished[TOKEN_MAX];
    bool active, last; /* last: no more pages */
    char *after, *paths[INDEX_PAGE];
    uint32_t paths_count;
    uint64_t under_way[AT_ONCE]; /* numbers of scans */
    uint64_t read, total, rotten;
};

static void page_one(void *ctx, const char *path) {
    struct rereads *r = ctx;
    if ((r->paths[r->paths_count] = strdup(path)) != NULL)
        r->paths_count++;
}

static bool next_path(struct rereads *r, char **path) {
    if (r->paths_count == 0 && !r->last)
        r->last = index_on_disk(r->e->ix, &r->after, page_one, r) <= 0;
    if (r->paths_count == 0)
        return false;
    *path = r->paths[--r->paths_count];
    return true;
}

static void finish(struct rereads *r) {
    snprintf(r->finished, sizeof(r->finished), "%s", r->token);
    free(r->after);
    r->after = NULL;
    r->active = false;
    engine_say(r->e, LOG_INFO, "%llu files were read again: %llu were not what they had been", (unsigned long long)r->read,
               (unsigned long long)r->rotten);
}

/* Begins as many as there may be; with none left and none under way it is over. */
static void go_on(struct rereads *r) {
    bool busy = false;
    struct disk d;
    for (int i = 0; i < AT_ONCE; i++) {
        char *path;
        while (r->under_way[i] == 0 && next_path(r, &path)) {
            if (index_disk(r->e->ix, path, &d) == 1 && d.version.kind == VERSION_FILE)
                r->under_way[i] = content_scan(r->e->content, ROOT_INSTANCE, path); /* 0: it is read when it is looked at next */
            free(path);
        }
        busy = busy || r->under_way[i] != 0;
    }
    if (!busy)
        finish(r);
}

static void judge(struct rereads *r, const struct content_scanned *s) {
    struct engine *e = r->e;
    struct disk d;
    r->read++;
    if (s->error != 0 && s->error != ERR_NOTFOUND && s->error != ERR_BUSY) {
        engine_say(e, LOG_ERROR, "%s cannot be read: %s", s->path, err_text(s->error));
        r->rotten++;
    } else if (s->error != 0 || index_disk(e->ix, s->path, &d) != 1 || d.version.kind != VERSION_FILE ||
               memcmp(&d.stamp, &s->stamp, sizeof(d.stamp)) != 0) {
        item_look(e, s->path, 0); /* it was changed: in the usual way */
    } else if (memcmp(d.version.hash, s->hash, sizeof(s->hash)) != 0) {
        engine_say(e, LOG_ERROR, "%s: nobody wrote there, and its content is another one: the disk? It is fetched again", s->path);
        r->rotten++;
        item_rotten(e, s->path, s->hash);
    }
}

bool reread_scanned(struct engine *e, const struct content_scanned *s) {
    struct rereads *r = e->rereads;
    for (int i = 0; i < AT_ONCE; i++) {
        if (r->under_way[i] != s->number)
            continue;
        r->under_way[i] = 0;
        judge(r, s);
        go_on(r);
        return true;
    }
    return false;
}

json_t *reread_ask(struct engine *e, const char *token) {
    struct rereads *r = e->rereads;
    if (token == NULL || token[0] == 0 || strlen(token) >= TOKEN_MAX)
        return json_pack("{s:s}", "error", "what?");
    if (!r->active && strcmp(token, r->finished) != 0 && (r->after = strdup("")) != NULL) {
        snprintf(r->token, sizeof(r->token), "%s", token);
        r->active = true;
        r->last = false;
        r->read = r->rotten = 0;
        r->total = index_sums(e->ix)->files;
        go_on(r);
    }
    return json_pack("{s:b, s:I, s:I, s:I}", "over", strcmp(token, r->finished) == 0, "read", (json_int_t)r->read, "total",
                     (json_int_t)(r->total > r->read ? r->total : r->read), "rotten", (json_int_t)r->rotten);
}

int reread_open(struct engine *e) {
    if ((e->rereads = calloc(1, sizeof(*e->rereads))) == NULL)
        return ERR_NOMEM;
    e->rereads->e = e;
    return 0;
}

void reread_close(struct engine *e) {
    struct rereads *r = e->rereads;
    while (r != NULL && r->paths_count > 0)
        free(r->paths[--r->paths_count]);
    if (r != NULL)
        free(r->after);
    free(r);
    e->rereads = NULL;
}
