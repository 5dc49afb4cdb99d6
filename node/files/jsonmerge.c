#include "node/files/jsonmerge.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/buf.h"
#include "proto/err.h"

static const char *const ids[] = {"id", "_id", "uuid", "guid", "uid", "key"};

struct merging {
    uint32_t lost;
    bool failed; /* no memory */
};

static json_t *merge(struct merging *m, json_t *base, json_t *a, json_t *b);

static bool same(json_t *x, json_t *y) { return x == y || (x != NULL && y != NULL && json_equal(x, y)); }

/* Takes a value that is owned elsewhere. */
static void put(struct merging *m, json_t *object, const char *key, json_t *value) {
    if (json_object_set_new(object, key, value) != 0)
        m->failed = true;
}

static void add(struct merging *m, json_t *array, json_t *value) {
    if (json_array_append_new(array, value) != 0)
        m->failed = true;
}

/* ---- objects */

/* mine: the value where only one side has it. NULL: it goes. */
static json_t *of_one_side(json_t *base, json_t *mine) { return same(base, mine) ? NULL : json_incref(mine); }

static json_t *merge_objects(struct merging *m, json_t *base, json_t *a, json_t *b) {
    json_t *out = json_object(), *value;
    const char *key;
    if (out == NULL) {
        m->failed = true;
        return NULL;
    }
    json_object_foreach(a, key, value) {
        json_t *was = json_object_get(base, key), *other = json_object_get(b, key);
        json_t *result = other != NULL ? merge(m, was, value, other) : of_one_side(was, value);
        if (result != NULL)
            put(m, out, key, result);
    }
    json_object_foreach(b, key, value) {
        json_t *result = json_object_get(a, key) != NULL ? NULL : of_one_side(json_object_get(base, key), value);
        if (result != NULL)
            put(m, out, key, result);
    }
    return out;
}

/* ---- arrays of things that have ids */

/* The ids of an array as an object: id as text → element. NULL: not all of them have one, or some have the same. */
static json_t *index_of(struct merging *m, json_t *array, const char *name) {
    json_t *index = json_object(), *value;
    size_t i;
    char text[32];
    if (index == NULL)
        m->failed = true;
    json_array_foreach(array, i, value) {
        json_t *id = json_object_get(value, name);
        const char *key = json_string_value(id);
        if (json_is_integer(id)) {
            snprintf(text, sizeof text, "#%lld", (long long)json_integer_value(id));
            key = text;
        } else if (key != NULL && (key[0] == '#' || strlen(key) != json_string_length(id))) {
            key = NULL; /* it could be taken for a number: not such an array */
        }
        if (key == NULL || json_object_get(index, key) != NULL || json_object_set(index, key, value) != 0) {
            json_decref(index);
            return NULL;
        }
    }
    return index;
}

static const char *key_of(json_t *element, const char *name, char text[32]) {
    json_t *id = json_object_get(element, name);
    if (!json_is_integer(id))
        return json_string_value(id);
    snprintf(text, 32, "#%lld", (long long)json_integer_value(id));
    return text;
}

static json_t *element_of(json_t *index, json_t *element, const char *name) {
    char text[32];
    return json_object_get(index, key_of(element, name, text));
}

/* New integers that are counted on from the highest of what was there: how many; 0: they are not such. */
static json_int_t counted(json_t *array, const char *name, json_t *was, json_int_t *top) {
    const char *key;
    json_t *value;
    size_t i;
    json_int_t count = 0, most = 0;
    *top = 0;
    json_object_foreach(was, key, value) {
        json_int_t id = json_integer_value(json_object_get(value, name));
        *top = id > *top ? id : *top;
    }
    json_array_foreach(array, i, value) {
        json_t *id = json_object_get(value, name);
        if (!json_is_integer(id))
            return 0;
        if (json_object_size(was) == 0 && json_integer_value(id) == 0)
            *top = -1; /* counted from 0 */
    }
    json_array_foreach(array, i, value) {
        json_int_t id = json_integer_value(json_object_get(value, name));
        if (element_of(was, value, name) != NULL)
            continue;
        if (id <= *top)
            return 0;
        count++;
        most = id > most ? id : most;
    }
    if (*top > INT64_MAX / 2)
        return 0;                            /* nobody counts that far, and behind it there are no more numbers */
    return most == *top + count ? count : 0; /* none twice, all above top: so these are the next ones */
}

