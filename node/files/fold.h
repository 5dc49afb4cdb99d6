/* Starling node: names that some file systems take for one: without regard to case (those of Windows and of cameras, ext4 where it is asked for), or to how
 * accents are written (those of Apple). Here they are two files; there the later one would be put in place of the other. */
#ifndef NODE_FILES_FOLD_H
#define NODE_FILES_FOLD_H

#include <locale.h>
#include <stdint.h>

/* Equal for paths that such a file system takes for one (and, by chance, once in 2^64). Bytes that are no UTF-8 count as they are. */
uint64_t fold_hash(locale_t letters, const char *path);
locale_t fold_open(void); /* what it knows letters by: for freelocale(). 0: no memory */

#endif
