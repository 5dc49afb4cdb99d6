/* Text of CREATE statements, where SQLite has nothing else to tell by: constraints, and the definition of a column. */
#include "node/store/ddl.h"

#include <ctype.h>
#include <string.h>

static bool is_word(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || (c & 0x80); }

/* Behind the token at p: a quoted name or string, a word, a space or comment (nothing of which counts), or one character. */
const char *ddl_behind_token(const char *p, bool *counts) {
    *counts = true;
    if (p[0] == '-' && p[1] == '-') {
        *counts = false;
        return p + strcspn(p, "\n");
    }
    if (p[0] == '/' && p[1] == '*') {
        const char *end = strstr(p + 2, "*/");
        *counts = false;
        return end ? end + 2 : p + strlen(p);
    }
    if (*p == '\'' || *p == '"' || *p == '`' || *p == '[') {
        const char close = *p == '[' ? ']' : *p, *end = p + 1;
        while (*end && (*end != close || (close != ']' && end[1] == close)))
            end += *end == close ? 2 : 1;
        return *end ? end + 1 : end;
    }
    const char *end = p;
    while (is_word(*end))
        end++;
    *counts = !strchr(" \t\r\n\f", *p);
    return end > p ? end : p + 1;
}

/* Words in one case, parted by one space, quoted text as it is. */
void ddl_put_words(sqlite3_str *str, const char *from, const char *to) {
    bool counts;
    for (const char *p = from, *end; p < to; p = end) {
        end = ddl_behind_token(p, &counts);
        bool word = is_word(*p);
        for (; p < end && counts; p++)
            sqlite3_str_appendchar(str, 1, word && *p >= 'A' && *p <= 'Z' ? (char)(*p + 'a' - 'A') : *p);
        if (counts)
            sqlite3_str_appendchar(str, 1, ' ');
    }
}

/* Behind the parenthesis that closes the one at p. */
const char *ddl_behind_parentheses(const char *p) {
    bool counts;
    for (int depth = 0; *p;) {
        depth += *p == '(' ? 1 : *p == ')' ? -1 : 0;
        p = ddl_behind_token(p, &counts);
        if (!depth)
            break;
    }
    return p;
}

/* Is this token the name, in whatever quotes? */
static bool is_name(const char *p, const char *end, const char *name) {
    bool quoted = *p == '\'' || *p == '"' || *p == '`' || *p == '[';
    const char close = *p == '[' ? ']' : *p;
    size_t n = 0, len = strlen(name);
    for (p += quoted, end -= quoted && end > p; p < end; p++, n++) {
        if (n == len || sqlite3_strnicmp(p, name + n, 1) != 0)
            return false;
        p += quoted && *p == close && close != ']';
    }
    return n == len;
}

const char *ddl_column(const char *create, const char *name, size_t *len) {
    bool counts;
    const char *p = create, *end;
    while (*p && *p != '(')
        p = ddl_behind_token(p, &counts);
    while (*p == '(' || *p == ',') {
        do
            p = ddl_behind_token(p, &counts); /* the parenthesis or comma, then what does not count */
        while (ddl_behind_token(p, &counts) && *p && !counts);
        const char *from = p;
        bool found = is_name(p, ddl_behind_token(p, &counts), name);
        for (end = p; *p && *p != ',' && *p != ')'; end = p)
            p = *p == '(' ? ddl_behind_parentheses(p) : ddl_behind_token(p, &counts);
        *len = (size_t)(end - from);
        if (found)
            return from;
    }
    return NULL;
}