/* The later one's new things get the numbers behind the earlier one's. */
static json_t *count_on(struct merging *m, json_t *b, const char *name, json_t *was, json_int_t by) {
    json_t *out = json_array(), *value;
    size_t i;
    json_array_foreach(b, i, value) {
        bool fresh = element_of(was, value, name) == NULL;
        json_t *copy = fresh ? json_copy(value) : json_incref(value);
        if (fresh && copy != NULL)
            put(m, copy, name, json_integer(json_integer_value(json_object_get(value, name)) + by));
        add(m, out, copy);
    }
    return out;
}

/* An array with its elements by id, and where each is. */
struct side {
    json_t *array, *index, *places;
};

static void side_init(struct merging *m, struct side *s, json_t *array, const char *name) {
    char text[32];
    s->array = array;
    s->index = index_of(m, array, name);
    s->places = s->index == NULL ? NULL : json_object();
    for (size_t i = 0; s->places != NULL && i < json_array_size(array); i++)
        put(m, s->places, key_of(json_array_get(array, i), name, text), json_integer((json_int_t)i));
}

static void side_release(struct side *s) {
    json_decref(s->index);
    json_decref(s->places);
}

static bool has(const struct side *s, json_t *value, const char *name) { return element_of(s->index, value, name) != NULL; }

/* Are those that both have in another order? */
static bool reordered(json_t *base, const struct side *s, const char *name) {
    json_int_t before = -1;
    size_t i;
    json_t *value;
    json_array_foreach(base, i, value) {
        json_t *place = element_of(s->places, value, name);
        if (place == NULL)
            continue;
        if (json_integer_value(place) < before)
            return true;
        before = json_integer_value(place);
    }
    return false;
}

static void put_element(struct merging *m, const char *name, json_t *was, const struct side *a, const struct side *b, json_t *value,
                        json_t *out) {
    json_t *base = element_of(was, value, name), *x = element_of(a->index, value, name), *y = element_of(b->index, value, name);
    json_t *result = x != NULL && y != NULL ? merge(m, base, x, y) : of_one_side(base, x != NULL ? x : y);
    if (result != NULL)
        add(m, out, result);
}

/* What only `second` has behind `anchor` (NULL: at its front), up to the next one that both have. */
static void put_group(struct merging *m, const char *name, json_t *was, const struct side *a, const struct side *b,
                      const struct side *first, json_t *anchor, json_t *out) {
    const struct side *second = first == a ? b : a;
    size_t i = anchor == NULL ? 0 : (size_t)json_integer_value(element_of(second->places, anchor, name)) + 1;
    for (; i < json_array_size(second->array) && !has(first, json_array_get(second->array, i), name); i++)
        put_element(m, name, was, a, b, json_array_get(second->array, i), out);
}

/* In the order of one side, the later one's if only that has another order than before. What only the other one has comes behind what it
 * follows there; where both have something new at one place, the earlier one's comes first. */
static json_t *in_order(struct merging *m, const char *name, json_t *was, const struct side *a, const struct side *b, bool by_later) {
    const struct side *first = by_later ? b : a, *second = by_later ? a : b;
    json_t *out = json_array(), *value, *anchor = NULL;
    size_t i;
    if (by_later)
        put_group(m, name, was, a, b, first, NULL, out);
    json_array_foreach(first->array, i, value) {
        bool both = has(second, value, name);
        if (both && !by_later)
            put_group(m, name, was, a, b, first, anchor, out);
        put_element(m, name, was, a, b, value, out);
        if (both && by_later)
            put_group(m, name, was, a, b, first, value, out);
        anchor = both ? value : anchor;
    }
    if (!by_later)
        put_group(m, name, was, a, b, first, anchor, out);
    return out;
}

static json_t *merge_named(struct merging *m, const char *name, json_t *base, json_t *a, json_t *b) {
    struct side x, y;
    json_t *was = index_of(m, base, name), *renumbered = NULL, *out = NULL, *value;
    const char *key;
    side_init(m, &x, a, name);
    side_init(m, &y, b, name);
    if (was != NULL && x.places != NULL && y.places != NULL) {
        json_int_t top, count;
        json_object_foreach(x.index, key, value) {
            if (json_object_get(was, key) == NULL && same(value, json_object_get(y.index, key)))
                json_object_set(was, key, value); /* as if it had been there */
        }
        if ((count = counted(a, name, was, &top)) > 0 && counted(b, name, was, &top) > 0) {
            renumbered = count_on(m, b, name, was, count);
            side_release(&y);
            side_init(m, &y, renumbered, name);
        }
        if (y.places != NULL)
            out = in_order(m, name, was, &x, &y, reordered(base, &y, name) && !reordered(base, &x, name));
    }
    side_release(&x);
    side_release(&y);
    json_decref(renumbered);
    json_decref(was);
    return out;
}

