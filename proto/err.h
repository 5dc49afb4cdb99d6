/* Starling: error codes. One list gives the enum and the texts. Functions return 0 or one of these;
 * libraries never print, the edges (main, CLI) do. */
#ifndef PROTO_ERR_H
#define PROTO_ERR_H

#define ERR_MAP(X)                                                                                                                         \
    X(INTERNAL, "internal error")                                                                                                          \
    X(NOMEM, "out of memory")                                                                                                              \
    X(TOOBIG, "larger than its bound")                                                                                                     \
    X(MALFORMED, "malformed bytes")                                                                                                        \
    X(FORMAT, "written by another format version")                                                                                         \
    X(SIGNATURE, "signature or hash chain does not match")                                                                                 \
    X(ORDER, "out of order")                                                                                                               \
    X(NOTFOUND, "not found")                                                                                                               \
    X(BUSY, "busy, try again later")                                                                                                       \
    X(IO, "input or output failed")                                                                                                        \
    X(FULL, "no space left")                                                                                                               \
    X(NOTDB, "not a SQLite database")                                                                                                      \
    X(CORRUPT, "the database is corrupt")                                                                                                  \
    X(DENIED, "permission denied")                                                                                                         \
    X(READONLY, "read-only")                                                                                                               \
    X(SCHEMA, "schema changed")                                                                                                            \
    X(UNSUPPORTED, "not supported")                                                                                                        \
    X(CONSTRAINT, "a constraint would break")                                                                                              \
    X(USAGE, "wrong usage")                                                                                                                \
    X(CLOSED, "closed")

enum err {
    ERR_OK = 0,
    ERR_BASE = -1000,
#define X(name, text) ERR_##name,
    ERR_MAP(X)
#undef X
};

/* The text for a code; never NULL. */
const char *err_text(int code);

#endif
