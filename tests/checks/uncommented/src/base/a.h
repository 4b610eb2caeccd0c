/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations with and without comments. */
#define MACRO(x) \
    do_it(x);

/* Has one. */
int a_fine(void);
int a_sister(void);

int a_bare(int x);

int *a_two_lines(int x,
                 int y);

int a_behind(void); /* short and clear */

typedef int (*a_callback)(int);

static inline int a_inline(void)
{
    return 0;
}

struct thing {
    int (*call)(int);
};

extern int a_variable;
