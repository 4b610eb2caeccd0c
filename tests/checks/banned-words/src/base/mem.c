/* SPDX-License-Identifier: Apache-2.0 */
/* The one place that may. */
void *mem_alloc(unsigned long size) { return malloc(size); }
