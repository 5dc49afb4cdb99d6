/* Starling node: the cluster's secret, over restarts and while it is changed.
 *
 * --secret-file FILE   64 hex digits and a newline, as `starling keygen` makes them; none: an open cluster
 * STATE/secret.json    what `rotate` has made of it: {"secret": hex|null, "old": hex|null (only while it is changed), "replaced": [hash…]}
 *
 * A file that was replaced by a rotation stands for what replaced it, so that nobody has to write into it. A file with another
 * secret than any of these is somebody's decision: what rotations have made is then forgotten. */
#ifndef NODE_SECRET_H
#define NODE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/secure.h"

#define SECRET_TEXT_BYTES (2 * SECURE_SECRET_BYTES + 1)
#define SECRET_HASH_BYTES 16
#define REPLACED_MAX 32

struct secrets {
    struct secure_keys *keys; /* whose secrets these are: the first is used, both are accepted */
    char *path;
    uint8_t given[SECRET_HASH_BYTES]; /* what the file said when it was last read */
    uint8_t replaced[REPLACED_MAX][SECRET_HASH_BYTES];
    uint32_t replaced_count;
};

/* From text as in the file. False: it is none. */
bool secret_parse(const char *text, struct secure_secret *out);
const char *secret_text(const struct secure_secret *secret, char out[SECRET_TEXT_BYTES]); /* "" for none */
bool secret_equal(const struct secure_secret *a, const struct secure_secret *b);
/* Reads FILE ("": none). 0, or an error with one line in why. */
int secret_read(const char *file, struct secure_secret *out, char *why, size_t why_len);

bool secret_exposed(const char *file); /* others than its owner can read it */

int secrets_open(struct secrets *s, struct secure_keys *keys, const char *file, const char *state, char *why, size_t why_len);
void secrets_close(struct secrets *s);
bool secrets_changing(const struct secrets *s);
/* From now on `to` is used, and what was used is accepted, until secrets_finish(). Durable when it returns 0. ERR_ORDER: a rotation has
 * replaced it already. ERR_BUSY: another change is under way that goes before this one. */
int secrets_change(struct secrets *s, const struct secure_secret *to);
int secrets_finish(struct secrets *s);
/* The file was read again and says `fresh`: is that news? */
bool secrets_given_anew(struct secrets *s, const struct secure_secret *fresh);

#endif
