/* SPDX-License-Identifier: Apache-2.0 */
/* strcpy( and malloc( in comments are no calls. */
int a(struct ops *ops, char *to, const char *from)
{
    strcpy(to, from);
    char *copy = strdup(from);
    ops->free(copy);
    ops.malloc(1);
    mem_free(copy);
    free(copy);
    say("atoi(1)");
    return atoi(from);
}
typedef struct thing { int x; } thing;
