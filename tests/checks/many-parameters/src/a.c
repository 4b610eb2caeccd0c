/* SPDX-License-Identifier: Apache-2.0 */
/* Seven pass, eight do not; function pointers count once. */
int seven(int a, int b, int c, int d, int e, int f, int (*g)(int, int));
static int eight(int a, int b, int c, int d, int e, int f, int g, int h)
{
    return call(a, b, c, d, e, f, g, h, 9);
}
