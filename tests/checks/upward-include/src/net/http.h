/* SPDX-License-Identifier: Apache-2.0 */
/* Fine: lower layers. */
#include "base/b.h"