static json_t *merge_by_id(struct merging *m, json_t *base, json_t *a, json_t *b) {
    json_t *out = NULL;
    for (size_t i = 0; i < sizeof ids / sizeof *ids && out == NULL && !m->failed; i++)
        out = merge_named(m, ids[i], base, a, b);
    return out;
}

/* ---- other arrays: what each changed is one stretch of the base */

struct stretch {
    size_t from, to;  /* of the base: replaced */
    size_t with, end; /* of the side: by this */
};

static struct stretch changed(json_t *base, json_t *side) {
    size_t n = json_array_size(base), k = json_array_size(side), front = 0, back = 0;
    while (front < n && front < k && same(json_array_get(base, front), json_array_get(side, front)))
        front++;
    while (back < n - front && back < k - front && same(json_array_get(base, n - 1 - back), json_array_get(side, k - 1 - back)))
        back++;
    return (struct stretch){front, n - back, front, k - back};
}

static void add_range(struct merging *m, json_t *out, json_t *from, size_t first, size_t end) {
    for (size_t i = first; i < end; i++)
        add(m, out, json_incref(json_array_get(from, i)));
}

static json_t *merge_arrays(struct merging *m, json_t *base, json_t *a, json_t *b) {
    json_t *none = json_array(), *out;
    if (!json_is_array(base))
        base = none;
    out = merge_by_id(m, base, a, b);
    struct stretch x = changed(base, a), y = changed(base, b);
    bool a_first = x.to <= y.from, b_first = y.to <= x.from && !a_first;
    if (out == NULL && (a_first || b_first)) {
        json_t *p = a_first ? a : b, *q = a_first ? b : a;
        struct stretch one = a_first ? x : y, two = a_first ? y : x;
        out = json_array();
        add_range(m, out, base, 0, one.from);
        add_range(m, out, p, one.with, one.end);
        add_range(m, out, base, one.to, two.from);
        add_range(m, out, q, two.with, two.end);
        add_range(m, out, base, two.to, json_array_size(base));
    }
    if (out == NULL && !m->failed) {
        m->lost++;
        out = json_incref(b);
    }
    json_decref(none);
    return out;
}

static json_t *merge(struct merging *m, json_t *base, json_t *a, json_t *b) {
    if (same(a, b) || same(base, b))
        return json_incref(a);
    if (same(base, a))
        return json_incref(b);
    if (json_is_object(a) && json_is_object(b))
        return merge_objects(m, json_is_object(base) ? base : NULL, a, b);
    if (json_is_array(a) && json_is_array(b))
        return merge_arrays(m, base, a, b);
    m->lost++;
    return json_incref(b);
}

/* ---- writing: jansson's own writer makes 0.1 to 0.10000000000000001, and knows no tabs */

struct form {
    size_t indent; /* 0: one line */
    char fill;     /* ' ' or '\t' */
    bool spaced;   /* ", " and ": " in one line */
    bool newline;  /* at the end */
    size_t flags;  /* of strings */
};

static struct form form_of(struct json_text t) {
    struct form f = {.fill = ' ', .flags = JSON_ENCODE_ANY};
    const char *line = memchr(t.p, '\n', t.len), *end = t.p + t.len;
    f.newline = t.len > 0 && end[-1] == '\n';
    if (line != NULL && line + 1 < end && (line[1] == ' ' || line[1] == '\t')) {
        f.fill = line[1];
        while (line + 1 + f.indent < end && line[1 + f.indent] == f.fill && f.indent < 16)
            f.indent++;
    }
    bool ascii = true, escaped = false;
    for (const char *p = t.p; p < end; p++) {
        ascii = ascii && (signed char)*p >= 0;
        if (*p == '\\' && p + 1 < end) {
            escaped = escaped || p[1] == 'u';
            f.flags |= p[1] == '/' ? JSON_ESCAPE_SLASH : 0;
            p++;
        } else if ((*p == ',' || *p == ':') && p + 1 < end && p[1] == ' ') {
            f.spaced = true;
        }
    }
    if (ascii && escaped)
        f.flags |= JSON_ENSURE_ASCII;
    return f;
}

