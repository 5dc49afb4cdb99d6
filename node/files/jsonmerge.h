/* Starling: two versions of a JSON document that were written apart become one, with the last version that both writers knew. Pure: the same
 * three texts give the same bytes on every server. The caller says which of the two counts as the later one (by its stamp): where both changed
 * the same value in different ways the later one's is taken, and the other's is counted, so that the caller can keep that version for people.
 *
 *   objects   by key; what only one of them added, changed or removed is as that one has it; removed by one and changed by the other: it stays
 *   arrays of objects that all have an id (JSONMERGE_IDS: a string or an integer, none twice)
 *             by id, as objects; what is new in either stays, the earlier one's first. New on both sides under the same numbers, counted on from the
 *             highest: these are different things, and the later one's are counted on behind the earlier one's
 *   other arrays   both changed other parts of it, or both added at the same place: both; else the later one's
 *   else      the one that changed it; both: the later one's
 *
 * Written as the later one is: indent, separators, escapes, newline at the end. Numbers keep their value, and integers beyond 64 bits, keys that
 * appear twice and what is no JSON are ERR_MALFORMED: then the two versions are not merged at all. */
#ifndef NODE_FILES_JSONMERGE_H
#define NODE_FILES_JSONMERGE_H

#include <stddef.h>
#include <stdint.h>

#define JSONMERGE_BYTES_MAX (16u << 20) /* of each text */
#define JSONMERGE_DEPTH_MAX 256

struct json_text {
    const char *p; /* NULL: there is none (no common version) */
    size_t len;
};

/* *out: to be freed. *lost: values of the earlier one that are not in it. 0, ERR_MALFORMED, ERR_TOOBIG, ERR_NOMEM. */
int jsonmerge(struct json_text base, struct json_text earlier, struct json_text later, char **out, size_t *out_len, uint32_t *lost);

#endif
