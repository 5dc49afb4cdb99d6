/* Starling node: the files of the instance folder, the same everywhere. Its thread watches and reads the folder, writes what changed into the index
 * (index.h, a replicated database), has what others changed fetched (content.h), and puts it in its place. The loop thread only passes words
 * to and fro: everything here is called on it. */
#ifndef NODE_FILES_FILES_H
#define NODE_FILES_FILES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define FILES_DB ".starling/files" /* the index as a database on the wire: no file in an instance can have this name */
#define FILES_SHOWN "files"        /* and what people see where others stand under the name of their database */

struct config;
struct node;
struct files;
struct database;

/* Prepares the index and has it served. 0, or an error: why has a line. */
int files_open(struct files **out, struct node *n, char *why, size_t why_len);
/* Asks the thread to end; files_running() is false once it has. */
void files_stop(struct files *f);
bool files_running(const struct files *f);
void files_close(struct files *f); /* closes the handles of the loop; then files_free() once they are closed */
void files_free(struct files *f);
bool files_index(const struct files *f, const struct database *db); /* is this its database? */

/* The index is served: it may be written from now on. */
void files_opened(struct files *f);
void files_joining(struct files *f); /* somebody says whom to join */
/* A `watch` object of the index, which may come before the change can be seen there; and: what was told until now can be seen. */
void files_changed(struct files *f, const json_t *change);
void files_settled(struct files *f);
/* Makes of it what `watch` shows of a file; NULL: nothing. */
json_t *files_watched(const json_t *change);
/* What fresh says of files holds from now on; it is taken out of it. */
void files_reload(struct files *f, struct config *fresh);
/* Looks whether others are met: what this server finds from then on is no first version. */
void files_tick(struct files *f);
/* {"ask": "list"|"status"|"restore"|…}: answered with node_answer(number). Takes question. */
void files_ask(struct files *f, uint64_t number, json_t *question);

struct files_summary {
    uint64_t count, bytes, pending, conflicts, namesakes; /* namesakes: names that some file systems take for one */
    char digest[33];
    char error[300]; /* "": none */
    bool looked;     /* the folder was read once since the start */
    bool blind;      /* no more folders can be watched */
};
void files_summary(struct files *f, struct files_summary *out);
json_t *files_status(struct files *f); /* the section of `status` */

#endif