static void put_text(struct buf *out, const char *s) { buf_append(out, s, strlen(s)); }

static void put_line(struct buf *out, const struct form *f, unsigned depth) {
    if (f->indent == 0)
        return;
    put_text(out, "\n");
    for (size_t i = 0; i < f->indent * depth; i++)
        buf_append(out, &f->fill, 1);
}

static void put_real(struct buf *out, double v) {
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    put_text(out, text);
    if (strpbrk(text, ".e") == NULL)
        put_text(out, ".0");
}

static void put_scalar(struct buf *out, const struct form *f, json_t *v) {
    if (json_is_real(v)) {
        put_real(out, json_real_value(v));
        return;
    }
    char *text = json_dumps(v, f->flags);
    if (text == NULL)
        out->failed = ERR_NOMEM;
    else
        put_text(out, text);
    free(text);
}

static void put_value(struct buf *out, const struct form *f, json_t *v, unsigned depth) {
    const char *key;
    json_t *value;
    size_t i, n = 0;
    bool object = json_is_object(v);
    if (!object && !json_is_array(v)) {
        put_scalar(out, f, v);
        return;
    }
    put_text(out, object ? "{" : "[");
    if (object) {
        json_object_foreach(v, key, value) {
            put_text(out, n++ == 0 ? "" : f->spaced && f->indent == 0 ? ", " : ",");
            put_line(out, f, depth + 1);
            json_t *name = json_string(key);
            put_scalar(out, f, name);
            json_decref(name);
            put_text(out, f->spaced || f->indent > 0 ? ": " : ":");
            put_value(out, f, value, depth + 1);
        }
    } else {
        json_array_foreach(v, i, value) {
            put_text(out, n++ == 0 ? "" : f->spaced && f->indent == 0 ? ", " : ",");
            put_line(out, f, depth + 1);
            put_value(out, f, value, depth + 1);
        }
    }
    if (n > 0)
        put_line(out, f, depth);
    put_text(out, object ? "}" : "]");
}

/* ---- */

static unsigned depth_of(struct json_text t) {
    unsigned depth = 0, most = 0;
    bool string = false;
    for (size_t i = 0; i < t.len; i++) {
        if (string && t.p[i] == '\\')
            i++;
        else if (t.p[i] == '"')
            string = !string;
        else if (!string && (t.p[i] == '{' || t.p[i] == '['))
            most = ++depth > most ? depth : most;
        else if (!string && (t.p[i] == '}' || t.p[i] == ']'))
            depth -= depth > 0;
    }
    return most;
}

static json_t *parse(struct json_text t) {
    json_error_t error;
    if (t.len > JSONMERGE_BYTES_MAX || depth_of(t) > JSONMERGE_DEPTH_MAX)
        return NULL;
    return json_loadb(t.p, t.len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
}

int jsonmerge(struct json_text base, struct json_text earlier, struct json_text later, char **out, size_t *out_len, uint32_t *lost) {
    struct merging m = {0};
    json_t *was = base.p == NULL ? NULL : parse(base), *a = parse(earlier), *b = parse(later), *result = NULL;
    struct buf text;
    int r = earlier.len > JSONMERGE_BYTES_MAX || later.len > JSONMERGE_BYTES_MAX ? ERR_TOOBIG : ERR_MALFORMED;
    buf_init(&text, 4 * (size_t)JSONMERGE_BYTES_MAX);
    if (a != NULL && b != NULL) { /* a base that is no JSON is none */
        result = merge(&m, was, a, b);
        r = m.failed || result == NULL ? ERR_NOMEM : 0;
    }
    if (r == 0) {
        struct form f = form_of(later);
        put_value(&text, &f, result, 0);
        put_text(&text, f.newline ? "\n" : "");
        r = text.failed;
    }
    *lost = m.lost;
    *out = r == 0 ? (char *)text.data : NULL;
    *out_len = r == 0 ? text.len : 0;
    if (r != 0)
        buf_release(&text);
    json_decref(was);
    json_decref(a);
    json_decref(b);
    json_decref(result);
    return r;
}
