/* Starling node: how the allocator keeps memory, and gives it back in quiet moments. */
#ifndef NODE_MEMORY_H
#define NODE_MEMORY_H

void memory_init(void);      /* before there are threads */
void memory_give_back(void); /* what is free in all arenas, and at the end of the calling thread's */

#endif
