/* Starling tests: a SQLite VFS, "frozen", whose clock stands still, so that notes carry one time and stamps are Lamport clocks above it. */
#ifndef TESTS_MODEL_FROZEN_H
#define TESTS_MODEL_FROZEN_H

#define FROZEN_VFS "frozen"

void frozen_register(void);

#endif
