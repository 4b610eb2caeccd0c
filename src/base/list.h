/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked lists. A state is a list: an object is in exactly one, named after its
 * state. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

/* The struct of `type` whose `member` is at `ptr`. */
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

/* Walk a list; `it` may be removed while walking. */
#define list_each(it, head)                                                                        \
    for (struct list *it = (head)->next, *next_##it = it->next; it != (head);                      \
         it = next_##it, next_##it = it->next)

/* An empty list, or an item that is in none. */
static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

/* Whether the list has no items (or the item is in no list). */
static inline bool list_is_empty(const struct list *l)
{
    return l->next == l;
}

/* Add at the tail. The item must be in no list. */
static inline void list_push(struct list *head, struct list *item)
{
    item->prev = head->prev;
    item->next = head;
    head->prev->next = item;
    head->prev = item;
}

/* Add at the front. */
static inline void list_push_front(struct list *head, struct list *item)
{
    list_push(head->next, item);
}

/* Take an item out of whatever list it is in; harmless when it is in none. */
static inline void list_remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list_init(item);
}

/* The first item or NULL. */
static inline struct list *list_first(const struct list *head)
{
    return head->next == head ? NULL : head->next;
}

#endif
