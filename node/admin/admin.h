/* Starling: the local socket that the CLI speaks to (STATE/admin.sock, 0600).
 *
 * One request a connection: a JSON object on one line, {"verb": "status", "args": {…}} (at most 64 KiB). The answer is JSON lines:
 *   {"progress": {"text": "…", "done": n, "total": n|null}}   any number, for terminals; scripts ignore it
 *   {"item": {…}}                                              a stream's next object (watch, log)
 *   {"exit": 0|1|2, "result": {…}, "error": "one line"}        the last line; result and error may be absent
 * A stream ends when either side closes. A client that does not read is cut off after 4 MiB of queue.
 *
 * Verbs and args: status · members · peers {"do":"list"|"allow"|"deny"|"block"|"unblock","what":[…]} ·
 * rotate {"secret"} or {"finish":true} · join {"addresses":[…]} · leave · forget {"node"} · wait {"converged":bool,"members":n,"timeout_s":n} ·
 * verify {"db":…,"table":…} · tables {"db":…} · log {"n":n,"follow":bool,"db":…} · watch {"filters":["db","db/table"]} · pause · resume ·
 * conflicts {"id"} · resolve {"id","keep":"winner"|"loser"} or {"id","set":{"column":value…}} · why {"db","table","key":value|[…],"column"} ·
 * files {"ask":"list"|"status"} or {"ask":"restore","path","version","list"} or {"ask":"accept","path"} · doctor · stop (ends the daemon; used by uninstall). */
#ifndef NODE_ADMIN_ADMIN_H
#define NODE_ADMIN_ADMIN_H

#define ADMIN_REQUEST_MAX 65536

struct node;
struct admin;

/* Binds STATE/admin.sock (relative to its folder: a socket path has 107 bytes) and serves on the node's loop. */
int admin_open(struct admin **out, struct node *node);
void admin_close(struct admin *a);
/* Removes the socket's file, for an end that does not close. */
void admin_unlink(struct admin *a);

#endif
