#include "node/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/statefile.h"
#include "proto/err.h"

bool secret_parse(const char *text, struct secure_secret *out) {
    size_t len = 0, text_len = strcspn(text, " \t\r\n");
    *out = (struct secure_secret){.closed = true};
    return text_len == 2 * SECURE_SECRET_BYTES && text[text_len + strspn(text + text_len, " \t\r\n")] == 0 &&
           sodium_hex2bin(out->psk, sizeof(out->psk), text, text_len, NULL, &len, NULL) == 0 && len == sizeof(out->psk);
}

const char *secret_text(const struct secure_secret *secret, char out[SECRET_TEXT_BYTES]) {
    out[0] = 0;
    return secret->closed ? sodium_bin2hex(out, SECRET_TEXT_BYTES, secret->psk, sizeof(secret->psk)) : out;
}

bool secret_equal(const struct secure_secret *a, const struct secure_secret *b) {
    return a->closed == b->closed && (!a->closed || sodium_memcmp(a->psk, b->psk, sizeof(a->psk)) == 0);
}

static void hash_of(const struct secure_secret *secret, uint8_t out[SECRET_HASH_BYTES]) {
    static const char purpose[] = "starling: which secret";
    crypto_generichash(out, SECRET_HASH_BYTES, secret->psk, secret->closed ? sizeof(secret->psk) : 0, (const uint8_t *)purpose,
                       sizeof(purpose) - 1);
}

int secret_read(const char *file, struct secure_secret *out, char *why, size_t why_len) {
    char text[256];
    *out = (struct secure_secret){0};
    if (file[0] == 0)
        return 0;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0) {
        snprintf(why, why_len, "cannot read the secret file %s: %s: make one with `starling keygen > FILE`, the same on all servers", file,
                 strerror(error));
        return ERR_IO;
    }
    text[n] = 0;
    bool good = strlen(text) == (size_t)n && secret_parse(text, out);
    sodium_memzero(text, sizeof(text));
    if (good)
        return 0;
    snprintf(why, why_len, "%s holds no cluster secret: make one with `starling keygen > FILE`, the same on all servers", file);
    return ERR_MALFORMED;
}

bool secret_exposed(const char *file) {
    struct stat st;
    return file[0] != 0 && stat(file, &st) == 0 && (st.st_mode & (S_IRGRP | S_IROTH)) != 0;
}

/* ---- STATE/secret.json */

static bool is_replaced(const struct secrets *s, const uint8_t hash[SECRET_HASH_BYTES]) {
    for (uint32_t i = 0; i < s->replaced_count; i++)
        if (memcmp(s->replaced[i], hash, SECRET_HASH_BYTES) == 0)
            return true;
    return false;
}

static void add_replaced(struct secrets *s, const struct secure_secret *secret) {
    uint8_t hash[SECRET_HASH_BYTES];
    hash_of(secret, hash);
    if (is_replaced(s, hash))
        return;
    if (s->replaced_count == REPLACED_MAX)
        memmove(s->replaced[0], s->replaced[1], (size_t)(--s->replaced_count) * SECRET_HASH_BYTES);
    memcpy(s->replaced[s->replaced_count++], hash, SECRET_HASH_BYTES);
}

static json_t *secret_json(const struct secure_secret *secret) {
    char text[SECRET_TEXT_BYTES];
    json_t *json = secret->closed ? json_string(secret_text(secret, text)) : json_null();
    sodium_memzero(text, sizeof(text));
    return json;
}

static int save(const struct secrets *s) {
    json_t *list = json_array(), *file = json_pack("{s:o, s:o}", "secret", secret_json(&s->keys->secrets[0]), "replaced", list);
    if (secrets_changing(s))
        json_object_set_new(file, "old", secret_json(&s->keys->secrets[1]));
    for (uint32_t i = 0; i < s->replaced_count; i++) {
        char hex[2 * SECRET_HASH_BYTES + 1];
        json_array_append_new(list, json_string(sodium_bin2hex(hex, sizeof(hex), s->replaced[i], SECRET_HASH_BYTES)));
    }
    return statefile_write(s->path, file);
}

static bool secret_unjson(const json_t *json, struct secure_secret *out) {
    *out = (struct secure_secret){0};
    return json_is_null(json) || (json_is_string(json) && secret_parse(json_string_value(json), out));
}

