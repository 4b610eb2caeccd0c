/* SPDX-License-Identifier: Apache-2.0 */
/* Stray whitespace. */
int x; 
	int y;
/* TODO: later */
