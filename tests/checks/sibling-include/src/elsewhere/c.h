/* SPDX-License-Identifier: Apache-2.0 */
/* A folder that no layer names. */