/* What rotations have made, if the file's secret is one of theirs. */
static void take_rotated(struct secrets *s, const json_t *file) {
    struct secure_secret first, second;
    const json_t *old = json_object_get(file, "old"), *hex;
    size_t i;
    if (!secret_unjson(json_object_get(file, "secret"), &first) || (old != NULL && !secret_unjson(old, &second)))
        return;
    json_array_foreach(json_object_get(file, "replaced"), i, hex) {
        size_t len = 0;
        const char *text = json_string_value(hex);
        if (text != NULL && s->replaced_count < REPLACED_MAX &&
            sodium_hex2bin(s->replaced[s->replaced_count], SECRET_HASH_BYTES, text, strlen(text), NULL, &len, NULL) == 0 &&
            len == SECRET_HASH_BYTES)
            s->replaced_count++;
    }
    if (!secret_equal(&first, &s->keys->secrets[0]) && !is_replaced(s, s->given)) {
        s->replaced_count = 0;
        return;
    }
    s->keys->secrets[0] = first;
    s->keys->secrets_count = 1;
    if (old != NULL)
        s->keys->secrets[s->keys->secrets_count++] = second;
}

int secrets_open(struct secrets *s, struct secure_keys *keys, const char *file, const char *state, char *why, size_t why_len) {
    bool bad = false;
    *s = (struct secrets){.keys = keys};
    int r = secret_read(file, &keys->secrets[0], why, why_len);
    if (r != 0)
        return r;
    keys->secrets_count = 1;
    hash_of(&keys->secrets[0], s->given);
    if (asprintf(&s->path, "%s/secret.json", state) < 0) {
        s->path = NULL;
        snprintf(why, why_len, "out of memory");
        return ERR_NOMEM;
    }
    json_t *rotated = statefile_read(s->path, &bad);
    if (bad) { /* to go on without the secret that it held would open the cluster, or end its membership */
        snprintf(why, why_len, "%s could not be read and was put aside: give the cluster's secret with --secret-file and start again",
                 s->path);
        return ERR_MALFORMED;
    }
    if (rotated != NULL)
        take_rotated(s, rotated);
    json_decref(rotated);
    return 0;
}

void secrets_close(struct secrets *s) {
    free(s->path);
    *s = (struct secrets){0};
}

/* ---- changing */

bool secrets_changing(const struct secrets *s) { return s->keys->secrets_count > 1; }

/* Takes `next` if it can be made durable. */
static int commit(struct secrets *s, const struct secure_keys *next) {
    struct secure_keys before = *s->keys;
    *s->keys = *next;
    int r = save(s);
    if (r != 0)
        *s->keys = before;
    sodium_memzero(&before, sizeof(before));
    return r;
}

int secrets_change(struct secrets *s, const struct secure_secret *to) {
    struct secure_keys next = *s->keys;
    uint8_t hash[SECRET_HASH_BYTES];
    hash_of(to, hash);
    if (secret_equal(to, &next.secrets[0]))
        return 0;
    if (is_replaced(s, hash))
        return ERR_ORDER;
    if (!secrets_changing(s)) {
        next.secrets[1] = next.secrets[0];
        next.secrets_count = 2;
    } else if (memcmp(to->psk, next.secrets[0].psk, sizeof(to->psk)) < 0) {
        return ERR_BUSY; /* two changes at once: everywhere the same one wins */
    }
    next.secrets[0] = *to;
    add_replaced(s, &s->keys->secrets[0]);
    int r = commit(s, &next);
    sodium_memzero(&next, sizeof(next));
    return r;
}

int secrets_finish(struct secrets *s) {
    struct secure_keys next = *s->keys;
    next.secrets_count = 1;
    next.secrets[1] = (struct secure_secret){0};
    int r = commit(s, &next);
    sodium_memzero(&next, sizeof(next));
    return r;
}

bool secrets_given_anew(struct secrets *s, const struct secure_secret *fresh) {
    uint8_t hash[SECRET_HASH_BYTES];
    hash_of(fresh, hash);
    bool news = memcmp(hash, s->given, sizeof(hash)) != 0 && !is_replaced(s, hash);
    memcpy(s->given, hash, sizeof(hash));
    return news;
}
